// What the parts of the host's GPU share: CUDA's numbers, and what host_gpu.c does for the others.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 1, NO_MEMORY = 2, BAD_HANDLE = 400, ILLEGAL_ADDRESS = 700,
       CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURE_IMPLICIT = 906 };
enum { TO_DEVICE = 1, TO_HOST = 2, ON_DEVICE = 3 };
enum { DEVICE, PINNED, STREAM, EVENT, GRAPH, EXECUTABLE, KINDS };

int host_begin(void *, int), host_end(void *, void **), host_allocate(void **, size_t, int), host_free(void *);
int host_memory(size_t *, size_t *), host_copy(void *, const void *, size_t, int, void *), host_wait(void *, int);
int host_make(void **, int), host_destroy(void *, int), host_record(void *, void *), host_order(void *, void *);
int host_reach(void *), host_replay(void *, void *), host_instantiate(void **, void *);
// What a library does on a stream, in its turn, and whether memory that it names is the GPU's.
int host_do(const char *name, int (*run)(void *), void *context, void *stream), host_holds(const void *, size_t);
