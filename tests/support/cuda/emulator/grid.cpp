// A grid that has begun before those in front of it have ended: it goes as far as it can without them, tells so through
// a pipe, and is told through another when they have ended. See chain.py.
#include <unistd.h>

#include <algorithm>

#include "state.h"

namespace emulator {

void wait_for_grids() {
  Thread* self = current;
  self->waiting = Wait::grid;
  while (!grids_ended) suspend();
  self->waiting = Wait::nothing;
}

bool let_grids_end() {
  auto waits = [](const Thread& thread) { return !thread.done && thread.waiting == Wait::grid; };
  if (grids_ended || std::none_of(threads.begin(), threads.end(), waits)) return false;
  char told = 'w';
  if (write(tells, &told, 1) != 1 || read(hears, &told, 1) != 1) fail("the grids in front of this one are lost");
  return grids_ended = true;
}

}  // namespace emulator

// The next launch begins before those in front of it have ended.
extern "C" void begin_early(int tells, int hears) {
  emulator::tells = tells, emulator::hears = hears, emulator::grids_ended = false;
}
