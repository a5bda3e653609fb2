#include "model.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

#include "error.hpp"
#include "sha256.hpp"
#include "signature.hpp"
#include "tensors.hpp"

namespace sparsec::native {

namespace {

constexpr char kMagic[9] = "SPARSECB";
constexpr std::uint64_t kVersion = 1;
constexpr std::size_t kHeader = 24, kDigest = 32;

[[noreturn]] void unreadable(const std::string &path) {
  fail(SPARSEC_ERROR_FILE, "cannot read " + path + ": " + std::strerror(errno));
}

std::uint64_t number(const std::uint8_t *bytes) {
  std::uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | bytes[i];
  return value;
}

}  // namespace

std::shared_ptr<const Model> Model::open(const std::string &path, const sparsec_options &options) {
  std::shared_ptr<Model> model(new Model());
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe is opened without a writer
  if (file < 0) unreadable(path);
  struct stat about{};
  if (fstat(file, &about) != 0 || !S_ISREG(about.st_mode)) {
    close(file);
    fail(SPARSEC_ERROR_FILE, "cannot read " + path + ": not a regular file");
  }
  model->bytes_ = static_cast<std::size_t>(about.st_size);
  void *mapping = model->bytes_ > 0 ? mmap(nullptr, model->bytes_, PROT_READ, MAP_PRIVATE, file, 0) : nullptr;
  close(file);
  if (mapping == MAP_FAILED) unreadable(path);
  if (mapping != nullptr) {
    model->memory_ = {mapping, [bytes = model->bytes_](void *all) { munmap(all, bytes); }};
    model->mapped_ = true;
  }
  model->check(path, options, options.signature != nullptr ? options.signature : path + ".sig");
  return model;
}

std::shared_ptr<const Model> Model::copy(const void *data, std::size_t bytes, const sparsec_options &options) {
  std::shared_ptr<Model> model(new Model());
  model->memory_ = lasting_memory(bytes);
  if (bytes > 0) std::memcpy(model->memory_.get(), data, bytes);
  model->bytes_ = bytes;
  if (options.public_key != nullptr && options.signature == nullptr) {
    fail(SPARSEC_ERROR_SIGNATURE, "a model in memory has no signature beside it; give its file in the options");
  }
  model->check("the model", options, options.signature != nullptr ? options.signature : "");
  return model;
}

void Model::check(const std::string &name, const sparsec_options &options, const std::string &signature) {
  const auto *data = static_cast<const std::uint8_t *>(memory_.get());
  if (bytes_ < kHeader + kDigest || std::memcmp(data, kMagic, 8) != 0) {
    fail(SPARSEC_ERROR_MODEL, name + " is not a model that `sparsec bundle` writes, or it is cut off");
  }
  if (options.public_key != nullptr) check_signature(data, bytes_, signature, options.public_key);
  if (number(data + 8) != kVersion) {
    fail(SPARSEC_ERROR_MODEL, name + " is of version " + std::to_string(number(data + 8)) + " and this library reads " +
                                  std::to_string(kVersion) + "; bundle the model again");
  }
  const std::size_t end = bytes_ - kDigest;
  const auto digest = sha256(data, end);
  if (!std::equal(digest.begin(), digest.end(), data + end)) {
    fail(SPARSEC_ERROR_MODEL, name + " is damaged; copy it again");
  }
  const std::uint64_t length = number(data + 16);
  if (length > end - kHeader || (kHeader + length) % kAlignment != 0) {
    fail(SPARSEC_ERROR_MODEL, name + " contradicts itself; bundle the model again");
  }
  start_ = kHeader + length;
  plan_ = Json::parse({reinterpret_cast<const char *>(data) + kHeader, length});
}

Model::Piece Model::piece(const Json &entry) const {
  const auto place = entry.integers();
  const std::size_t room = bytes_ - kDigest - start_;
  if (place.size() != 2 || place[0] < 0 || place[1] < 0 || static_cast<std::size_t>(place[0]) > room ||
      static_cast<std::size_t>(place[1]) > room - static_cast<std::size_t>(place[0]) || place[0] % kAlignment != 0) {
    fail(SPARSEC_ERROR_MODEL, "the model's plan contradicts itself; bundle the model again");
  }
  const auto *first = static_cast<const std::uint8_t *>(pieces_ != nullptr ? pieces_.get() : memory_.get());
  return {first + (pieces_ != nullptr ? 0 : start_) + place[0], static_cast<std::size_t>(place[1])};
}

void Model::settle() const {
  std::call_once(settled_, [this] {
    const std::size_t bytes = bytes_ - kDigest - start_;
    if (!mapped_ || bytes < kHugePage) return;
    auto copy = lasting_memory(bytes);
    auto *first = static_cast<std::uint8_t *>(memory_.get());
    std::memcpy(copy.get(), first + start_, bytes);
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE)), begin = (start_ + page - 1) / page * page;
    madvise(first + begin, bytes_ - begin, MADV_DONTNEED);  // what is read no more is the system's again
    pieces_ = std::move(copy);
  });
}

ffi::Object constant(const std::shared_ptr<const Model> &model, const Json &entry) {
  const auto shape = entry["shape"].integers();
  const auto type = static_cast<std::int32_t>(entry["dtype"].integer());
  const Model::Piece piece = model->piece(entry["data"]);
  if (piece.bytes != elements_of(shape) * sparsec_type_bytes(type)) {
    fail(SPARSEC_ERROR_MODEL, "an array of the model has another size than its shape; bundle the model again");
  }
  return ffi::tensor(const_cast<std::uint8_t *>(piece.data), type, shape, model);  // programs only read constants
}

}  // namespace sparsec::native
