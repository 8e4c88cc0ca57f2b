/* How operators are run: plans and workspaces, data policy, threads, instruction sets, limits.
 *
 * Every operator `moe_<op>` comes as four functions over one argument struct:
 *
 *   moe_<op>_shapes(args, outputs)  checks the inputs, and describes the outputs (dtype, shape) in `outputs`, one
 *                                   moe_tensor per result in the order of the struct; output pointers of `args` are
 *                                   not looked at
 *   moe_<op>_check(args)            checks everything that can be checked without reading tensor data
 *   moe_<op>_plan(args, plan)       checks, and books the scratch memory that the run step needs
 *   moe_<op>_run(args, plan, workspace, workspace_size, options)
 *                                   checks tensor data, and computes; allocates nothing
 *
 * A null tensor pointer in an argument struct means that an optional argument is absent. A plan is valid for
 * the arguments it was made from (data pointers and data may change) and for any thread. Calls from several
 * threads at once are correct as long as their outputs and workspaces are disjoint. Outputs must not overlap
 * inputs or each other. Results are bit-identical for every number of threads.
 */
#ifndef MOE_NATIVE_RUNTIME_H
#define MOE_NATIVE_RUNTIME_H

#include <stdbool.h>
#include <stdint.h>

#include "moe_native/status.h"
#include "moe_native/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MOE_PLAN_MAX_PIECES 32

/* One booked piece of scratch memory. */
typedef struct moe_plan_piece {
    const char* name;
    uint64_t offset;
    uint64_t size;
} moe_plan_piece;

typedef struct moe_plan {
    uint64_t workspace_size; /* bytes to pass to the run step; any alignment will do */
    int32_t threads;         /* the largest team the run step will use */
    int32_t piece_count;
    moe_plan_piece pieces[MOE_PLAN_MAX_PIECES];
} moe_plan;

/* What the run step does with an index, count, prefix or map entry that leads outside a tensor. */
typedef enum moe_data_policy {
    MOE_DATA_REJECT = 0, /* return MOE_ERROR_INVALID before anything is written */
    MOE_DATA_SKIP = 1,   /* leave out the offending element or row, count it in the report, return MOE_OK */
    MOE_DATA_CHECK = 2,  /* as MOE_DATA_REJECT, but return MOE_OK where the computation would begin */
    MOE_DATA_POLICY_RANGE = INT32_MAX
} moe_data_policy;

/* What happens to those parts of an output that the operator does not define. */
typedef enum moe_undefined_policy {
    MOE_UNDEFINED_KEEP = 0, /* they keep what the caller had there */
    MOE_UNDEFINED_ZERO = 1, /* they are set to zero */
    MOE_UNDEFINED_POLICY_RANGE = INT32_MAX
} moe_undefined_policy;

typedef struct moe_data_report {
    uint64_t count;       /* offending elements */
    const char* argument; /* of the first one; null when count is 0 */
    int64_t index;        /* its flat position in that argument */
    int64_t value;
} moe_data_report;

typedef struct moe_run_options {
    moe_data_policy data_policy;
    moe_undefined_policy undefined_policy;
    moe_data_report* report; /* may be null; filled with MOE_DATA_SKIP */
} moe_run_options;

/* Threads of every later call of this process; 0 follows OpenMP (OMP_NUM_THREADS, omp_set_num_threads). A
 * lower limit set through OpenMP on the calling thread still applies, and no call uses more than 1024. Returns
 * MOE_ERROR_INVALID for a negative number. */
MOE_API moe_status moe_set_num_threads(int32_t threads);
/* The number of threads that a call on this thread would use. */
MOE_API int32_t moe_get_num_threads(void);

/* Restricts the kernels of this process to an instruction set and what lies below it: "baseline", "avx2",
 * "avx512", "avx512vnni", "avx512bf16" on x86-64, "baseline", "neon", "dotprod", "i8mm" on aarch64; null or "" lifts
 * the restriction. The environment variable MOE_NATIVE_ISA sets it at the first call. A name that is unknown
 * or that this processor lacks is MOE_ERROR_RUNTIME. */
MOE_API moe_status moe_set_isa_limit(const char* name);
/* The highest instruction set that kernels may use now. */
MOE_API const char* moe_get_isa_limit(void);

/* Sizes that the documents of the operators state as limits of a card. */
typedef enum moe_limits {
    MOE_LIMITS_NONE = 0,
    MOE_LIMITS_ATLAS_A2 = 1, /* the documented ranges of Atlas A2 */
    MOE_LIMITS_SEED = 2,     /* the narrower ranges of the first documents of the operators */
    MOE_LIMITS_RANGE = INT32_MAX
} moe_limits;

/* Enforces limits in calls of this thread; a number that is none of them enforces nothing. Returns the previous
 * setting. */
MOE_API moe_limits moe_set_limits(moe_limits limits);

/* How products of bfloat16 with bfloat16 are computed: those of npu_ffn. */
typedef enum moe_bf16_mode {
    MOE_BF16_FAST = 0,  /* by the dot instruction of the processor where that is faster */
    MOE_BF16_EXACT = 1, /* as float32, the same bits on every instruction set with FMA */
    MOE_BF16_DOT = 2,   /* by the dot instruction wherever the processor has one */
    MOE_BF16_MODE_RANGE = INT32_MAX
} moe_bf16_mode;

/* Sets the mode of calls of this thread; a number that is none of them is MOE_BF16_FAST. Returns the previous setting.
 * The environment variable MOE_NATIVE_BF16 ("fast", "exact", "dot") is the mode of threads that set none. */
MOE_API moe_bf16_mode moe_set_bf16_mode(moe_bf16_mode mode);

/* Version of the library, "major.minor.patch". */
MOE_API const char* moe_version(void);

#ifdef __cplusplus
}
#endif

#endif
