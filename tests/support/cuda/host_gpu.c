// A GPU without arithmetic: the functions of CUDA's driver that TVM and sessions call, in the host's memory.
// It stands for hardware that is absent, and obeys CUDA's rules rather than a script:
//
// - Copies from and to pinned memory happen when somebody waits for their stream, not before; those of other memory at
//   once. A copy whose ends are not both allocated by then is an illegal address, after which every call fails.
// - A recording takes what its stream gets and allows its thread nothing that waits or allocates; other threads go on,
//   and may record as well, one stream each. Who waits for the whole device meanwhile fails and ends all recordings.
//   Copies are among it where their memory is pinned, and happen in every replay.
// - Handles that were destroyed are refused; what is freed while a copy still needs it is counted.
// - Kernels are recorded and do nothing but those of libraries, which compute when copies happen; grids have 1 to 2^31 - 1
//   blocks along x, 1 to 65,535 along y and z, and a cluster's divide them. Those that may begin before the one in front
//   of them has ended are noted as such, and refused before sm_90.
// - Maps of matrices lie in one allocation, and are aligned as the hardware wants them.
//
// HOST_GPU_BYTES bounds the memory, HOST_GPU_PINNED what is pinned, HOST_GPU_DRIVER is the version of CUDA (13000),
// HOST_GPU_CAPABILITY the compute capability (80). It is libcuda.so.1; host_cudart.c and host_cublaslt.c stand on it.

#include <pthread.h>

#include "host_gpu.h"

typedef struct { char name[256]; int allowed; } Function;
typedef struct { int id, unused; unsigned value[16]; } Attribute;
typedef struct { unsigned grid[3], block[3], shared; void *stream; Attribute *attributes; unsigned count; } Launch;
enum { CLUSTER = 4, PROGRAMMATIC = 6 };  // of CUlaunchAttributeID

typedef struct Stream Stream;
typedef struct {
    void *to; const void *from; size_t size; int kind;  // a copy,
    Stream *other; size_t upto;                         // what another stream must have done,
    int (*run)(void *); void *context;                  // or what a library does: zero where it may
} Work;
struct Stream { int alive; Work *work; size_t count, done, room; };
typedef struct { int alive; Stream *stream; size_t upto; Work *work; size_t count; } Event;  // or graph, with its copies
typedef struct { char *begin; size_t size; int kind; } Block;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static Stream legacy = {1}, *streams[4096] = {&legacy};
typedef struct { Stream *stream; pthread_t thread; int mode, broken; Work *work; size_t count; } Capture;
static Capture captures[64];
static Block blocks[1 << 16];
static int stream_count = 1, block_count, sticky, freed_early;
static long live[KINDS], made[KINDS], copies, launches, replays;
static size_t used_bytes, most_bytes, pinned_bytes;
static char text[1 << 20], counted[1024];
static size_t used;

static long setting(const char *name, long otherwise) {
    const char *value = getenv(name);
    return value ? atol(value) : otherwise;
}
static size_t limit(void) { return setting("HOST_GPU_BYTES", 1L << 34); }
static void lock(void) { pthread_mutex_lock(&mutex); }
static int unlock(int status) {
    if (sticky) status = sticky;
    pthread_mutex_unlock(&mutex);
    return status;
}

static void note(const char *what, const char *name, void *stream, unsigned shared) {
    if (used < sizeof text - 512)
        used += snprintf(text + used, sizeof text - used, "%s %s %lu %u\n", what, name, (unsigned long)stream, shared);
}
const char *host_log(void) { return text; }
const char *host_counts(void) {
    const char *names[] = {"device", "pinned", "stream", "event", "graph", "executable"};
    size_t at = 0;
    for (int kind = 0; kind < KINDS; ++kind)
        at += snprintf(counted + at, sizeof counted - at, "live_%s %ld\nmade_%s %ld\n", names[kind], live[kind],
                       names[kind], made[kind]);
    snprintf(counted + at, sizeof counted - at, "copies %ld\nreplays %ld\nfreed_early %d\nbytes %zu\nmost_bytes %zu\n",
             copies, replays, freed_early, used_bytes, most_bytes);
    return counted;
}

static Block *block_of(const void *address, size_t size) {
    for (int i = 0; i < block_count; ++i)
        if (blocks[i].begin && blocks[i].begin <= (char *)address && (char *)address + size <= blocks[i].begin + blocks[i].size)
            return &blocks[i];
    return NULL;
}
static int is(const void *address, size_t size, int kind) {
    Block *block = block_of(address, size);
    return block && block->kind == kind;
}

