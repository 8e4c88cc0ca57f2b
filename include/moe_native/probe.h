/* What this machine can do at most, to hold running times against: peak rates of arithmetic and of memory.
 *
 * A probe does a known amount of work with the threads and the instruction set that operators would use; the caller
 * takes the time. Rates of memory change within minutes on virtual machines: probe around every measurement.
 */
#ifndef MOE_NATIVE_PROBE_H
#define MOE_NATIVE_PROBE_H

#include <stdint.h>

#include "moe_native/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum moe_probe_kind {
    /* Products that are added up in registers, by the best instruction of the instruction set. */
    MOE_PROBE_INT8 = 0,     /* exact int8 products into int32 */
    MOE_PROBE_FLOAT32 = 1,  /* float32 */
    MOE_PROBE_BFLOAT16 = 2, /* bfloat16 products into float32; as float32 where there is no instruction for them */
    /* Passes over memory; stores go past the cache. */
    MOE_PROBE_READ = 3,  /* all of it */
    MOE_PROBE_WRITE = 4, /* all of it */
    MOE_PROBE_COPY = 5,  /* the first half to the second */
    MOE_PROBE_KIND_RANGE = INT32_MAX
} moe_probe_kind;

/* Does `rounds` rounds of work on every thread (arithmetic), or `rounds` passes over memory[0 .. size) shared between
 * the threads, size being cut to whole pages per thread. Memory should be far larger than the caches and hold data
 * other than zeros; it is ignored by the probes of arithmetic. Writes to `amount` the operations (a multiplication
 * and an addition are two) or the bytes (read plus written) of the whole call.
 *
 * MOE_ERROR_NULL: no `amount`, or no memory for a probe that needs it. MOE_ERROR_INVALID: an unknown kind, negative
 * rounds. */
MOE_API moe_status moe_probe(moe_probe_kind kind, void* memory, uint64_t size, int64_t rounds, uint64_t* amount);

#ifdef __cplusplus
}
#endif

#endif
