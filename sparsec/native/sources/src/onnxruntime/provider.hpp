// What a process with sparsec's compiler gives the execution provider, so that it compiles parts of graphs.
#pragma once

#include <cstddef>
#include <cstdint>

struct OrtApi;
struct OrtGraph;

extern "C" {

// Takes bytes, once.
typedef void (*sparsec_take)(void *into, const char *bytes, std::size_t size);

// Functions of the compiler; they return 0, or another number where `take` got the reason to refuse.
typedef struct {
  // Whether the provider's options, a line each, are such that it compiles with.
  int (*check)(const char *options, sparsec_take take, void *into);
  // The part that each node of a graph goes to, from 0 on, and -1 for those that are left to others.
  int (*divide)(const OrtApi *api, const OrtGraph *graph, const char *options, std::int64_t *parts, std::size_t nodes,
                sparsec_take take, void *into);
  // The file of the model of a part of a graph, as `sparsec bundle` writes it; `take` gets it.
  int (*compile)(const OrtApi *api, const OrtGraph *graph, const char *options, sparsec_take take, void *into);
} sparsec_compiler;

// Sets the compiler of this process, which must stay; NULL takes it away.
__attribute__((visibility("default"))) void sparsec_set_compiler(const sparsec_compiler *compiler);
}