static void transfer(const Work *work) {
    int to = work->kind != TO_HOST, from = work->kind != TO_DEVICE;
    if ((to && !is(work->to, work->size, DEVICE)) || (from && !is(work->from, work->size, DEVICE)) ||
        (!to && !is(work->to, work->size, PINNED)) || (!from && !is(work->from, work->size, PINNED))) {
        sticky = ILLEGAL_ADDRESS;
        return;
    }
    memmove(work->to, work->from, work->size);
}
static void drain(Stream *stream, size_t upto) {
    while (stream->done < upto) {
        Work *work = &stream->work[stream->done++];
        if (work->other) drain(work->other, work->upto);
        else if (work->run) sticky = sticky ? sticky : work->run(work->context);
        else if (work->size) transfer(work);
    }
}
static void drain_all(void) {
    for (int i = 0; i < stream_count; ++i) drain(streams[i], streams[i]->count);
}
static void put(Stream *stream, Work work) {
    if (stream->done == stream->count) stream->done = stream->count = 0;
    if (stream->count == stream->room) stream->work = realloc(stream->work, (stream->room = 2 * stream->room + 64) * sizeof work);
    stream->work[stream->count++] = work;
}
// The recording of a stream, of this thread, or any that is not its thread's alone.
static Capture *capture_of(Stream *stream) {
    for (Capture *each = captures; each < captures + 64; ++each) if (stream && each->stream == stream) return each;
    return NULL;
}
static Capture *own_capture(void) {
    for (Capture *each = captures; each < captures + 64; ++each)
        if (each->stream && (!each->mode || pthread_equal(each->thread, pthread_self()))) return each;
    return NULL;
}

// Whether a call that waits or allocates may be made; it ends a recording.
static int free_call(void) {
    Capture *own = own_capture();
    if (own) own->broken = 1;
    return own ? CAPTURE_UNSUPPORTED : OK;
}
static int wait_for_all(void) {
    int status = OK;
    for (Capture *each = captures; each < captures + 64; ++each)
        if (each->stream) each->broken = 1, status = CAPTURE_UNSUPPORTED;
    return status;
}
static Stream *stream_of(void *stream) { return stream ? stream : &legacy; }

int host_begin(void *stream, int mode) {
    lock();
    if (!stream || own_capture() || capture_of(stream)) return unlock(CAPTURE_UNSUPPORTED);
    for (Capture *each = captures; each < captures + 64; ++each)
        if (!each->stream) {
            *each = (Capture){stream, pthread_self(), mode};
            return unlock(OK);
        }
    return unlock(NO_MEMORY);
}
int host_end(void *stream, void **graph) {
    lock();
    Capture *own = capture_of(stream);
    if (!own) return unlock(INVALID);
    own->stream = NULL;
    if (!own->broken) {
        Event *made_graph = *graph = calloc(1, sizeof(Event));
        ++live[GRAPH], ++made[GRAPH];
        made_graph->alive = 1, made_graph->work = own->work, made_graph->count = own->count;
    }
    return unlock(own->broken ? CAPTURE_INVALIDATED : OK);
}

int host_allocate(void **memory, size_t size, int kind) {
    lock();
    int status = free_call();
    if (!status && kind == DEVICE && used_bytes + size > limit()) status = NO_MEMORY;
    if (!status && kind == PINNED && pinned_bytes + size > setting("HOST_GPU_PINNED", 1L << 34)) status = NO_MEMORY;
    if (status) return unlock(status);
    *memory = aligned_alloc(256, (size + 255) / 256 * 256);
    blocks[block_count++] = (Block){*memory, size, kind};
    ++live[kind], ++made[kind];
    if (kind == DEVICE && (used_bytes += size) > most_bytes) most_bytes = used_bytes;
    if (kind == PINNED) pinned_bytes += size;
    return unlock(OK);
}
int host_free(void *memory) {
    lock();
    int status = free_call();
    if (!memory || status) return unlock(status);
    for (int i = 0; i < stream_count; ++i)
        for (size_t at = streams[i]->done; at < streams[i]->count; ++at) {
            Work *work = &streams[i]->work[at];
            Block *a = work->size ? block_of(work->to, 1) : NULL, *b = work->size ? block_of(work->from, 1) : NULL;
            if ((a && a->begin == memory) || (b && b->begin == memory)) ++freed_early;
        }
    drain_all();
    for (int i = 0; i < block_count; ++i)
        if (blocks[i].begin == memory) {
            --live[blocks[i].kind];
            *(blocks[i].kind == DEVICE ? &used_bytes : &pinned_bytes) -= blocks[i].size;
            blocks[i] = blocks[--block_count], free(memory);
            return unlock(OK);
        }
    return unlock(INVALID);
}
int host_memory(size_t *unused, size_t *total) {
    lock();
    *total = limit(), *unused = *total - used_bytes;
    return unlock(OK);
}

