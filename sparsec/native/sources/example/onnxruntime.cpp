// run_onnxruntime LIBONNXRUNTIME MODEL.onnx [CALLS]: runs a model by onnxruntime with sparsec's execution provider, on
// random inputs, and tells how long a call takes. `sparsec compile --as-onnx MODEL.onnx --ep-context` writes such models.
// run_onnxruntime LIBONNXRUNTIME MODEL.onnx --inputs A.bin B.bin -o Y.bin: on the bytes of files, one an input of
// float32; writes the first output's bytes.
#include "../src/onnxruntime/session_abi.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

using namespace sparsec::onnxruntime;

namespace {

constexpr const char *kRegistration = "sparsec";  // the name under which the library is registered
constexpr const char *kProvider = "SparsecExecutionProvider";
constexpr int kFloat = 1;  // the type of elements

const OrtApi *api = nullptr;

void check(OrtStatus *status) {
  if (status == nullptr) return;
  const std::string text = GetErrorMessage::call(api, static_cast<const OrtStatus *>(status));
  ReleaseStatus::call(api, status);
  throw std::runtime_error(text);
}

// What a function makes and another releases.
template <typename Releasing, typename T>
auto owned(T *made) {
  return std::shared_ptr<T>(made, [](T *each) { Releasing::call(api, each); });
}

void load(const char *path) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw std::runtime_error(dlerror());
  const auto base = reinterpret_cast<const OrtApiBase *(*)()>(dlsym(library, "OrtGetApiBase"));
  if (base == nullptr) throw std::runtime_error(std::string(path) + " is not onnxruntime's library");
  api = base()->GetApi(kSessionVersion);
  if (api == nullptr) {
    throw std::runtime_error("needs onnxruntime 1." + std::to_string(kSessionVersion) + " or newer, and " + path +
                             " is " + base()->GetVersionString());
  }
}

// Every session made with the result runs by sparsec's provider what it takes; the library lies beside this program.
std::shared_ptr<OrtSessionOptions> options_of(OrtEnv *env) {
  const std::string plugin =
      std::filesystem::canonical("/proc/self/exe").parent_path() / "libsparsec_onnxruntime.so";
  check(RegisterProviderLibrary::call(api, env, kRegistration, plugin.c_str()));
  const OrtEpDevice *const *devices = nullptr;
  std::size_t count = 0;
  check(GetEpDevices::call(api, static_cast<const OrtEnv *>(env), &devices, &count));
  std::vector<const OrtEpDevice *> own;
  std::copy_if(devices, devices + count, std::back_inserter(own), [](const OrtEpDevice *device) {
    return std::string(DeviceProviderName::call(api, device)) == kProvider;
  });
  OrtSessionOptions *options = nullptr;
  check(CreateSessionOptions::call(api, &options));
  auto made = owned<ReleaseSessionOptions>(options);
  check(SetIntraOpNumThreads::call(api, options, 1));  // onnxruntime's own threads; the option is the provider's
  const char *const keys[] = {"threads"}, *const values[] = {"1"};
  check(AppendProvider::call(api, options, env, static_cast<const OrtEpDevice *const *>(own.data()), own.size(),
                             static_cast<const char *const *>(keys), static_cast<const char *const *>(values),
                             std::size_t{1}));
  return made;
}

template <typename Naming>
std::string name_of(const OrtSession *session, std::size_t index) {
  OrtAllocator *allocator = nullptr;
  check(GetAllocatorWithDefaultOptions::call(api, &allocator));
  char *name = nullptr;
  check(Naming::call(api, session, index, allocator, &name));
  const std::string found = name;
  check(AllocatorFree::call(api, allocator, static_cast<void *>(name)));
  return found;
}

// An input of float32, whose open sizes are 1, and its values.
struct Input {
  Input(const OrtSession *session, std::size_t index) : name(name_of<SessionGetInputName>(session, index)) {
    OrtTypeInfo *info = nullptr;
    check(SessionGetInputTypeInfo::call(api, session, index, &info));
    const auto kept = owned<ReleaseTypeInfo>(info);
    const OrtTensorTypeAndShapeInfo *tensor = nullptr;
    check(CastTypeInfoToTensorInfo::call(api, static_cast<const OrtTypeInfo *>(info), &tensor));
    int type = 0;
    std::size_t rank = 0, size = 1;
    check(GetTensorElementType::call(api, tensor, &type));
    if (type != kFloat) throw std::runtime_error("input '" + name + "' is not of float32, which this program gives");
    check(GetDimensionsCount::call(api, tensor, &rank));
    std::vector<std::int64_t> shape(rank);
    check(GetDimensions::call(api, tensor, shape.data(), rank));
    for (std::int64_t &each : shape) size *= static_cast<std::size_t>(each = std::max<std::int64_t>(each, 1));
    values.resize(size);
    std::mt19937 random(0);
    std::normal_distribution<float> normal;
    std::generate(values.begin(), values.end(), [&] { return normal(random); });
    OrtMemoryInfo *memory = nullptr;
    check(CreateCpuMemoryInfo::call(api, kDeviceAllocator, kDefaultMemory, &memory));
    const auto where = owned<ReleaseMemoryInfo>(memory);
    OrtValue *made = nullptr;
    check(CreateTensorWithData::call(api, static_cast<const OrtMemoryInfo *>(memory), static_cast<void *>(values.data()),
                                     size * sizeof(float), static_cast<const std::int64_t *>(shape.data()), rank, kFloat,
                                     &made));
    value = owned<ReleaseValue>(made);
  }
  void read(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    const auto bytes = static_cast<std::streamsize>(values.size() * sizeof(float));
    if (!file.read(reinterpret_cast<char *>(values.data()), bytes) || file.peek() != EOF) {
      throw std::runtime_error(path + " has not the " + std::to_string(bytes) + " bytes of input '" + name + "'");
    }
  }
  std::string name;
  std::vector<float> values;
  std::shared_ptr<OrtValue> value;
};

