// Shared memory as a GPU leaves it undefined: every word remembers who wrote and who read it since which barrier.
// Reading what was never written, what an asynchronous copy may still change, or what another thread wrote without a
// barrier in between ends the launch, and so does overwriting what others may still read. Global memory lies between
// unmapped pages (see emulate.py); touching those ends the launch as well.
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
    if (word.multiplied) fail("write to shared memory that an asynchronous product may still read");
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

void publish_writes() {
  for (const Range& range : current->unpublished)
    for (uint32_t i = range.at / 4; i <= (range.at + range.size - 1) / 4; i++)
      if (words[i].writer == current->number) words[i].unpublished = false;
  current->unpublished.clear();
}

}  // namespace emulator