static int keep(Capture *own, Work work, const char *name) {
    own->work = realloc(own->work, (own->count + 1) * sizeof *own->work);
    own->work[own->count++] = work;
    note("record", name, own->stream, 0);
    return unlock(OK);
}
static int spoil(Capture *own, Capture *other) {
    if (own) own->broken = 1;
    if (other) other->broken = 1;
    return unlock(CAPTURE_UNSUPPORTED);
}
int host_holds(const void *address, size_t size) { return is(address, size, DEVICE); }
int host_do(const char *name, int (*run)(void *), void *context, void *stream) {
    lock();
    Stream *where = stream_of(stream);
    if (!where->alive) return unlock(BAD_HANDLE);
    Capture *own = own_capture(), *recording = capture_of(where);
    Work work = {.run = run, .context = context};
    if (own && own == recording) return keep(own, work, name);
    if (own || recording) return spoil(own, recording);
    note("launch", name, stream, 0);
    return put(where, work), unlock(OK);
}

int host_copy(void *to, const void *from, size_t size, int kind, void *stream) {
    lock();
    Stream *where = stream_of(stream);
    if (!where->alive) return unlock(BAD_HANDLE);
    const void *host = kind == TO_DEVICE ? from : kind == TO_HOST ? to : NULL;
    int pageable = host && !is(host, size, PINNED);
    Capture *own = own_capture(), *recording = capture_of(where);
    if (own && own == recording && !pageable) return keep(own, (Work){to, from, size, kind}, "copy");
    if (own || recording) return spoil(own, recording);
    ++copies;
    if (!pageable) return put(where, (Work){to, from, size, kind}), unlock(OK);
    drain(where, where->count);
    if (!is(host == from ? to : from, size, DEVICE)) sticky = ILLEGAL_ADDRESS;
    else memmove(to, from, size);
    return unlock(OK);
}
int host_wait(void *stream, int all) {
    lock();
    int status = all ? wait_for_all() : free_call();
    Stream *where = stream_of(stream);
    if (!where->alive) return unlock(BAD_HANDLE);
    if (!status) all ? drain_all() : drain(where, where->count);
    return unlock(status);
}

int host_make(void **handle, int kind) {
    lock();
    if (kind == STREAM) {
        Stream *stream = calloc(1, sizeof *stream);
        stream->alive = 1, *handle = streams[stream_count++] = stream;
    } else {
        Event *event = calloc(1, sizeof *event);
        event->alive = 1, *handle = event;
    }
    ++live[kind], ++made[kind];
    return unlock(OK);
}
int host_destroy(void *handle, int kind) {  // streams, events, graphs and executables begin with `alive`
    lock();
    if (!handle || !*(int *)handle) return unlock(BAD_HANDLE);
    *(int *)handle = 0, --live[kind];
    return unlock(OK);
}
int host_record(void *handle, void *stream) {
    lock();
    Event *event = handle;
    Stream *where = stream_of(stream);
    if (!event->alive || !where->alive) return unlock(BAD_HANDLE);
    event->stream = where, event->upto = where->count;
    return unlock(OK);
}
int host_order(void *stream, void *handle) {
    lock();
    Event *event = handle;
    Stream *where = stream_of(stream);
    if (!event->alive || !where->alive) return unlock(BAD_HANDLE);
    if (event->stream && event->stream != where && event->stream->done < event->upto && event->upto <= event->stream->count)
        put(where, (Work){.other = event->stream, .upto = event->upto});
    return unlock(OK);
}
int host_reach(void *handle) {
    lock();
    Event *event = handle;
    int status = free_call();
    if (!status && event->stream && event->upto <= event->stream->count) drain(event->stream, event->upto);
    return unlock(status);
}
int host_instantiate(void **executable, void *graph) {
    if (!*(int *)graph) return BAD_HANDLE;
    int status = host_make(executable, EXECUTABLE);
    Event *made_executable = *executable, *recorded = graph;
    made_executable->work = recorded->work, made_executable->count = recorded->count;
    return status;
}
int host_replay(void *executable, void *stream) {
    lock();
    if (!*(int *)executable || !stream_of(stream)->alive) return unlock(BAD_HANDLE);
    ++replays;
    note("replay", "graph", stream, 0);
    for (size_t at = 0; at < ((Event *)executable)->count; ++at) {
        Work work = ((Event *)executable)->work[at];
        put(stream_of(stream), work), copies += !work.run;
    }
    return unlock(OK);
}

