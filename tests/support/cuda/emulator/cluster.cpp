// Clusters: blocks that take turns, each until all of its threads wait for the cluster's barrier, in an order drawn from
// the seed. A block that reads another's shared memory before it is written, or when it is used again or gone, shows.
#include "state.h"

namespace emulator {

namespace {

constexpr uint32_t kRank = 24;  // the bit of an address from which on it names a block, counted from one

// Exchange what belongs to the running block with a slot's.
void exchange(Block& slot) {
  slot.shared.resize(kShared);
  slot.words.resize(kShared / 4);
  std::swap_ranges(slot.shared.begin(), slot.shared.end(), shared);
  std::swap_ranges(slot.words.begin(), slot.words.end(), words);
  std::swap(slot.threads, threads);
  std::swap(slot.warps, warps);
  std::swap(slot.live, live);
  std::swap(slot.at_barrier, at_barrier);
  std::swap(slot.start, block_start);
}

// Run a block until it ends or waits for the others.
void advance(unsigned rank) {
  Block& block = cluster[rank];
  cluster_rank = rank;
  block_index = block.index;
  exchange(block);
  if (!block.begun) start_block();
  block.begun = true;
  block.done = continue_block();
  block.awaited = cluster_generation;
  if (!barriers.empty()) fail("barriers in shared memory, which clusters are not emulated with");
  exchange(block);
}

}  // namespace

void release_cluster() {
  cluster_arrived = 0;
  cluster_generation++;
  epoch++;
  for (Warp& warp : warps) warp.epoch++;
  for (Block& block : cluster)
    for (Warp& warp : block.warps) warp.epoch++;
}

void arrive_cluster() {
  if (current->arrived) fail("a thread arrives at the cluster's barrier again before it has waited");
  current->arrived = true;
  current->awaited_cluster = cluster_generation;
  if (++cluster_arrived == cluster_live) release_cluster();
}

void wait_cluster() {
  Thread* self = current;
  if (!self->arrived) fail("a thread waits for the cluster's barrier before it has arrived");
  self->waiting = Wait::cluster;
  while (self->awaited_cluster == cluster_generation) suspend();
  self->waiting = Wait::nothing;
  self->arrived = false;
}

uint32_t address_in(uint32_t at, unsigned rank) {
  if (rank >= cluster_size) fail("the cluster has no block " + std::to_string(rank));
  return at | (rank + 1) << kRank;
}

void load_of_cluster(void* to, uint32_t at, size_t size) {
  uint32_t rank = at >> kRank, offset = at & ((1u << kRank) - 1);
  if (!rank || rank - 1 == cluster_rank) return load(to, offset, size);
  const Block& block = cluster[rank - 1];
  if (!block.begun) fail("a read of shared memory of a block that has not begun");
  if (block.done) fail("a read of shared memory of a block that has ended");
  if (offset % size || offset + size > shared_size) fail("a read beyond another block's shared memory, or unaligned");
  for (uint32_t word = offset / 4; word < (offset + size + 3) / 4; word++)
    if (block.words[word].pending) fail("a read of another block's shared memory that a copy is writing");
  memcpy(to, block.shared.data() + offset, size);
}

void run_cluster(dim3 first) {
  cluster.resize(cluster_size);
  cluster_generation = cluster_arrived = 0;
  cluster_live = static_cast<int>(cluster_size * block_size.x * block_size.y * block_size.z);
  std::vector<unsigned> turns;
  for (unsigned rank = 0; rank < cluster_size; rank++) {
    unsigned x = rank % cluster_extents.x, rest = rank / cluster_extents.x;
    cluster[rank].index =
        dim3(first.x + x, first.y + rest % cluster_extents.y, first.z + rest / cluster_extents.y);
    cluster[rank].begun = cluster[rank].done = false;
    turns.push_back(rank);
  }
  for (bool all = false; !all;) {
    std::shuffle(turns.begin(), turns.end(), random_numbers);
    bool progress = false;
    all = true;
    for (unsigned rank : turns) {
      Block& block = cluster[rank];
      if (!block.done && (!block.begun || block.awaited != cluster_generation)) advance(rank), progress = true;
      all = all && block.done;
    }
    if (!all && !progress) fail("deadlock: blocks of a cluster wait for others that never come");
  }
}

}  // namespace emulator
