// cuBLASLt without a GPU: what sparsec calls of it, by cublasLt.h of CUDA 13. It computes on the host, in the turn of its
// stream where the host's GPU is loaded (`host_gpu.c`), and else at once. What the library leaves undefined is an error:
//
// - a descriptor that is none, layouts that do not fit together, an epilogue without its bias;
// - an algorithm of another product than the one it is called for, or of wider alignments than the addresses have;
// - a workspace that is too small, or not the GPU's. Where it is needed, it is overwritten.
//
// A handle takes memory of the GPU, so that none can be made while a stream is recorded.

#include <dlfcn.h>
#include <math.h>

#include "host_gpu.h"

enum { SUCCESS, NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum { FLOAT = 0, HALF = 2, BFLOAT = 14, COMPUTE_FLOAT = 68 };
enum { BIAS = 4, RELU = 2, GELU = 32, DEFAULT = 1 };
enum { HANDLE = 0xC0B1A5, DESCRIPTION, LAYOUT, PREFERENCE, ALGORITHM };
enum { SPLIT = 256 };  // inputs from which on an algorithm divides them

typedef struct { int kind; } Handle;
typedef struct { int kind, compute, scale, transposed[2], epilogue; const void *bias; } Description;
typedef struct { int kind, type; uint64_t rows, columns; int64_t leading; } Layout;
typedef struct { int kind; uint64_t workspace; uint32_t alignments[4]; } Preference;
typedef struct {
    uint32_t kind, epilogue, m, n, k, half, out, workspace;
    uint8_t alignments[4];
    uint32_t rest[7];
} Algorithm;
typedef struct { Algorithm algorithm; size_t workspace; int state; float waves; int reserved[4]; } Found;
typedef struct {
    Algorithm algorithm;
    const void *a, *b, *c, *bias;
    void *d, *workspace;
    float beta;
} Job;

static int (*on_stream)(const char *, int (*)(void *), void *, void *), (*holds)(const void *, size_t);
static int (*allocate)(void **, size_t, int);

static size_t size_of(int type) { return type == FLOAT ? 4 : 2; }
static float number(const void *from, int type, size_t at) {
    if (type == FLOAT) return ((const float *)from)[at];
    if (type == HALF) return ((const _Float16 *)from)[at];
    uint32_t bits = (uint32_t)((const uint16_t *)from)[at] << 16;
    float value;
    return memcpy(&value, &bits, 4), value;
}
static void keep(void *to, int type, size_t at, float value) {
    uint32_t bits;
    if (type == FLOAT) ((float *)to)[at] = value;
    else if (type == HALF) ((_Float16 *)to)[at] = value;
    else memcpy(&bits, &value, 4), ((uint16_t *)to)[at] = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}
static float activated(int epilogue, float x) {
    if (epilogue & RELU) return x > 0 ? x : 0;
    return epilogue & GELU ? x * 0.5f * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x))) : x;
}

static int compute(void *context) {
    Job *job = context;
    Algorithm *of = &job->algorithm;
    size_t m = of->m, n = of->n, k = of->k, half = size_of(of->half), out = size_of(of->out);
    if (holds && !(holds(job->a, m * k * half) && holds(job->b, n * k * half) && holds(job->d, m * n * out) &&
                   holds(job->bias, m * out) && (!job->beta || holds(job->c, m * n * out)) &&
                   (!of->workspace || holds(job->workspace, of->workspace))))
        return ILLEGAL_ADDRESS;
    memset(job->workspace, 0xFF, of->workspace);
    for (size_t column = 0; column < n; ++column)
        for (size_t row = 0; row < m; ++row) {
            float sum = 0;
            for (size_t at = 0; at < k; ++at)
                sum += number(job->a, of->half, row * k + at) * number(job->b, of->half, column * k + at);
            if (job->beta) sum += job->beta * number(job->c, of->out, column * m + row);
            keep(job->d, of->out, column * m + row, activated(of->epilogue, sum + number(job->bias, of->out, row)));
        }
    return OK;
}

