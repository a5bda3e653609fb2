// What the emulator keeps about the block that runs, and how a thread waits for its warp.
#pragma once
#include <algorithm>
#include <csetjmp>
#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "runtime.h"

namespace emulator {

constexpr int kLanes = 32, kBanks = 32;
constexpr size_t kStack = 512 << 10, kShared = 256 << 10;
constexpr int kNobody = -1, kSeveral = -2, kBulk = -3;
constexpr int kMostWarps = 16;  // of a block with mbarriers

struct Copy {
  uint32_t to;
  const void* from;
  size_t size, valid;
};

enum class Wait { nothing, block, warp, phase, cluster, grid };

struct Range {  // of shared memory
  uint32_t at;
  size_t size;
};

struct Sum {  // of asynchronous products
  float* at;
  float value;
  size_t group;  // the last one that adds to it
};

struct Products {  // a group of asynchronous ones: what nothing may change until they have ended
  std::vector<uint32_t> words;  // of shared memory
  std::vector<std::pair<const uint32_t*, uint32_t>> registers;
};

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
  std::vector<Range> unpublished;  // writes that the tensor cores' own path may not see yet
  std::vector<Sum> sums;
  Products products;  // those of no group yet
  std::deque<Products> product_groups;
  size_t ended_groups = 0;
  uint32_t awaited_barrier = 0;
  unsigned awaited_parity = 0;
  unsigned awaited_cluster = 0;  // the generation of the cluster's barrier that it has arrived at
  bool arrived = false;          // there, and has not waited yet
  std::map<uint32_t, unsigned> phases;  // of each mbarrier, those whose end it has seen
  uint64_t seen[kMostWarps] = {};       // of each warp, the arrival up to which it has seen all reads
};

struct Barrier {
  unsigned arrivals, missing, phase;  // the last counts phases that have ended
  int64_t bytes;                      // that are still to come
  uint64_t arrived[kMostWarps], released[kMostWarps];  // when each warp last did, and what the last phase's end shows
};

struct Bulk {  // a copy under way; the contents wait beside
  uint32_t to, barrier;
  std::vector<char> contents;
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
  int pending = 0;     // copies that will write it
  int multiplied = 0;  // products in flight that read it
  bool unpublished = false;
  uint32_t barrier = 0;  // of the bulk copy that wrote it
  unsigned phase = 0;    // of that barrier, which ends when the copy has
};

struct Block {  // of a cluster: all that changes with the block, while another one runs
  dim3 index;
  bool begun = false, done = false;
  unsigned awaited = 0;  // the generation of the cluster's barrier that all of its threads wait for
  std::vector<char> shared;
  std::vector<Word> words;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  int live = 0, at_barrier = 0;
  uint64_t start = 0;
};

struct Argument {
  const char* begin;
  size_t size;
};

inline std::map<uint32_t, Barrier> barriers;
inline std::vector<Bulk> bulks;
inline uint64_t arrival = 0;  // arrivals at mbarriers so far
inline uint64_t read_before[kShared / 4][kMostWarps];  // the arrival before which each warp last read a word
alignas(1024) inline char shared[kShared];
inline Word words[kShared / 4];
inline std::vector<Thread> threads;
inline std::vector<Warp> warps;
inline std::vector<Argument> arguments;
inline std::vector<int> order;  // in which warps advance
inline Thread* current = nullptr;
inline jmp_buf scheduler, launch;
inline std::string failure;
inline std::mt19937 random_numbers;
inline size_t shared_size = 0;
inline int live = 0, at_barrier = 0;
inline unsigned barrier_generation = 0;
inline uint64_t epoch = 0, block_start = 0;
inline std::vector<Block> cluster;
inline unsigned cluster_size = 1, cluster_rank = 0, cluster_generation = 0;
inline int cluster_live = 0, cluster_arrived = 0;  // threads
inline bool grids_ended = true;  // those in front of the one that runs
inline int tells, hears;         // pipes, while they have not
inline uint64_t statistics[3];  // warp-wide instructions, rows of ldmatrix, bank conflicts among them
inline void (*body)(void**);
inline void** body_arguments;

[[noreturn]] inline void fail(const std::string& message) {
  failure = message + " (block " + std::to_string(block_index.x) + "," + std::to_string(block_index.y) + "," +
            std::to_string(block_index.z) + ", thread " + (current ? std::to_string(current->number) : "-") + ")";
  _longjmp(launch, 1);
}

// Let other threads run.
inline void suspend() {
  Thread* self = current;
  if (!_setjmp(self->context)) _longjmp(scheduler, 1);
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

inline void require_full_warp(const char* instruction) {
  if (warps[current->warp].live != kLanes) fail(std::string(instruction) + " without all lanes of the warp");
}

void start_block();
bool continue_block();  // whether the block has ended; else all of its threads wait for the cluster
bool let_grids_end();  // false where no thread waits for it
void run_cluster(dim3 first);
void release_cluster();
bool has_ended(uint32_t barrier, unsigned parity);
bool land_bulk();  // finish one bulk copy; false where there is none
void note_read(uint32_t at, size_t size);
void note_write(uint32_t at, size_t size);

}  // namespace emulator
