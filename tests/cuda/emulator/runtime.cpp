// Runs a CUDA kernel's threads as fibers of one host thread, one thread block after another.
//
// Warps advance in an order drawn from a seed, so that a missing barrier shows. Warp-wide instructions wait for every
// live lane and check that all lanes execute the same one. Every word of shared memory remembers who wrote and who
// read it since which barrier: reading what was never written, what an asynchronous copy may still change, or what
// another thread wrote without a barrier in between ends the launch, and so does overwriting what others may still
// read. Global memory lies between unmapped pages (see emulate.py); touching those ends the launch as well.
#include "runtime.h"

#include <algorithm>
#include <csetjmp>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <numeric>
#include <random>
#include <string>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

namespace emulator {

dim3 thread_index, block_index, block_size, grid_size;

namespace {

constexpr int kLanes = 32, kBanks = 32;
constexpr size_t kStack = 512 << 10, kShared = 256 << 10;
constexpr int kNobody = -1, kSeveral = -2;

struct Copy {
  uint32_t to;
  const void* from;
  size_t size, valid;
};

enum class Wait { nothing, block, warp };

struct Thread {
  jmp_buf context;
  char* stack = nullptr;
  dim3 index;
  int number = 0, warp = 0, lane = 0;
  bool started = false, done = false;
  Wait waiting = Wait::nothing;
  unsigned awaited = 0;  // the generation of what it waits for
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};

struct Warp {
  int live = 0, arrived = 0;
  unsigned generation = 0;  // warp-wide instructions so far
  unsigned epoch = 0;       // orderings of its lanes' memory accesses so far: warp and block barriers
  void* operands[kLanes] = {};
  const char* instruction[kLanes] = {};
};

struct Word {  // of shared memory
  uint64_t written = 0, read = 0;        // block epochs
  int writer = kNobody, reader = kNobody;  // threads; several readers of one warp are kSeveral
  int reader_warp = kNobody;
  unsigned writer_epoch = 0, reader_epoch = 0;  // of their warps
  int pending = 0;
};

struct Argument {
  const char* begin;
  size_t size;
};

alignas(1024) char shared[kShared];
Word words[kShared / 4];
std::vector<Thread> threads;
std::vector<Warp> warps;
std::vector<Argument> arguments;
std::vector<int> order;  // in which warps advance
Thread* current = nullptr;
jmp_buf scheduler, launch;
std::string failure;
std::mt19937 random_numbers;
size_t shared_size = 0;
int live = 0, at_barrier = 0;
unsigned barrier_generation = 0;
uint64_t epoch = 0, block_start = 0;
uint64_t statistics[3];  // warp-wide instructions, rows of ldmatrix, bank conflicts among them
void (*body)(void**);
void** body_arguments;

[[noreturn]] void fail(const std::string& message) {
  failure = message + " (block " + std::to_string(block_index.x) + "," + std::to_string(block_index.y) + "," +
            std::to_string(block_index.z) + ", thread " + (current ? std::to_string(current->number) : "-") + ")";
  _longjmp(launch, 1);
}

void suspend() {
  Thread* self = current;
  if (!_setjmp(self->context)) _longjmp(scheduler, 1);
}

void release_barrier() {
  at_barrier = 0;
  barrier_generation++;
  epoch++;
  for (Warp& warp : warps) warp.epoch++;
}

// Runs `execute` on the operands of all live lanes once they have arrived.
template <class Operand>
void warp_wide(const char* instruction, Operand& operand, void (*execute)(Operand** lanes)) {
  Thread* self = current;
  Warp& warp = warps[self->warp];
  warp.operands[self->lane] = &operand;
  warp.instruction[self->lane] = instruction;
  self->awaited = warp.generation;
  if (++warp.arrived < warp.live) {
    self->waiting = Wait::warp;
    while (self->awaited == warp.generation) suspend();
    self->waiting = Wait::nothing;
    return;
  }
  Operand* lanes[kLanes];
  for (int lane = 0; lane < kLanes; lane++) {
    lanes[lane] = static_cast<Operand*>(warp.operands[lane]);
    if (lanes[lane] && strcmp(warp.instruction[lane], instruction))
      fail(std::string("divergent warp: ") + warp.instruction[lane] + " and " + instruction);
  }
  execute(lanes);
  for (void*& slot : warp.operands) slot = nullptr;
  warp.arrived = 0;
  warp.generation++;
  statistics[0]++;
}

void require_full_warp(const char* instruction) {
  if (warps[current->warp].live != kLanes) fail(std::string(instruction) + " without all lanes of the warp");
}

void check_range(uint32_t at, size_t size) {
  if (at + size > shared_size) fail("shared memory out of bounds: byte " + std::to_string(at) + " of " +
                                    std::to_string(shared_size));
  if (at % size) fail("misaligned access to shared memory: " + std::to_string(size) + " bytes at " + std::to_string(at));
}

// Whether an access by another thread is ordered before the current one.
bool ordered(uint64_t when, int warp, unsigned warp_epoch) {
  return when < epoch || (warp == current->warp && warp_epoch < warps[warp].epoch);
}

void note_read(uint32_t at, size_t size) {
  check_range(at, size);
  for (uint32_t i = at / 4; i <= (at + size - 1) / 4; i++) {
    Word& word = words[i];
    if (word.pending) fail("read of shared memory that an asynchronous copy is still filling");
    if (word.written < block_start) fail("read of shared memory that nobody wrote");
    if (word.writer != current->number &&
        !ordered(word.written, threads[word.writer].warp, word.writer_epoch))
      fail("race: read of what another thread wrote without a barrier");
    unsigned now = warps[current->warp].epoch;
    bool again = word.read == epoch && word.reader_epoch == now && word.reader_warp == current->warp;
    word.reader = again && word.reader != current->number ? kSeveral : current->number;
    word.reader_warp = word.read == epoch && word.reader_warp != current->warp ? kSeveral : current->warp;
    word.reader_epoch = now;
    word.read = epoch;
  }
}

void note_write(uint32_t at, size_t size) {
  check_range(at, size);
  for (uint32_t i = at / 4; i <= (at + size - 1) / 4; i++) {
    Word& word = words[i];
    if (word.pending) fail("write to shared memory that an asynchronous copy is still filling");
    if (word.written >= block_start && word.writer != current->number && size >= 4 &&
        !ordered(word.written, threads[word.writer].warp, word.writer_epoch))
      fail("race: write over what another thread wrote without a barrier");
    bool others = word.reader != current->number || word.reader_warp == kSeveral;
    if (word.read >= block_start && others && !ordered(word.read, word.reader_warp, word.reader_epoch))
      fail("race: write over what another thread may still read");
    word.written = epoch;
    word.writer = current->number;
    word.writer_epoch = warps[current->warp].epoch;
  }
}

float to_float(uint16_t bits, Element element) {
  if (element == Element::bf16) {
    uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
  }
  _Float16 value;
  memcpy(&value, &bits, 2);
  return value;
}

// Which of a group's four inputs a compressed column multiplies.
int position(Product** lanes, int row, int column) {
  int group = column / 2, selector = lanes[0]->selector;
  bool bytes = lanes[0]->element == Element::s8;
  int lane = row % 8 * 4 + (bytes ? group / 8 * 2 + row / 8 : selector * 2 + group / 4);
  int shift = bytes ? group % 8 * 4 : row / 8 * 16 + group % 4 * 4;
  unsigned nibble = lanes[lane]->metadata >> shift & 15;
  if ((nibble & 3) >= nibble >> 2) fail("mma.sp: the metadata's positions do not rise");
  return column % 2 ? nibble >> 2 : nibble & 3;
}

// mma.m16n8: lane 4g + t holds rows g and g + 8 of the left operand and column g of the right one.
template <class Sum>
void multiply_warp(Product** lanes) {
  const Product& first = *lanes[0];
  bool bytes = first.element == Element::s8;
  int word = bytes ? 4 : 2, columns = 8 * word, depth = first.sparse ? 2 * columns : columns;
  static Sum left[16][64], right[64][8];
  memset(left, 0, sizeof left);
  auto value = [&](const uint32_t* registers, int i) -> Sum {
    if (bytes) return reinterpret_cast<const int8_t*>(registers)[i];
    return static_cast<Sum>(to_float(reinterpret_cast<const uint16_t*>(registers)[i], first.element));
  };
  for (int lane = 0; lane < kLanes; lane++) {
    int g = lane / 4, t = lane % 4;
    if (lanes[lane]->selector != first.selector) fail("mma.sp: lanes differ in the sparsity selector");
    for (int i = 0; i < 4 * word; i++) {
      int row = g + i / word % 2 * 8, column = i / word / 2 * (columns / 2) + t * word + i % word;
      int k = first.sparse ? column / 2 * 4 + position(lanes, row, column) : column;
      left[row][k] = value(lanes[lane]->left, i);
    }
    for (int i = 0; i < depth / 4; i++) right[i / word * 4 * word + t * word + i % word][g] = value(lanes[lane]->right, i);
  }
  for (int lane = 0; lane < kLanes; lane++)
    for (int i = 0; i < 4; i++) {
      int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      Sum sum;
      memcpy(&sum, &lanes[lane]->sums[i], 4);
      for (int k = 0; k < depth; k++) sum += left[row][k] * right[k][column];
      memcpy(&lanes[lane]->sums[i], &sum, 4);
    }
}

void enter() {
  body(body_arguments);
  Thread* self = current;
  Warp& warp = warps[self->warp];
  self->done = true;
  self->groups.push_back(self->open);
  for (const auto& group : self->groups)
    if (!group.empty()) fail("a thread ended before it waited for its asynchronous copies");
  if (--warp.live && warp.arrived == warp.live) fail("a lane ended while the others wait for a warp-wide instruction");
  if (--live && at_barrier == live) release_barrier();
  _longjmp(scheduler, 1);
}

bool runnable(const Thread& thread) {
  if (thread.done) return false;
  if (thread.waiting == Wait::block) return thread.awaited != barrier_generation;
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

void start_block() {
  int count = block_size.x * block_size.y * block_size.z;
  if (static_cast<int>(threads.size()) < count) threads.resize(count);
  warps.assign((count + kLanes - 1) / kLanes, Warp());
  live = count;
  at_barrier = 0;
  block_start = ++epoch;
  memset(shared, 0xFF, sizeof shared);
  for (Word& word : words) word.pending = 0;
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
    thread.open.clear();
    thread.groups.clear();
    warps[thread.warp].live++;
  }
}

void run_block() {
  start_block();
  int count = live;
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
    if (!progress) fail("deadlock: threads wait for others that never come");
  }
}

void run_grid() {
  for (unsigned z = 0; z < grid_size.z; z++)
    for (unsigned y = 0; y < grid_size.y; y++)
      for (unsigned x = 0; x < grid_size.x; x++) {
        block_index = dim3(x, y, z);
        run_block();
      }
}

void on_fault(int, siginfo_t* info, void*) {
  failure = "";
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

void barrier() {
  Thread* self = current;
  self->awaited = barrier_generation;
  if (++at_barrier == live) return release_barrier();
  self->waiting = Wait::block;
  while (self->awaited == barrier_generation) suspend();
  self->waiting = Wait::nothing;
}

void warp_barrier() {
  char nothing = 0;
  warp_wide<char>("__syncwarp", nothing, [](char**) { warps[current->warp].epoch++; });
}

unsigned active_mask() {
  unsigned mask = 0;
  for (const Thread& thread : threads)
    if (thread.warp == current->warp && !thread.done) mask |= 1u << thread.lane;
  return mask;
}

void shuffle(void* value, size_t size, Shuffle kind, int operand, int width) {
  struct Operands {
    char value[8], result[8];
    size_t size;
    Shuffle kind;
    int operand, width;
  } mine{{}, {}, size, kind, operand, width};
  memcpy(mine.value, value, size);
  warp_wide<Operands>("shuffle", mine, [](Operands** lanes) {
    for (int lane = 0; lane < kLanes; lane++) {
      if (!lanes[lane]) continue;
      Operands& o = *lanes[lane];
      int first = lane / o.width * o.width, source = lane;
      if (o.kind == Shuffle::absolute) source = first + o.operand % o.width;
      if (o.kind == Shuffle::up) source = lane - o.operand < first ? lane : lane - o.operand;
      if (o.kind == Shuffle::down) source = lane + o.operand >= first + o.width ? lane : lane + o.operand;
      if (o.kind == Shuffle::exclusive) source = lane ^ o.operand;
      if (lanes[source]) memcpy(o.result, lanes[source]->value, o.size);
      else memset(o.result, 0xff, o.size);  // undefined on a GPU: reductions of few threads do not use it
    }
  });
  memcpy(value, mine.result, size);
}

char* shared_memory() { return shared; }

uint32_t shared_address(const void* pointer) {
  ptrdiff_t at = static_cast<const char*>(pointer) - shared;
  if (at < 0 || at > static_cast<ptrdiff_t>(shared_size)) fail("the address of something that is not shared memory");
  return static_cast<uint32_t>(at);
}

void load(void* to, uint32_t at, size_t size) {
  note_read(at, size);
  memcpy(to, shared + at, size);
}

void store(uint32_t at, const void* from, size_t size) {
  note_write(at, size);
  memcpy(shared + at, from, size);
}

void check_global(const void* pointer, size_t size) {
  if (reinterpret_cast<uintptr_t>(pointer) % size) fail("misaligned access to global memory");
  for (const Argument& a : arguments) {
    const char* begin = static_cast<const char*>(pointer);
    if (begin >= a.begin && begin + size <= a.begin + a.size) return;
  }
  fail("an access to memory that no argument holds");
}

void copy_async(uint32_t to, const void* from, size_t size, size_t valid) {
  if (reinterpret_cast<uintptr_t>(from) % size) fail("misaligned source of an asynchronous copy");
  if (valid > size) fail("an asynchronous copy of more bytes than its size");
  if (valid) check_global(from, size);
  note_write(to, size);
  memset(shared + to, 0xFF, size);
  for (uint32_t i = to / 4; i < (to + size) / 4; i++) words[i].pending++;
  current->open.push_back({to, from, size, valid});
}

void commit_copies() {
  current->groups.push_back(std::move(current->open));
  current->open.clear();
}

void wait_copies(unsigned pending) {
  auto& groups = current->groups;
  for (; groups.size() > pending; groups.pop_front())
    for (const Copy& copy : groups.front()) {
      memset(shared + copy.to, 0, copy.size);
      memcpy(shared + copy.to, copy.from, copy.valid);
      for (uint32_t i = copy.to / 4; i < (copy.to + copy.size) / 4; i++) {
        words[i].pending--;
        words[i].written = epoch;
        words[i].writer_epoch = warps[current->warp].epoch;
      }
    }
}

void load_matrices(uint32_t* registers, uint32_t row, int count, bool transposed) {
  struct Operands {
    uint32_t registers[4], row;
    int count;
    bool transposed;
  } mine{{}, row, count, transposed};
  require_full_warp("ldmatrix");
  if (current->lane < 8 * count) note_read(row, 16);
  warp_wide<Operands>("ldmatrix", mine, [](Operands** lanes) {
    for (int matrix = 0; matrix < lanes[0]->count; matrix++) {
      uint16_t x[8][8];
      unsigned banks = 0;
      for (int r = 0; r < 8; r++) {
        uint32_t at = lanes[matrix * 8 + r]->row;
        unsigned bank = 1u << at / 16 % (kBanks / 4);
        statistics[1]++;
        statistics[2] += (banks & bank) != 0;
        banks |= bank;
        memcpy(x[r], shared + at, 16);
      }
      for (int lane = 0; lane < kLanes; lane++) {
        int i = lane / 4, j = lane % 4 * 2;
        bool t = lanes[lane]->transposed;
        lanes[lane]->registers[matrix] = (t ? x[j][i] : x[i][j]) | (t ? x[j + 1][i] : x[i][j + 1]) << 16;
      }
    }
  });
  memcpy(registers, mine.registers, 4 * count);
}

void multiply(Product& product) {
  require_full_warp("mma");
  static const char* names[2][3] = {{"mma.f16", "mma.bf16", "mma.s8"}, {"mma.sp.f16", "mma.sp.bf16", "mma.sp.s8"}};
  const char* name = names[product.sparse][static_cast<int>(product.element)];
  warp_wide<Product>(name, product, product.element == Element::s8 ? multiply_warp<int32_t> : multiply_warp<float>);
}

}  // namespace emulator

// Runs every block of a launch; returns the reason it failed or null. `ranges` are the arguments' begins and sizes.
extern "C" const char* emulate(void (*kernel)(void**), void** kernel_arguments, const unsigned* grid,
                               const unsigned* block, size_t dynamic_shared, unsigned seed, const uint64_t* ranges,
                               size_t range_count, uint64_t* statistics_out) {
  using namespace emulator;
  grid_size = dim3(grid[0], grid[1], grid[2]);
  block_size = dim3(block[0], block[1], block[2]);
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
  struct sigaction action {}, previous[2];
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaction(SIGSEGV, &action, &previous[0]);
  sigaction(SIGBUS, &action, &previous[1]);
  if (!_setjmp(launch)) run_grid();
  sigaction(SIGSEGV, &previous[0], nullptr);
  sigaction(SIGBUS, &previous[1], nullptr);
  sigaltstack(&previous_stack, nullptr);
  memcpy(statistics_out, statistics, sizeof statistics);
  return failure.empty() ? nullptr : failure.c_str();
}
