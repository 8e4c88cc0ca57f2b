/* What this library is, what it runs on, and which kernels it uses.
 *
 * Inner loops come in families; a family has one kernel per instruction set that it has something for. Every call
 * uses the last kernel of a family that the processor and the limit (moe_set_isa_limit, MOE_NATIVE_ISA) allow.
 */
#ifndef MOE_NATIVE_INFO_H
#define MOE_NATIVE_INFO_H

#include <stdbool.h>
#include <stdint.h>

#include "moe_native/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moe_config {
    const char* version;
    const char* compiler;
    const char* flags;          /* build type and options of every file; kernels have those of their set besides */
    const char* processor_isa;  /* the highest instruction set of this processor that there are kernels for */
    const char* isa_limit;      /* the highest one that kernels may use now */
    const char* isa_origin;     /* what set it: "processor", "MOE_NATIVE_ISA" or "moe_set_isa_limit" */
    const char* openmp_library; /* file of the OpenMP runtime in use; "" if unknown */
    int32_t openmp;             /* version of OpenMP this was compiled for, as _OPENMP */
    int32_t threads;            /* that a call on this thread would use */
} moe_config;

/* Fills in `config`; its strings live as long as the library. */
MOE_API void moe_get_config(moe_config* config);

typedef enum moe_kernel_state {
    MOE_KERNEL_CHOSEN = 0,      /* what calls use now */
    MOE_KERNEL_SURPASSED = 1,   /* could be used, but a later one of the family can as well */
    MOE_KERNEL_ABOVE_LIMIT = 2, /* the processor could, the limit forbids it */
    MOE_KERNEL_UNSUPPORTED = 3, /* the processor lacks its instruction set */
    MOE_KERNEL_REFERENCE = 4, /* only others are compared with it; where none of them runs, calls use another family */
    MOE_KERNEL_STATE_RANGE = INT32_MAX
} moe_kernel_state;

typedef struct moe_kernel {
    const char* family;
    const char* name; /* within the family */
    const char* isa;  /* lowest instruction set that has it */
    moe_kernel_state state;
    bool used;            /* by a call that this thread has made since moe_watch_kernels */
    int32_t tile_rows;    /* of a product that are accumulated in registers at once; 0 where there are no tiles */
    int32_t tile_columns; /* likewise */
} moe_kernel;

/* Describes all kernels of all families: writes at most `capacity` of them, and returns how many there are. Null is
 * fine with capacity 0. */
MOE_API int32_t moe_kernels(moe_kernel* kernels, int32_t capacity);

/* Starts (true) or stops (false) noting which kernels the calls of this thread use; starting forgets what was noted
 * before. */
MOE_API void moe_watch_kernels(bool watch);

#ifdef __cplusplus
}
#endif

#endif
