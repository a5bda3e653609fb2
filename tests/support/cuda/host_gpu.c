// A GPU without arithmetic: the functions of CUDA's driver and runtime that TVM calls, in the host's memory.
//
// Memory, copies, streams, events and graphs obey CUDA's rules; kernels are recorded and do nothing. Compiled twice:
// as libcuda.so.1, and with -DRUNTIME as libcudart.so.13.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 1, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURE_IMPLICIT = 906 };

typedef struct { char name[256]; int allowed; } Function;
typedef struct { unsigned grid[3], block[3], shared; void *stream; void *attributes; unsigned count; } Launch;

#ifndef RUNTIME

static void *capturing;  // the stream that is being recorded
static int broken;       // the recording met what it cannot hold
static char text[1 << 20];
static size_t used;

void *host_capturing(void) { return capturing; }
const char *host_log(void) { return text; }

// Whether a call that waits or allocates may be made; it ends a recording.
int host_free_call(void) {
    if (capturing) broken = 1;
    return capturing ? CAPTURE_UNSUPPORTED : OK;
}

int host_begin(void *stream) {
    if (capturing || !stream) return CAPTURE_UNSUPPORTED;
    capturing = stream, broken = 0;
    return OK;
}

int host_end(void) {
    capturing = NULL;
    return broken ? CAPTURE_INVALIDATED : OK;
}

void host_note(const char *what, const char *name, void *stream, unsigned shared) {
    if (used < sizeof text - 512)
        used += snprintf(text + used, sizeof text - used, "%s %s %lu %u\n", what, name, (unsigned long)stream, shared);
}

int cuInit(unsigned flags) { return OK; }
int cuDriverGetVersion(int *version) { return *version = 13000, OK; }
int cuDeviceGet(int *device, int number) { return *device = number, OK; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { return *value = attribute == 75 ? 8 : 0, OK; }
int cuDeviceGetName(char *name, int length, int device) { return snprintf(name, length, "host"), OK; }
int cuGetErrorName(int error, const char **name) { return *name = "an error of the driver", OK; }
int cuGetErrorString(int error, const char **name) { return *name = "an error of the driver", OK; }
int cuTensorMapEncodeTiled(void) { return INVALID; }
int cuModuleUnload(void *module) { return OK; }

int cuModuleLoadData(void **module, const void *image) {
    if (*(const uint32_t *)image != 0xBA55ED50u) return 200;  // no fat binary
    *module = (void *)image;
    return host_free_call();
}

int cuModuleGetFunction(void **function, void *module, const char *name) {
    Function *made = calloc(1, sizeof *made);
    snprintf(made->name, sizeof made->name, "%s", name);
    return *function = made, OK;
}

int cuFuncSetAttribute(void *function, int attribute, int value) {
    if (value > 163 << 10) return INVALID;
    return ((Function *)function)->allowed = value, OK;
}

int cuLaunchKernelEx(const Launch *launch, void *function, void **arguments, void **extra) {
    Function *called = function;
    unsigned threads = launch->block[0] * launch->block[1] * launch->block[2];
    if (launch->shared > 48 << 10 && launch->shared > (unsigned)called->allowed) return INVALID;
    if (!threads || threads > 1024) return INVALID;
    if (capturing && capturing != launch->stream) return broken = 1, CAPTURE_IMPLICIT;
    host_note(capturing ? "record" : "launch", called->name, launch->stream, launch->shared);
    return OK;
}

#else

void *host_capturing(void);
int host_free_call(void), host_begin(void *), host_end(void);
void host_note(const char *, const char *, void *, unsigned);

static uintptr_t handles;

int cudaGetDevice(int *device) { return *device = 0, OK; }
int cudaSetDevice(int device) { return device ? INVALID : OK; }
int cudaDeviceSynchronize(void) { return host_free_call(); }
int cudaGetDeviceCount(int *count) { return *count = 1, OK; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) { return *value = 0, OK; }
int cudaGetDeviceProperties(void *properties, int device) { return INVALID; }
int cudaGetLastError(void) { return OK; }
int cudaPeekAtLastError(void) { return OK; }
const char *cudaGetErrorName(int error) { return "an error of the runtime"; }
const char *cudaGetErrorString(int error) {
    return error == CAPTURE_UNSUPPORTED ? "not permitted when a stream is capturing" : "an error of the runtime";
}

int cudaMalloc(void **memory, size_t size) {
    *memory = aligned_alloc(256, (size + 255) / 256 * 256);
    return host_free_call();
}
int cudaMallocHost(void **memory, size_t size) { return cudaMalloc(memory, size); }
int cudaFree(void *memory) { return free(memory), host_free_call(); }
int cudaFreeHost(void *memory) { return cudaFree(memory); }
int cudaMemGetInfo(size_t *unused, size_t *total) { return *unused = *total = (size_t)1 << 34, OK; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    return memcpy(to, from, size), host_free_call();
}
int cudaMemcpyPeerAsync(void *to, int a, const void *from, int b, size_t size, void *stream) { return INVALID; }

int cudaStreamCreate(void **stream) { return *stream = (void *)++handles, OK; }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { return cudaStreamCreate(stream); }
int cudaStreamDestroy(void *stream) { return OK; }
int cudaStreamSynchronize(void *stream) { return host_free_call(); }
int cudaStreamWaitEvent(void *stream, void *event, unsigned flags) { return OK; }
int cudaStreamBeginCapture(void *stream, int mode) { return host_begin(stream); }
int cudaStreamEndCapture(void *stream, void **graph) { return *graph = (void *)++handles, host_end(); }
int cudaGraphInstantiate(void **executable, void *graph, unsigned long long flags) { return *executable = graph, OK; }
int cudaGraphLaunch(void *executable, void *stream) { return host_note("replay", "graph", stream, 0), OK; }
int cudaGraphDestroy(void *graph) { return OK; }
int cudaGraphExecDestroy(void *executable) { return OK; }

int cudaEventCreate(void **event) { return cudaStreamCreate(event); }
int cudaEventDestroy(void *event) { return OK; }
int cudaEventRecord(void *event, void *stream) { return OK; }
int cudaEventSynchronize(void *event) { return host_free_call(); }
int cudaEventElapsedTime(float *milliseconds, void *begin, void *end) { return *milliseconds = 1, OK; }

#endif
