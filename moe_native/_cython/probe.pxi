cdef extern from "moe_native/probe.h" nogil:
    ctypedef enum moe_probe_kind:
        MOE_PROBE_INT8

    moe_status moe_probe(moe_probe_kind, void*, uint64_t, int64_t, uint64_t*)


def probe(int kind, cnp.ndarray memory, int64_t rounds):
    """Operations or bytes of some rounds of a probe; `memory` (writeable, or None) is what memory probes pass over."""
    cdef uint64_t amount
    cdef void* first = NULL
    cdef uint64_t size = 0
    cdef moe_status status
    if memory is not None:
        if not cnp.PyArray_ISCARRAY(memory):
            raise ValueError("probe: memory must be C-contiguous and writeable")
        first = cnp.PyArray_DATA(memory)
        size = cnp.PyArray_NBYTES(memory)
    with nogil:
        status = moe_probe(<moe_probe_kind>kind, first, size, rounds, &amount)
    fail_if(status)
    return amount
