// Shared memory as a GPU leaves it undefined: every word remembers who wrote and who read it since which barrier.
// Reading what was never written, what an asynchronous copy may still change, or what another thread wrote without a
// barrier in between ends the launch, and so does overwriting what others may still read. Global memory lies between
// unmapped pages (see emulate.py); touching those ends the launch as well.
#include <algorithm>

#include "state.h"

namespace emulator {
namespace {

void check_range(uint32_t at, size_t size) {
  if (at + size > shared_size) fail("shared memory out of bounds: byte " + std::to_string(at) + " of " +
                                    std::to_string(shared_size));
  if (at % size) fail("misaligned access to shared memory: " + std::to_string(size) + " bytes at " + std::to_string(at));
}

// Whether an access by another thread is ordered before the current one.
bool ordered(uint64_t when, int warp, unsigned warp_epoch) {
  return when < epoch || (warp == current->warp && warp_epoch < warps[warp].epoch);
}

}  // namespace

void note_read(uint32_t at, size_t size) {
  check_range(at, size);
  for (uint32_t i = at / 4; i <= (at + size - 1) / 4; i++) {
    Word& word = words[i];
    if (word.pending) fail("read of shared memory that an asynchronous copy is still filling");
    if (word.written < block_start) fail("read of shared memory that nobody wrote");
    if (!barriers.empty()) read_before[i][current->warp] = arrival + 1;
    if (word.writer == kBulk) {
      auto seen = current->phases.find(word.barrier);
      if (seen == current->phases.end() || seen->second <= word.phase)
        fail("read of what a bulk copy wrote, without waiting for its mbarrier");
    } else if (word.writer != current->number &&
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
    if (word.multiplied) fail("write to shared memory that an asynchronous product may still read");
    if (word.written >= block_start && word.writer == kBulk) fail("write over what a bulk copy wrote");
    if (word.written >= block_start && word.writer != current->number && size >= 4 &&
        !ordered(word.written, threads[word.writer].warp, word.writer_epoch))
      fail("race: write over what another thread wrote without a barrier");
    bool others = word.reader != current->number || word.reader_warp == kSeveral;
    if (word.read >= block_start && others && !ordered(word.read, word.reader_warp, word.reader_epoch))
      fail("race: write over what another thread may still read");
    word.written = epoch;
    word.writer = current->number;
    word.writer_epoch = warps[current->warp].epoch;
    word.unpublished = true;
  }
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
  current->unpublished.push_back({at, size});
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
      current->unpublished.push_back({copy.to, copy.size});
      for (uint32_t i = copy.to / 4; i < (copy.to + copy.size) / 4; i++) {
        words[i].pending--;
        words[i].written = epoch;
        words[i].writer_epoch = warps[current->warp].epoch;
      }
    }
}

void init_barrier(uint32_t at, unsigned arrivals) {
  if (at % 8 || at + 8 > shared_size) fail("an mbarrier where none may lie");
  if (warps.size() > kMostWarps) fail("more warps than the emulator knows in a block with mbarriers");
  barriers[at] = {arrivals, arrivals, 0, 0, {}, {}};
}

namespace {

Barrier& barrier_at(uint32_t at) {
  auto found = barriers.find(at);
  if (found == barriers.end()) fail("there is no mbarrier at byte " + std::to_string(at));
  return found->second;
}

void end_phase(Barrier& barrier) {
  if (barrier.missing || barrier.bytes) return;
  memcpy(barrier.released, barrier.arrived, sizeof barrier.released);
  barrier.phase++;
  barrier.missing = barrier.arrivals;
}

void start_bulk(uint32_t to, uint32_t at, std::vector<char> contents) {
  size_t size = contents.size();
  if (to % 16 || size % 16) fail("a bulk copy whose bytes or destination are no multiple of 16");
  if (to + size > shared_size) fail("a bulk copy beyond the block's shared memory");
  Barrier& barrier = barrier_at(at);
  for (uint32_t i = to / 4; i < (to + size) / 4; i++) {
    Word& word = words[i];
    if (word.pending) fail("a bulk copy to where another is under way");
    if (word.multiplied) fail("a bulk copy over what an asynchronous product may still read");
    for (int warp = 0; warp < static_cast<int>(warps.size()); warp++)
      if (warp != current->warp && read_before[i][warp] > current->seen[warp])
        fail("a bulk copy over what another warp may still read");
    if (word.written >= block_start && word.writer != kBulk) fail("a bulk copy over what threads wrote");
    word.pending++;
    word.barrier = at;
    word.phase = barrier.phase;
  }
  memset(shared + to, 0xFF, size);
  bulks.push_back({to, at, std::move(contents)});
}

}  // namespace

void arrive(uint32_t at, size_t bytes) {
  Barrier& barrier = barrier_at(at);
  if (!barrier.missing) fail("more arrivals at an mbarrier than it counts");
  barrier.missing--;
  barrier.bytes += bytes;
  barrier.arrived[current->warp] = ++arrival;
  end_phase(barrier);
}

bool has_ended(uint32_t at, unsigned parity) { return (barrier_at(at).phase & 1) != (parity & 1); }

void wait_phase(uint32_t at, unsigned parity) {
  Thread* self = current;
  self->awaited_barrier = at;
  self->awaited_parity = parity;
  if (!has_ended(at, parity)) {
    self->waiting = Wait::phase;
    while (!has_ended(at, parity)) suspend();
    self->waiting = Wait::nothing;
  }
  Barrier& barrier = barrier_at(at);
  self->phases[at] = barrier.phase;
  for (int warp = 0; warp < kMostWarps; warp++) self->seen[warp] = std::max(self->seen[warp], barrier.released[warp]);
}

void copy_bulk(uint32_t to, const void* from, size_t size, uint32_t barrier) {
  if (reinterpret_cast<uintptr_t>(from) % 16) fail("misaligned source of a bulk copy");
  const char* begin = static_cast<const char*>(from);
  bool inside = false;
  for (const Argument& a : arguments) inside |= begin >= a.begin && begin + size <= a.begin + a.size;
  if (!inside) fail("a bulk copy of memory that no argument holds");
  start_bulk(to, barrier, std::vector<char>(begin, begin + size));
}

void copy_box(uint32_t to, const Map* map, int column, int row, uint32_t barrier) {
  size_t width = map->box_columns * map->itemsize;
  if (to % 1024 || width != 128) fail("a box that is not emulated: its rows are not 128 bytes, or its place is not 1024");
  std::vector<char> contents(map->box_rows * width);
  for (uint32_t i = 0; i < map->box_rows; i++)
    for (uint32_t j = 0; j < map->box_columns; j++) {
      int64_t r = row + static_cast<int64_t>(i), c = column + static_cast<int64_t>(j);
      if (r < 0 || c < 0 || r >= static_cast<int64_t>(map->rows) || c >= static_cast<int64_t>(map->columns)) continue;
      size_t at = i * width + j * map->itemsize;
      at ^= (at >> 7 & 7) << 4;
      memcpy(&contents[at], map->base + r * map->stride + c * map->itemsize, map->itemsize);
    }
  start_bulk(to, barrier, std::move(contents));
}

bool land_bulk() {
  if (bulks.empty()) return false;
  size_t which = random_numbers() % bulks.size();
  Bulk bulk = std::move(bulks[which]);
  bulks.erase(bulks.begin() + which);
  memcpy(shared + bulk.to, bulk.contents.data(), bulk.contents.size());
  for (uint32_t i = bulk.to / 4; i < (bulk.to + bulk.contents.size()) / 4; i++) {
    words[i].pending--;
    words[i].writer = kBulk;
    words[i].written = epoch;
    words[i].unpublished = false;
  }
  Barrier& barrier = barrier_at(bulk.barrier);
  barrier.bytes -= bulk.contents.size();
  end_phase(barrier);
  return true;
}

void publish_writes() {
  for (const Range& range : current->unpublished)
    for (uint32_t i = range.at / 4; i <= (range.at + range.size - 1) / 4; i++)
      if (words[i].writer == current->number) words[i].unpublished = false;
  current->unpublished.clear();
}

}  // namespace emulator
