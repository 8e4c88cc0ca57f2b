/* Status codes and the text of the last error.
 *
 * Every function of the C API that can fail returns a moe_status. The numbers equal those of the aclnn
 * interface, so that a client of both needs one table. Nothing throws and nothing aborts.
 */
#ifndef MOE_NATIVE_STATUS_H
#define MOE_NATIVE_STATUS_H

#include <stdint.h>

#if defined(__GNUC__)
#define MOE_API __attribute__((visibility("default")))
#else
#define MOE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t moe_status;

enum {
    MOE_OK = 0,
    MOE_ERROR_NULL = 161001,        /* a required pointer is null */
    MOE_ERROR_INVALID = 161002,     /* a dtype, format, shape, value or piece of data that is not allowed */
    MOE_ERROR_RUNTIME = 361001,     /* the environment: an unknown instruction set, no memory */
    MOE_ERROR_INNER = 561000,       /* the run step could not start */
    MOE_ERROR_INFER_SHAPE = 561001, /* output shapes do not follow from the inputs */
    MOE_ERROR_TILING = 561002,      /* a shape or attribute that no kernel accepts */
    MOE_ERROR_NO_KERNEL = 561003,   /* nothing in this library computes this */
    MOE_ERROR_CREATE_EXECUTOR = 561101,
    MOE_ERROR_INNER_NULL = 561103
};

/* What kind of mistake it was, independent of the code an operator family uses for it. */
typedef enum moe_error_kind {
    MOE_KIND_NONE = 0,
    MOE_KIND_MISSING = 1, /* an argument that is required is absent */
    MOE_KIND_DTYPE = 2,   /* an argument has the wrong element type */
    MOE_KIND_SHAPE = 3,   /* a rank, a dimension, or shapes that do not fit together */
    MOE_KIND_VALUE = 4,   /* a number, flag or string outside its set */
    MOE_KIND_DATA = 5,    /* the contents of an index, count, prefix, token or map tensor */
    MOE_KIND_RUNTIME = 6  /* the environment or the caller's workspace */
} moe_error_kind;

typedef struct moe_error {
    moe_status status;
    moe_error_kind kind;
    const char* op;       /* operator, e.g. "npu_moe_finalize_routing"; "" outside of one */
    const char* argument; /* the argument at fault; "" when it is not a single one */
    const char* message;  /* one line: what was seen and what is needed */
} moe_error;

/* The last error of the calling thread. The pointer and its strings stay valid until the next call of the
 * library on this thread. A successful call does not clear it. Never null. */
MOE_API const moe_error* moe_last_error(void);

/* Name of a status code, e.g. "MOE_ERROR_INVALID"; "unknown status" for other numbers. */
MOE_API const char* moe_status_name(moe_status status);

#ifdef __cplusplus
}
#endif

#endif