int cublasLtCreate(Handle **handle) {
    void *gpu = dlopen("libcuda.so.1", RTLD_NOLOAD | RTLD_LAZY), *memory;
    if (gpu) on_stream = dlsym(gpu, "host_do"), holds = dlsym(gpu, "host_holds");
    if (gpu) allocate = dlsym(gpu, "host_allocate");
    if (allocate && allocate(&memory, 256, DEVICE)) return NOT_INITIALIZED;
    *handle = calloc(1, sizeof **handle), (*handle)->kind = HANDLE;
    return SUCCESS;
}
int cublasLtMatmulDescCreate(Description **made, int compute, int scale) {
    *made = calloc(1, sizeof **made);
    **made = (Description){DESCRIPTION, compute, scale, {0, 0}, DEFAULT};
    return SUCCESS;
}
int cublasLtMatmulDescSetAttribute(Description *of, int attribute, const void *value, size_t size) {
    if (of->kind != DESCRIPTION) return INVALID_VALUE;
    if ((attribute == 3 || attribute == 4) && size == 4) of->transposed[attribute - 3] = *(int *)value;
    else if (attribute == 7 && size == 4) of->epilogue = *(int *)value;
    else if (attribute == 8 && size == 8) of->bias = *(void **)value;
    else return INVALID_VALUE;
    return SUCCESS;
}
int cublasLtMatrixLayoutCreate(Layout **made, int type, uint64_t rows, uint64_t columns, int64_t leading) {
    *made = calloc(1, sizeof **made);
    **made = (Layout){LAYOUT, type, rows, columns, leading};
    return leading < (int64_t)rows ? INVALID_VALUE : SUCCESS;
}
int cublasLtMatmulPreferenceCreate(Preference **made) {
    *made = calloc(1, sizeof **made);
    **made = (Preference){PREFERENCE, 0, {256, 256, 256, 256}};
    return SUCCESS;
}
int cublasLtMatmulPreferenceSetAttribute(Preference *of, int attribute, const void *value, size_t size) {
    if (of->kind != PREFERENCE) return INVALID_VALUE;
    if (attribute == 1 && size == 8) of->workspace = *(uint64_t *)value;
    else if (attribute >= 5 && attribute < 9 && size == 4) of->alignments[attribute - 5] = *(uint32_t *)value;
    else return INVALID_VALUE;
    return SUCCESS;
}
int cublasLtMatmulPreferenceDestroy(Preference *of) { return free(of), SUCCESS; }

// The product that descriptors are of; zero where they fit together.
static int described(const Handle *handle, const Description *of, const Layout *a, const Layout *b, const Layout *c,
                     const Layout *d, Algorithm *found) {
    if (handle->kind != HANDLE || of->kind != DESCRIPTION) return INVALID_VALUE;
    if (a->kind != LAYOUT || b->kind != LAYOUT || c->kind != LAYOUT || d->kind != LAYOUT) return INVALID_VALUE;
    if (c->rows != d->rows || c->columns != d->columns || c->type != d->type) return INVALID_VALUE;
    if (a->type != b->type) return INVALID_VALUE;
    if (a->rows != b->rows || a->columns != d->rows || b->columns != d->columns) return INVALID_VALUE;
    if (of->compute != COMPUTE_FLOAT || of->scale != FLOAT) return NOT_SUPPORTED;
    if (!of->transposed[0] || of->transposed[1]) return NOT_SUPPORTED;
    if (a->type == FLOAT || (d->type != FLOAT && d->type != a->type)) return NOT_SUPPORTED;
    if (of->epilogue != BIAS && of->epilogue != (BIAS | RELU) && of->epilogue != (BIAS | GELU)) return NOT_SUPPORTED;
    if (a->leading != a->rows || b->leading != b->rows || d->leading != d->rows) return NOT_SUPPORTED;
    *found = (Algorithm){ALGORITHM, of->epilogue, d->rows, d->columns, a->rows, a->type, d->type};
    return SUCCESS;
}

int cublasLtMatmulAlgoGetHeuristic(Handle *handle, Description *of, Layout *a, Layout *b, Layout *c, Layout *d,
                                   Preference *wanted, int asked, Found *found, int *count) {
    *count = 0;
    int status = described(handle, of, a, b, c, d, &found->algorithm);
    if (status || wanted->kind != PREFERENCE || asked < 1) return status ? status : INVALID_VALUE;
    Algorithm *made = &found->algorithm;
    for (int each = 0; each < 4; ++each) {
        if (wanted->alignments[each] < 16) return NOT_SUPPORTED;  // what halves of tensor cores are copied by
        made->alignments[each] = wanted->alignments[each] / 16;
    }
    size_t partial = made->k >= SPLIT ? 4ul * made->m * made->n : 0;
    found->workspace = made->workspace = partial <= wanted->workspace ? partial : 0;
    return found->state = SUCCESS, *count = 1, SUCCESS;
}

int cublasLtMatmul(Handle *handle, Description *of, const float *alpha, const void *a, Layout *la, const void *b,
                   Layout *lb, const float *beta, const void *c, Layout *lc, void *d, Layout *ld,
                   const Algorithm *algorithm, void *workspace, size_t nbytes, void *stream) {
    Algorithm wanted;
    int status = described(handle, of, la, lb, lc, ld, &wanted);
    if (status) return status;
    wanted.workspace = algorithm->workspace;
    memcpy(wanted.alignments, algorithm->alignments, 4);
    const void *addresses[] = {a, b, c, d};
    for (int each = 0; each < 4; ++each)
        if ((uintptr_t)addresses[each] % (16 * algorithm->alignments[each])) return INVALID_VALUE;
    if (memcmp(&wanted, algorithm, sizeof wanted) || *alpha != 1 || (*beta && c == d)) return INVALID_VALUE;
    if (!of->bias || nbytes < algorithm->workspace || (uintptr_t)workspace % 16) return INVALID_VALUE;
    Job *job = malloc(sizeof *job);
    *job = (Job){*algorithm, a, b, c, of->bias, d, workspace, *beta};
    if (on_stream) return on_stream("cublaslt", compute, job, stream) ? EXECUTION_FAILED : SUCCESS;
    return compute(job), SUCCESS;
}
