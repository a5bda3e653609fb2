#include "machine.hpp"

#include <sched.h>
#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#elif defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <mutex>
#include <set>
#include <sstream>
#include <string>

#include "error.hpp"
#include "ffi.hpp"

namespace tvm::runtime::threading {
void SetMaxConcurrency(int threads);  // of the calling thread's pool when it is made; no global function offers it
}  // namespace tvm::runtime::threading

namespace sparsec::native {

namespace {

#if defined(__x86_64__)
constexpr char kPlatform[] = "linux-x86_64", kSimpler[] = "--target cpu-avx2 or cpu-generic";
#elif defined(__aarch64__)
constexpr char kPlatform[] = "linux-aarch64", kSimpler[] = "--target cpu-neon, or on this machine";
#else
constexpr char kPlatform[] = "another platform", kSimpler[] = "another target";
#endif
constexpr int kAnyCore = 1;  // TVM's affinity mode "big cores"

// What the processor has, by Linux's names.
#if defined(__aarch64__)
std::set<std::string> features() {
  constexpr int kVectorBytes = 0xffff;  // of what PR_SVE_GET_VL answers
  const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  std::set<std::string> found;
  const auto add = [&found](bool has, const char *name) {
    if (has) found.insert(name);
  };
  add(first & HWCAP_ASIMD, "asimd");
  add(first & HWCAP_FPHP, "fphp");
  add(first & HWCAP_ASIMDHP, "asimdhp");
  add(first & HWCAP_ASIMDDP, "asimddp");
  add(first & HWCAP_SVE, "sve");
  add((first & HWCAP_SVE) && (prctl(PR_SVE_GET_VL) & kVectorBytes) == 32, "sve256");
  add(second & HWCAP2_SVE2, "sve2");
  add(second & HWCAP2_I8MM, "i8mm");
  add(second & HWCAP2_BF16, "bf16");
  return found;
}
#else
#if defined(__x86_64__)
// Asks Linux, for all threads of the process, to use AMX's tiles.
bool permits_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#else
bool permits_tiles() { return false; }
#endif

std::set<std::string> features() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("flags", 0) != 0) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    std::set<std::string> found;
    for (std::string word; words >> word;) found.insert(word);
    if (found.count("amx_tile") != 0 && !permits_tiles()) {
      for (auto each = found.begin(); each != found.end();) {
        each = each->rfind("amx", 0) == 0 ? found.erase(each) : std::next(each);
      }
    }
    return found;
  }
  return {};
}
#endif

// The processors that a control group allows, if it is limited: in version 2's file or in version 1's two.
double quota(const std::string &folder) {
  double most = 1 << 16;
  std::string share;
  double period = 0;
  if (std::ifstream both(folder + "/cpu.max"); both >> share >> period && share != "max" && period > 0) {
    most = std::min(most, std::atof(share.c_str()) / period);
  }
  std::ifstream first(folder + "/cpu.cfs_quota_us"), second(folder + "/cpu.cfs_period_us");
  double time = 0;
  if (first >> time && second >> period && time > 0 && period > 0) most = std::min(most, time / period);
  return most;
}

// Whether a controller is among those of a line of /proc/self/cgroup.
bool has_cpu(const std::string &controllers) { return ("," + controllers + ",").find(",cpu,") != std::string::npos; }

thread_local int pool_size = 0, in_use = 0;
std::atomic<int> largest{1};

}  // namespace

void check_machine(const Json &plan) {
  if (plan["platform"].text() != kPlatform) {
    fail(SPARSEC_ERROR_MACHINE, "the model was compiled for " + plan["platform"].text() + " and this is " + kPlatform);
  }
  const auto here = features();
  std::string missing;
  for (const Json &each : plan["features"].list()) {
    if (here.count(each.text()) == 0) missing += (missing.empty() ? "" : ", ") + each.text();
  }
  if (!missing.empty()) {
    fail(SPARSEC_ERROR_MACHINE, "the model was compiled for '" + plan["target"].text() + "' and this processor lacks " +
                                    missing + "; compile it with " + kSimpler);
  }
  TVMFFIVersion version{};
  TVMFFIGetVersion(&version);
  const std::string found = std::to_string(version.major) + "." + std::to_string(version.minor) + ".";
  if (plan["ffi"].text().rfind(found, 0) != 0) {
    fail(SPARSEC_ERROR_MACHINE, "the model needs version " + plan["ffi"].text() + " of libtvm_ffi, and " + found +
                                    std::to_string(version.patch) + " is loaded; take the bundle's own");
  }
}

int available_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  double most = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (!controllers.empty() && !has_cpu(controllers)) continue;
    const std::string top = controllers.empty() ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
    for (std::string path = line.substr(second + 1);; path.erase(path.rfind('/'))) {
      most = std::min(most, quota(top + path));
      if (path.rfind('/') == std::string::npos) break;
    }
  }
  return std::max(1, static_cast<int>(most));
}

void expect_threads(int threads) {
  static std::once_flag once;
  std::call_once(once, [] { setenv("TVM_BIND_THREADS", "0", 0); });  // processes would pin theirs to the same cores
  int known = largest;
  while (known < threads && !largest.compare_exchange_weak(known, threads)) {
  }
}

void use_threads(int threads) {
  if (in_use == threads) return;
  const int size = pool_size > 0 ? pool_size : threads == 1 ? 1 : std::max(threads, largest.load());
  if (pool_size == 0) tvm::runtime::threading::SetMaxConcurrency(size);
  if (size > 1) {
    static const ffi::Object configure = ffi::global("runtime.config_threadpool");
    ffi::call(configure, {ffi::integer(kAnyCore), ffi::integer(std::min(threads, size))});
    pool_size = size;
  }
  in_use = threads;
}

}  // namespace sparsec::native