// The first output.
std::shared_ptr<OrtValue> run(OrtSession *session, const std::vector<std::unique_ptr<Input>> &inputs,
                              const std::string &output) {
  std::vector<const char *> names;
  std::vector<const OrtValue *> values;
  for (const auto &each : inputs) {
    names.push_back(each->name.c_str());
    values.push_back(each->value.get());
  }
  const char *const wanted[] = {output.c_str()};
  OrtValue *found = nullptr;
  check(Run::call(api, session, static_cast<const OrtRunOptions *>(nullptr), static_cast<const char *const *>(names.data()),
                  static_cast<const OrtValue *const *>(values.data()), values.size(),
                  static_cast<const char *const *>(wanted), std::size_t{1}, &found));
  return owned<ReleaseValue>(found);
}

void write(OrtValue *value, const std::string &path) {
  OrtTensorTypeAndShapeInfo *info = nullptr;
  check(GetTensorTypeAndShape::call(api, static_cast<const OrtValue *>(value), &info));
  const auto kept = owned<ReleaseTypeAndShape>(info);
  int type = 0;
  std::size_t size = 0;
  check(GetTensorElementType::call(api, static_cast<const OrtTensorTypeAndShapeInfo *>(info), &type));
  check(GetTensorShapeElementCount::call(api, static_cast<const OrtTensorTypeAndShapeInfo *>(info), &size));
  if (type != kFloat) throw std::runtime_error("the first output is not of float32, which this program writes");
  void *data = nullptr;
  check(GetTensorMutableData::call(api, value, &data));
  std::ofstream(path, std::ios::binary).write(static_cast<char *>(data), static_cast<std::streamsize>(size * sizeof(float)));
}

void time_calls(OrtSession *session, const std::vector<std::unique_ptr<Input>> &inputs, const std::string &output,
                int calls) {
  std::vector<double> times;
  for (int call = 0; call < calls; ++call) {
    const auto start = std::chrono::steady_clock::now();
    run(session, inputs, output);
    times.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(times.begin(), times.end());
  std::printf("median of %d calls: %.2f us\n", calls, times[times.size() / 2]);
}

void run_model(OrtEnv *env, const char *path, const std::vector<std::string> &words) {
  const auto options = options_of(env);
  OrtSession *made = nullptr;
  check(CreateSession::call(api, static_cast<const OrtEnv *>(env), path,
                            static_cast<const OrtSessionOptions *>(options.get()), &made));
  const auto session = owned<ReleaseSession>(made);
  std::size_t count = 0;
  check(SessionGetInputCount::call(api, static_cast<const OrtSession *>(made), &count));
  std::vector<std::unique_ptr<Input>> inputs;
  for (std::size_t index = 0; index < count; ++index) inputs.push_back(std::make_unique<Input>(made, index));
  const std::string output = name_of<SessionGetOutputName>(made, 0);
  if (words.size() == count + 3 && words[0] == "--inputs") {
    for (std::size_t index = 0; index < count; ++index) inputs[index]->read(words[1 + index]);
    write(run(made, inputs, output).get(), words.back());
  } else {
    time_calls(made, inputs, output, words.empty() ? 100 : std::max(1, std::atoi(words[0].c_str())));
  }
}

}  // namespace

int main(int count, char **arguments) {
  if (count < 3) {
    std::fprintf(stderr, "usage: run_onnxruntime LIBONNXRUNTIME MODEL.onnx [CALLS | --inputs FILE... -o FILE]\n"
                         "FILEs hold the bytes of one input each, in order, as numpy's tofile writes them\n");
    return 2;
  }
  try {
    load(arguments[1]);
    OrtEnv *env = nullptr;
    check(CreateEnv::call(api, kWarning, "run", &env));
    const auto kept = owned<ReleaseEnv>(env);
    run_model(env, arguments[2], std::vector<std::string>(arguments + 3, arguments + count));
    check(UnregisterProviderLibrary::call(api, env, kRegistration));
  } catch (const std::exception &error) {
    std::fprintf(stderr, "run_onnxruntime: %s\n", error.what());
    return 1;
  }
  return 0;
}
