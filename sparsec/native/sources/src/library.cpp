#include "library.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "error.hpp"

namespace sparsec::native {

namespace {

constexpr int kCpu = 1, kPooledAllocator = 2;  // DLPack's device type, TVM's allocator

// A file of its own folder, both of which go away with it; the system maps files only.
class TemporaryFile {
 public:
  explicit TemporaryFile(Model::Piece content) {
    const char *chosen = std::getenv("TMPDIR");
    folder_ = std::string(chosen != nullptr && *chosen != '\0' ? chosen : "/tmp") + "/sparsec-XXXXXX";
    if (mkdtemp(folder_.data()) == nullptr) refuse();
    path_ = folder_ + "/model.so";
    std::unique_ptr<std::FILE, int (*)(std::FILE *)> file(std::fopen(path_.c_str(), "wbx"), std::fclose);
    if (!file || std::fwrite(content.data, 1, content.bytes, file.get()) != content.bytes ||
        std::fflush(file.get()) != 0) {
      remove();
      refuse();
    }
  }
  ~TemporaryFile() { remove(); }
  TemporaryFile(const TemporaryFile &) = delete;
  TemporaryFile &operator=(const TemporaryFile &) = delete;
  const std::string &path() const { return path_; }
  const std::string &folder() const { return folder_; }

 private:
  void remove() {
    unlink(path_.c_str());
    rmdir(folder_.c_str());
  }
  [[noreturn]] void refuse() {
    fail(SPARSEC_ERROR_MACHINE, "cannot write " + folder_ + ": " + std::strerror(errno) +
                                    "; set TMPDIR to a folder with room that allows execution");
  }
  std::string folder_, path_;
};

// Let models' libraries find the functions of TVM's runtime, where this library was itself opened at run time.
void show_runtime() {
  static void *const shown = dlopen("libtvm_runtime.so", RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL);
  if (shown == nullptr) fail(SPARSEC_ERROR_MACHINE, std::string("TVM's runtime is not loaded: ") + dlerror());
}

}  // namespace

ffi::Object load_library(Model::Piece library) {
  show_runtime();
  static const ffi::Object load = ffi::global("ffi.ModuleLoadFromFile");
  const TemporaryFile file(library);
  try {
    return ffi::call(load, {ffi::text(file.path().c_str())});
  } catch (const Failure &failure) {
    fail(SPARSEC_ERROR_MACHINE, std::string("the model's library cannot be loaded: ") + failure.what() +
                                    "; set TMPDIR to another folder if " + file.folder() + " allows no execution");
  }
}

ffi::Object new_machine(const ffi::Object &library) {
  ffi::Object machine = ffi::call(ffi::function_of(library, "vm_load_executable"), {});
  ffi::call(ffi::function_of(machine, "vm_initialization"),
            {ffi::integer(kCpu), ffi::integer(0), ffi::integer(kPooledAllocator)});
  return machine;
}

ffi::Object bind_constants(const ffi::Object &machine, const std::string &entry, const std::string &name,
                           const std::vector<ffi::Object> &constants) {
  std::vector<TVMFFIAny> arguments = {ffi::text(entry.c_str()), ffi::text(name.c_str()), ffi::integer(1)};
  for (const ffi::Object &each : constants) arguments.push_back(each.any());
  ffi::call(ffi::function_of(machine, "save_function"), arguments);
  return ffi::function_of(machine, name.c_str());
}

}  // namespace sparsec::native
