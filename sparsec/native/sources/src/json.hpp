// JSON as Python writes it, NaN and Infinity included.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace sparsec::native {

class Json {
 public:
  enum class Kind { null, boolean, integer, real, text, list, object };

  // The value of a text; throws a Failure where it is none.
  static Json parse(std::string_view text);

  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::null; }
  bool is_text() const { return kind_ == Kind::text; }
  bool is_integer() const { return kind_ == Kind::integer; }
  bool is_list() const { return kind_ == Kind::list; }

  // The value in a type; throws a Failure where it is of another.
  std::int64_t integer() const;
  double real() const;
  bool boolean() const;
  const std::string &text() const;
  const std::vector<Json> &list() const;
  std::vector<std::int64_t> integers() const;
  const std::map<std::string, Json> &object() const;

  // A member of an object; throws a Failure where there is none. `find` gives nullptr instead.
  const Json &operator[](const std::string &name) const;
  const Json *find(const std::string &name) const;

 private:
  friend class JsonReader;
  Kind kind_ = Kind::null;
  std::int64_t integer_ = 0;
  double real_ = 0;
  std::string text_;
  std::vector<Json> list_;
  std::map<std::string, Json> object_;
};

}  // namespace sparsec::native
