#include "json.hpp"

#include <charconv>
#include <limits>

#include "error.hpp"

namespace sparsec::native {

namespace {
constexpr int kDeepest = 64;
[[noreturn]] void wrong() { fail(SPARSEC_ERROR_MODEL, "the model's plan is damaged; copy the bundle again"); }
}  // namespace

class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : at_(text.data()), end_(text.data() + text.size()) {}

  Json whole() {
    Json value = read(0);
    space();
    if (at_ != end_) wrong();
    return value;
  }

 private:
  void space() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) ++at_;
  }
  char peek() {
    space();
    if (at_ == end_) wrong();
    return *at_;
  }
  void expect(char wanted) {
    if (peek() != wanted) wrong();
    ++at_;
  }
  bool word(std::string_view wanted) {
    if (std::string_view(at_, static_cast<std::size_t>(end_ - at_)).substr(0, wanted.size()) != wanted) return false;
    at_ += wanted.size();
    return true;
  }

  Json read(int depth) {
    if (depth > kDeepest) wrong();
    Json value;
    switch (peek()) {
      case '{': object(value, depth); break;
      case '[': list(value, depth); break;
      case '"':
        value.kind_ = Json::Kind::text;
        value.text_ = text();
        break;
      default: scalar(value);
    }
    return value;
  }

  void object(Json &value, int depth) {
    value.kind_ = Json::Kind::object;
    expect('{');
    if (peek() == '}') {
      ++at_;
      return;
    }
    for (;;) {
      if (peek() != '"') wrong();
      std::string name = text();
      expect(':');
      value.object_[name] = read(depth + 1);
      if (peek() == '}') break;
      expect(',');
    }
    ++at_;
  }

  void list(Json &value, int depth) {
    value.kind_ = Json::Kind::list;
    expect('[');
    if (peek() == ']') {
      ++at_;
      return;
    }
    for (;;) {
      value.list_.push_back(read(depth + 1));
      if (peek() == ']') break;
      expect(',');
    }
    ++at_;
  }

  unsigned code() {
    unsigned value = 0;
    if (end_ - at_ < 4 || std::from_chars(at_, at_ + 4, value, 16).ptr != at_ + 4) wrong();
    at_ += 4;
    return value;
  }

  void append_utf8(std::string &out, unsigned point) {
    if (point < 0x80) {
      out += static_cast<char>(point);
    } else if (point < 0x800) {
      out += static_cast<char>(0xC0 | (point >> 6));
      out += static_cast<char>(0x80 | (point & 0x3F));
    } else if (point < 0x10000) {
      out += static_cast<char>(0xE0 | (point >> 12));
      out += static_cast<char>(0x80 | ((point >> 6) & 0x3F));
      out += static_cast<char>(0x80 | (point & 0x3F));
    } else {
      out += static_cast<char>(0xF0 | (point >> 18));
      out += static_cast<char>(0x80 | ((point >> 12) & 0x3F));
      out += static_cast<char>(0x80 | ((point >> 6) & 0x3F));
      out += static_cast<char>(0x80 | (point & 0x3F));
    }
  }

  void escaped(std::string &out) {
    if (at_ == end_) wrong();
    char kind = *at_++;
    switch (kind) {
      case 'n': out += '\n'; break;
      case 't': out += '\t'; break;
      case 'r': out += '\r'; break;
      case 'b': out += '\b'; break;
      case 'f': out += '\f'; break;
      case 'u': {
        unsigned point = code();
        if (point >= 0xD800 && point < 0xDC00 && word("\\u")) point = 0x10000 + ((point - 0xD800) << 10) + (code() - 0xDC00);
        append_utf8(out, point);
        break;
      }
      default: out += kind;
    }
  }

  std::string text() {
    expect('"');
    std::string out;
    for (;;) {
      if (at_ == end_) wrong();
      char each = *at_++;
      if (each == '"') return out;
      if (each == '\\') escaped(out);
      else out += each;
    }
  }

  void scalar(Json &value) {
    if (word("null")) return;
    if (bool truth = word("true"); truth || word("false")) {
      value.kind_ = Json::Kind::boolean;
      value.integer_ = truth;
      return;
    }
    value.kind_ = Json::Kind::real;
    if (word("NaN")) {
      value.real_ = std::numeric_limits<double>::quiet_NaN();
    } else if (word("Infinity")) {
      value.real_ = std::numeric_limits<double>::infinity();
    } else if (word("-Infinity")) {
      value.real_ = -std::numeric_limits<double>::infinity();
    } else {
      number(value);
    }
  }

  void number(Json &value) {
    const char *last = at_;
    bool whole = true;
    while (last != end_ && (std::string_view("+-.eE0123456789").find(*last) != std::string_view::npos)) {
      whole = whole && std::string_view(".eE").find(*last) == std::string_view::npos;
      ++last;
    }
    if (whole) {
      value.kind_ = Json::Kind::integer;
      if (auto found = std::from_chars(at_, last, value.integer_); found.ec != std::errc() || found.ptr != last) wrong();
    } else if (auto found = std::from_chars(at_, last, value.real_); found.ec != std::errc() || found.ptr != last) {
      wrong();
    }
    at_ = last;
  }

  const char *at_, *end_;
};

Json Json::parse(std::string_view text) { return JsonReader(text).whole(); }

std::int64_t Json::integer() const {
  if (kind_ != Kind::integer) wrong();
  return integer_;
}

double Json::real() const {
  if (kind_ == Kind::integer) return static_cast<double>(integer_);
  if (kind_ != Kind::real) wrong();
  return real_;
}

bool Json::boolean() const {
  if (kind_ != Kind::boolean) wrong();
  return integer_ != 0;
}

const std::string &Json::text() const {
  if (kind_ != Kind::text) wrong();
  return text_;
}

const std::vector<Json> &Json::list() const {
  if (kind_ != Kind::list) wrong();
  return list_;
}

std::vector<std::int64_t> Json::integers() const {
  std::vector<std::int64_t> found;
  for (const Json &each : list()) found.push_back(each.integer());
  return found;
}

const std::map<std::string, Json> &Json::object() const {
  if (kind_ != Kind::object) wrong();
  return object_;
}

const Json &Json::operator[](const std::string &name) const {
  const Json *found = find(name);
  if (found == nullptr) wrong();
  return *found;
}

const Json *Json::find(const std::string &name) const {
  auto found = object().find(name);
  return found == object_.end() ? nullptr : &found->second;
}

}  // namespace sparsec::native
