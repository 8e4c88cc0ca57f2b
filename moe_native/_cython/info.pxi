cdef extern from "moe_native/info.h" nogil:
    ctypedef struct moe_config:
        const char* version
        const char* compiler
        const char* flags
        const char* processor_isa
        const char* isa_limit
        const char* isa_origin
        const char* openmp_library
        int32_t openmp
        int32_t threads

    void moe_get_config(moe_config*)

    ctypedef enum moe_kernel_state:
        MOE_KERNEL_CHOSEN
        MOE_KERNEL_SURPASSED
        MOE_KERNEL_ABOVE_LIMIT
        MOE_KERNEL_UNSUPPORTED
        MOE_KERNEL_REFERENCE

    ctypedef struct moe_kernel:
        const char* family
        const char* name
        const char* isa
        moe_kernel_state state
        cbool used
        int32_t tile_rows
        int32_t tile_columns

    int32_t moe_kernels(moe_kernel*, int32_t)
    void moe_watch_kernels(cbool)


def config():
    """The core's configuration as a dict."""
    cdef moe_config values
    moe_get_config(&values)
    return {
        "version": values.version.decode(),
        "compiler": values.compiler.decode(),
        "flags": values.flags.decode(),
        "processor_isa": values.processor_isa.decode(),
        "isa_limit": values.isa_limit.decode(),
        "isa_origin": values.isa_origin.decode(),
        "openmp_library": values.openmp_library.decode("utf-8", "surrogateescape"),
        "openmp": values.openmp,
        "threads": values.threads,
    }


def kernels():
    """All kernels: (family, name, isa, state, used, tile rows, tile columns) each."""
    cdef int32_t count = moe_kernels(NULL, 0)
    cdef int32_t i
    cdef moe_kernel* found = <moe_kernel*>PyMem_RawMalloc(count * sizeof(moe_kernel))
    if found == NULL:
        raise MemoryError
    try:
        moe_kernels(found, count)
        return [
            (found[i].family.decode(), found[i].name.decode(), found[i].isa.decode(), <int>found[i].state,
             found[i].used, found[i].tile_rows, found[i].tile_columns)
            for i in range(count)
        ]
    finally:
        PyMem_RawFree(found)


def watched(call):
    """Makes a call, and returns the plans of the operators in it: (operator, threads, bytes, ((piece, size), ...))."""
    plans = []
    outer = getattr(scratch_of_thread, "plans", None)
    scratch_of_thread.plans = plans
    global watchers
    watchers += 1
    moe_watch_kernels(True)
    try:
        call()
    finally:
        moe_watch_kernels(False)
        watchers -= 1
        scratch_of_thread.plans = outer
    return plans