int cuInit(unsigned flags) { return setting("HOST_GPU_CAPABILITY", 80) ? OK : 100; }
int cuDriverGetVersion(int *version) { return *version = setting("HOST_GPU_DRIVER", 13000), OK; }
int cuDeviceGet(int *device, int number) { return *device = number, OK; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int capability = setting("HOST_GPU_CAPABILITY", 80);
    return *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : 0, OK;
}
int cuDeviceGetName(char *name, int length, int device) { return snprintf(name, length, "host"), OK; }
int cuGetErrorName(int error, const char **name) { return *name = "an error of the driver", OK; }
int cuGetErrorString(int error, const char **name) { return *name = "an error of the driver", OK; }
int cuTensorMapEncodeTiled(void *map, int type, unsigned rank, void *address, const uint64_t *sizes,
                           const uint64_t *strides, const unsigned *box, const unsigned *steps, int interleave, int swizzle,
                           int promotion, int fill) {
    size_t width = type ? 2 : 1, end = (sizes[1] - 1) * strides[0] + sizes[0] * width;  // bytes or halves; matrices only
    if ((type && type != 6 && type != 9) || rank != 2 || steps[0] != 1 || steps[1] != 1) return INVALID;
    if ((uintptr_t)map % 64 || (uintptr_t)address % 16 || strides[0] % 16 || strides[0] < sizes[0] * width) return INVALID;
    if (!box[0] || !box[1] || box[1] > 256 || box[0] * width > (swizzle == 3 ? 128 : 256)) return INVALID;
    lock();
    if (!is(address, end, DEVICE)) return unlock(INVALID);
    memcpy(map, &address, sizeof address);
    note("map", "matrix", NULL, box[1]);
    return unlock(OK);
}
int cuModuleUnload(void *module) { return OK; }

int cuModuleLoadData(void **module, const void *image) {
    if (*(const uint32_t *)image != 0xBA55ED50u) return 200;  // no fat binary
    *module = (void *)image;
    lock();
    return unlock(free_call());
}

int cuModuleGetFunction(void **function, void *module, const char *name) {
    Function *made = calloc(1, sizeof *made);
    snprintf(made->name, sizeof made->name, "%s", name);
    return *function = made, OK;
}

int cuFuncSetAttribute(void *function, int attribute, int value) {
    if (value > (setting("HOST_GPU_CAPABILITY", 80) < 90 ? 163 : 227) << 10) return INVALID;
    return ((Function *)function)->allowed = value, OK;
}

int cuLaunchKernelEx(const Launch *launch, void *function, void **arguments, void **extra) {
    Function *called = function;
    unsigned threads = launch->block[0] * launch->block[1] * launch->block[2];
    if (launch->shared > 48 << 10 && launch->shared > (unsigned)called->allowed) return INVALID;
    if (!threads || threads > 1024) return INVALID;
    for (int axis = 0; axis < 3; ++axis)
        if (!launch->grid[axis] || launch->grid[axis] > (axis ? 65535u : 0x7FFFFFFFu)) return INVALID;
    unsigned *cluster = NULL, early = 0;
    for (unsigned each = 0; each < launch->count; ++each)
        if (launch->attributes[each].id == CLUSTER) cluster = launch->attributes[each].value;
        else if (launch->attributes[each].id == PROGRAMMATIC) early = launch->attributes[each].value[0];
        else return INVALID;
    if (early && setting("HOST_GPU_CAPABILITY", 80) < 90) return INVALID;
    if (cluster && (setting("HOST_GPU_CAPABILITY", 80) < 90 || cluster[0] * cluster[1] * cluster[2] > 8)) return INVALID;
    for (int axis = 0; cluster && axis < 3; ++axis)
        if (!cluster[axis] || launch->grid[axis] % cluster[axis]) return INVALID;
    lock();
    if (cluster) note("cluster", called->name, launch->stream, cluster[0] * cluster[1] * cluster[2]);
    if (early) note("early", called->name, launch->stream, 0);
    Capture *own = own_capture();
    if (own && own->stream != launch->stream) return own->broken = 1, unlock(CAPTURE_IMPLICIT);
    note(capture_of(launch->stream) ? "record" : "launch", called->name, launch->stream, launch->shared);
    return unlock(OK);
}
