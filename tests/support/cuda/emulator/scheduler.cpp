// Runs a CUDA kernel's threads as fibers of one host thread, one thread block after another. Warps advance in an order
// drawn from a seed, so that a missing barrier shows.
#include <ucontext.h>

#include <algorithm>
#include <csignal>
#include <numeric>
#include <sys/mman.h>

#include "state.h"

namespace emulator {

dim3 thread_index, block_index, block_size, grid_size, cluster_extents;

namespace {

void release_barrier() {
  at_barrier = 0;
  barrier_generation++;
  epoch++;
  for (Warp& warp : warps) warp.epoch++;
}

void enter() {
  body(body_arguments);
  Thread* self = current;
  Warp& warp = warps[self->warp];
  self->done = true;
  self->groups.push_back(self->open);
  for (const auto& group : self->groups)
    if (!group.empty()) fail("a thread ended before it waited for its asynchronous copies");
  if (!self->sums.empty()) fail("a thread ended before it waited for its asynchronous products");
  if (self->arrived) fail("a thread ended before it waited for the cluster's barrier");
  if (--warp.live && warp.arrived == warp.live) fail("a lane ended while the others wait for a warp-wide instruction");
  if (--live && at_barrier == live) release_barrier();
  if (--cluster_live && cluster_arrived == cluster_live) release_cluster();
  _longjmp(scheduler, 1);
}

bool runnable(const Thread& thread) {
  if (thread.done) return false;
  if (thread.waiting == Wait::block) return thread.awaited != barrier_generation;
  if (thread.waiting == Wait::phase) return has_ended(thread.awaited_barrier, thread.awaited_parity);
  if (thread.waiting == Wait::cluster) return thread.awaited_cluster != cluster_generation;
  if (thread.waiting == Wait::grid) return grids_ended;
  return thread.waiting != Wait::warp || thread.awaited != warps[thread.warp].generation;
}

void resume(Thread& thread) {
  current = &thread;
  thread_index = thread.index;
  if (_setjmp(scheduler)) return;
  if (thread.started) _longjmp(thread.context, 1);
  thread.started = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = thread.stack;
  context.uc_stack.ss_size = kStack;
  context.uc_link = nullptr;
  makecontext(&context, enter, 0);
  setcontext(&context);
}

void run_grid() {
  unsigned columns = grid_size.x / cluster_extents.x, rows = grid_size.y / cluster_extents.y;
  unsigned count = columns * rows * (grid_size.z / cluster_extents.z);
  unsigned first = grids_ended ? 0 : random_numbers() % count;  // any block may be the one that meets others' work
  for (unsigned number = 0; number < count; number++) {
    unsigned at = (first + number) % count;
    dim3 index(at % columns * cluster_extents.x, at / columns % rows * cluster_extents.y,
               at / columns / rows * cluster_extents.z);
    if (cluster_size > 1) {
      run_cluster(index);
      continue;
    }
    block_index = index;
    start_block();
    cluster_live = live, cluster_arrived = cluster_rank = 0;
    if (!continue_block()) fail("deadlock: threads wait for others that never come");
  }
}

void on_fault(int signal, siginfo_t* info, void*) {
  if (signal == SIGILL) fail("a misaligned vector, or an index outside a local or static shared array");
  const char* at = static_cast<const char*>(info->si_addr);
  for (size_t i = 0; i < arguments.size(); i++) {
    long distance = at - arguments[i].begin;
    if (distance > -(1L << 20) && distance < static_cast<long>(arguments[i].size) + (1L << 20))
      failure = "global memory out of bounds: byte " + std::to_string(distance) + " of argument " + std::to_string(i);
  }
  if (failure.empty()) failure = "an access to memory that no argument holds";
  _longjmp(launch, 1);
}

}  // namespace

void start_block() {
  int count = block_size.x * block_size.y * block_size.z;
  if (static_cast<int>(threads.size()) < count) threads.resize(count);
  warps.assign((count + kLanes - 1) / kLanes, Warp());
  live = count;
  at_barrier = 0;
  block_start = ++epoch;
  memset(shared, 0xFF, sizeof shared);
  for (Word& word : words) word.pending = word.multiplied = 0;
  if (!barriers.empty()) memset(read_before, 0, sizeof read_before);
  barriers.clear();
  bulks.clear();
  for (int i = 0; i < count; i++) {
    Thread& thread = threads[i];
    if (!thread.stack)
      thread.stack = static_cast<char*>(mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    thread.number = i;
    thread.warp = i / kLanes;
    thread.lane = i % kLanes;
    thread.index = dim3(i % block_size.x, i / block_size.x % block_size.y, i / block_size.x / block_size.y);
    thread.started = thread.done = false;
    thread.waiting = Wait::nothing;
    thread.arrived = false;
    thread.open.clear();
    thread.groups.clear();
    thread.unpublished.clear();
    thread.sums.clear();
    thread.products = {};
    thread.product_groups.clear();
    thread.phases.clear();
    memset(thread.seen, 0, sizeof thread.seen);
    warps[thread.warp].live++;
  }
}

bool continue_block() {
  int count = block_size.x * block_size.y * block_size.z;
  order.resize(warps.size());
  std::iota(order.begin(), order.end(), 0);
  while (live) {
    std::shuffle(order.begin(), order.end(), random_numbers);
    int burst = 1 + static_cast<int>(random_numbers() % 8);  // lets one warp run far ahead of the others
    bool progress = false;
    for (int warp : order)
      for (int turn = 0; turn < burst; turn++) {
        bool moved = false;
        int rotation = static_cast<int>(random_numbers() % kLanes);
        for (int i = 0; i < kLanes; i++) {
          int number = warp * kLanes + (i + rotation) % kLanes;
          if (number >= count || !runnable(threads[number])) continue;
          resume(threads[number]);
          moved = true;
        }
        if (!moved) break;
        progress = true;
      }
    bool landed = (!progress || random_numbers() % 2) && land_bulk();
    if (progress || landed || let_grids_end()) continue;
    auto waits = [](const Thread& thread) { return !thread.done && thread.waiting == Wait::cluster; };
    if (std::count_if(threads.begin(), threads.begin() + count, waits) == live) return false;
    fail("deadlock: threads wait for others that never come");
  }
  if (!bulks.empty()) fail("a block ended before its bulk copies");
  return true;
}

void barrier() {
  Thread* self = current;
  self->awaited = barrier_generation;
  if (++at_barrier == live) return release_barrier();
  self->waiting = Wait::block;
  while (self->awaited == barrier_generation) suspend();
  self->waiting = Wait::nothing;
}

}  // namespace emulator

// Runs every block of a launch; returns the reason it failed or null. `ranges` are the arguments' begins and sizes.
extern "C" const char* emulate(void (*kernel)(void**), void** kernel_arguments, const unsigned* grid,
                               const unsigned* block, const unsigned* cluster_of, size_t dynamic_shared, unsigned seed, const uint64_t* ranges,
                               size_t range_count, uint64_t* statistics_out) {
  using namespace emulator;
  grid_size = dim3(grid[0], grid[1], grid[2]);
  block_size = dim3(block[0], block[1], block[2]);
  cluster_extents = dim3(cluster_of[0], cluster_of[1], cluster_of[2]);
  cluster_size = cluster_of[0] * cluster_of[1] * cluster_of[2];
  shared_size = dynamic_shared;
  body = kernel;
  body_arguments = kernel_arguments;
  random_numbers.seed(seed);
  arguments.clear();
  for (size_t i = 0; i < range_count; i++)
    arguments.push_back({reinterpret_cast<const char*>(ranges[2 * i]), static_cast<size_t>(ranges[2 * i + 1])});
  memset(statistics, 0, sizeof statistics);
  failure.clear();
  static char signal_stack[64 << 10];
  stack_t alternate{signal_stack, 0, sizeof signal_stack}, previous_stack;
  sigaltstack(&alternate, &previous_stack);
  const int signals[] = {SIGSEGV, SIGBUS, SIGILL};  // the last is how the compiler's own checks end
  struct sigaction action {}, previous[3];
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (int i = 0; i < 3; i++) sigaction(signals[i], &action, &previous[i]);
  if (!_setjmp(launch)) run_grid();
  for (int i = 0; i < 3; i++) sigaction(signals[i], &previous[i], nullptr);
  sigaltstack(&previous_stack, nullptr);
  memcpy(statistics_out, statistics, sizeof statistics);
  return failure.empty() ? nullptr : failure.c_str();
}
