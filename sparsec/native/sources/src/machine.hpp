// The machine at hand: its processors, and TVM's threads.
#pragma once

#include "json.hpp"

namespace sparsec::native {

// Throws a Failure where this processor or TVM's runtime library cannot run what the plan describes.
void check_machine(const Json &plan);
// Processors that the process may keep busy: by its affinity, and by the quota of its control groups.
int available_processors();
// Let programs that this thread calls use so many threads. TVM has a pool for every calling thread, made at its first
// call and never larger: as large as the largest session that was opened before.
void use_threads(int threads);
// A session of so many threads is opened.
void expect_threads(int threads);

}  // namespace sparsec::native
