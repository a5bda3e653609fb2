// CUDA's runtime on the host's GPU (`host_gpu.c`): libcudart.so.13.
#include "host_gpu.h"

int cudaGetDevice(int *device) { return *device = 0, OK; }
int cudaSetDevice(int device) { return device ? INVALID : OK; }
int cudaDeviceSynchronize(void) { return host_wait(NULL, 1); }
int cudaGetDeviceCount(int *count) { return *count = 1, OK; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) { return *value = 0, OK; }
int cudaGetDeviceProperties(void *properties, int device) { return INVALID; }
int cudaGetLastError(void) { return OK; }
int cudaPeekAtLastError(void) { return OK; }
const char *cudaGetErrorName(int error) { return "an error of the runtime"; }
const char *cudaGetErrorString(int error) {
    return error == CAPTURE_UNSUPPORTED ? "not permitted when a stream is capturing" :
           error == NO_MEMORY ? "out of memory" :
           error == ILLEGAL_ADDRESS ? "an illegal memory access was encountered" : "an error of the runtime";
}

int cudaMalloc(void **memory, size_t size) { return host_allocate(memory, size, DEVICE); }
int cudaMallocHost(void **memory, size_t size) { return host_allocate(memory, size, PINNED); }
int cudaFree(void *memory) { return host_free(memory); }
int cudaFreeHost(void *memory) { return host_free(memory); }
int cudaMemGetInfo(size_t *unused, size_t *total) { return host_memory(unused, total); }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    return host_copy(to, from, size, kind, stream);
}
int cudaMemcpyPeerAsync(void *to, int a, const void *from, int b, size_t size, void *stream) { return INVALID; }

int cudaStreamCreate(void **stream) { return host_make(stream, STREAM); }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { return cudaStreamCreate(stream); }
int cudaStreamDestroy(void *stream) { return host_destroy(stream, STREAM); }
int cudaStreamSynchronize(void *stream) { return host_wait(stream, 0); }
int cudaStreamWaitEvent(void *stream, void *event, unsigned flags) { return host_order(stream, event); }
int cudaStreamBeginCapture(void *stream, int mode) { return host_begin(stream, mode); }
int cudaStreamEndCapture(void *stream, void **graph) { return host_end(stream, graph); }
int cudaGraphInstantiate(void **executable, void *graph, unsigned long long flags) {
    return host_instantiate(executable, graph);
}
int cudaGraphLaunch(void *executable, void *stream) { return host_replay(executable, stream); }
int cudaGraphDestroy(void *graph) { return host_destroy(graph, GRAPH); }
int cudaGraphExecDestroy(void *executable) { return host_destroy(executable, EXECUTABLE); }

int cudaEventCreate(void **event) { return host_make(event, EVENT); }
int cudaEventCreateWithFlags(void **event, unsigned flags) { return host_make(event, EVENT); }
int cudaEventDestroy(void *event) { return host_destroy(event, EVENT); }
int cudaEventRecord(void *event, void *stream) { return host_record(event, stream); }
int cudaEventSynchronize(void *event) { return host_reach(event); }
int cudaEventElapsedTime(float *milliseconds, void *begin, void *end) { return *milliseconds = 1, OK; }
