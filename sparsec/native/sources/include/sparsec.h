/* libsparsec: running models that `sparsec bundle` has written, without Python.
 *
 * Every function that can fail returns a sparsec_status; sparsec_error() then says in one line what is wrong and what
 * to do. A session may be used from several threads at once. Nothing here throws or prints.
 */
#ifndef SPARSEC_H
#define SPARSEC_H

#include <stddef.h>
#include <stdint.h>

#if defined(SPARSEC_BUILD)
#define SPARSEC_API __attribute__((visibility("default")))
#else
#define SPARSEC_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define SPARSEC_MAX_RANK 8

typedef enum sparsec_status {
  SPARSEC_OK = 0,
  SPARSEC_ERROR_ARGUMENT = 1,  /* a null pointer, an option out of range */
  SPARSEC_ERROR_FILE = 2,      /* a file cannot be read */
  SPARSEC_ERROR_MODEL = 3,     /* the model is damaged, or of another version */
  SPARSEC_ERROR_MACHINE = 4,   /* this machine or its runtime library cannot run it */
  SPARSEC_ERROR_SIGNATURE = 5, /* a required signature is missing or another's */
  SPARSEC_ERROR_INPUT = 6,     /* an input's type, shape or value does not fit */
  SPARSEC_ERROR_MEMORY = 7,    /* there is no memory left */
  SPARSEC_ERROR_INTERNAL = 8   /* a defect of sparsec or of TVM's runtime */
} sparsec_status;

/* Element types, numbered as ONNX's TensorProto.DataType. */
typedef enum sparsec_type {
  SPARSEC_FLOAT32 = 1,
  SPARSEC_UINT8 = 2,
  SPARSEC_INT8 = 3,
  SPARSEC_UINT16 = 4,
  SPARSEC_INT16 = 5,
  SPARSEC_INT32 = 6,
  SPARSEC_INT64 = 7,
  SPARSEC_BOOL = 9,
  SPARSEC_FLOAT16 = 10,
  SPARSEC_FLOAT64 = 11,
  SPARSEC_UINT32 = 12,
  SPARSEC_UINT64 = 13,
  SPARSEC_BFLOAT16 = 16
} sparsec_type;

/* An array that somebody else owns. Strides count elements. */
typedef struct sparsec_tensor {
  void *data;
  int32_t type; /* sparsec_type */
  int32_t rank;
  int64_t shape[SPARSEC_MAX_RANK];
  int64_t strides[SPARSEC_MAX_RANK];
} sparsec_tensor;

/* What an input or output is. A size that the run tells, or that buckets differ in, is -1, and its dimension then has a
 * text: the symbol's name, or sizes such as "1/8/32"; NULL where the size is a number. */
typedef struct sparsec_info {
  const char *name;
  int32_t type;
  int32_t rank;
  int64_t shape[SPARSEC_MAX_RANK];
  const char *dims[SPARSEC_MAX_RANK];
} sparsec_info;

/* Options; begin with SPARSEC_OPTIONS, so that later versions of this header may add some. */
typedef struct sparsec_options {
  size_t size;
  int threads;            /* that one call may use; 0 for as many as the model was compiled for and the machine has */
  const char *public_key; /* a file in PEM whose owner must have signed the model (Ed25519); NULL requires nothing.
                             Checking takes OpenSSL's libcrypto at run time */
  const char *signature;  /* the file of the signature; NULL for the model's path with ".sig" behind it */
} sparsec_options;
#define SPARSEC_OPTIONS {sizeof(sparsec_options), 0, NULL, NULL}

typedef struct sparsec_session sparsec_session;
typedef struct sparsec_result sparsec_result;

/* The version of this library, and the text of this thread's last error ("" if there was none). */
SPARSEC_API const char *sparsec_version(void);
SPARSEC_API const char *sparsec_error(void);

/* Open a model from a file, which is mapped and must not change while it is open, or from memory, which is copied.
 * Every byte is checked against the SHA-256 that the file ends with. `options` may be NULL. */
SPARSEC_API sparsec_status sparsec_open(const char *path, const sparsec_options *options, sparsec_session **session);
SPARSEC_API sparsec_status sparsec_open_memory(const void *data, size_t bytes, const sparsec_options *options,
                                               sparsec_session **session);
/* Close a session that no call uses any more. Results stay valid. NULL is fine. */
SPARSEC_API void sparsec_close(sparsec_session *session);

/* The threads that a call uses. The threads belong to the calling thread, which gets them at its first call, as many as
 * the largest session open then has: open the largest first. */
SPARSEC_API int sparsec_threads(const sparsec_session *session);

SPARSEC_API size_t sparsec_input_count(const sparsec_session *session);
SPARSEC_API size_t sparsec_output_count(const sparsec_session *session);
/* NULL where there is none of that number; valid until the session is closed. */
SPARSEC_API const sparsec_info *sparsec_input(const sparsec_session *session, size_t index);
SPARSEC_API const sparsec_info *sparsec_output(const sparsec_session *session, size_t index);

/* A dense array in row-major order. */
SPARSEC_API sparsec_tensor sparsec_tensor_of(void *data, sparsec_type type, int32_t rank, const int64_t *shape);
/* Bytes of an element; 0 for a type that there is not. */
SPARSEC_API size_t sparsec_type_bytes(int32_t type);

/* Execute the model on its inputs, in the order of sparsec_input. They are read during the call only. */
SPARSEC_API sparsec_status sparsec_run(sparsec_session *session, const sparsec_tensor *inputs, size_t count,
                                       sparsec_result **result);
/* An output, in the order of sparsec_output; NULL where there is none of that number. It is valid until the result is
 * freed, may have strides, and must not be written to. Where it is the cache of a decoder, give it as the input of the
 * next call as it is: what is new is then appended in place. */
SPARSEC_API const sparsec_tensor *sparsec_result_output(const sparsec_result *result, size_t index);
SPARSEC_API void sparsec_result_free(sparsec_result *result);

/* Copy an array to dense memory of exactly as many bytes. */
SPARSEC_API sparsec_status sparsec_copy(const sparsec_tensor *tensor, void *target, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
