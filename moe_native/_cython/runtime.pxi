# Declarations of status.h, tensor.h and runtime.h, and the functions of the package that set up the runtime.

import operator

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libcpp cimport bool as cbool


cdef extern from "moe_native/moe_native.h" nogil:
    ctypedef int32_t moe_status

    ctypedef enum moe_error_kind:
        MOE_KIND_MISSING
        MOE_KIND_DTYPE
        MOE_KIND_SHAPE
        MOE_KIND_VALUE
        MOE_KIND_DATA
        MOE_KIND_RUNTIME

    ctypedef struct moe_error:
        moe_status status
        moe_error_kind kind
        const char* op
        const char* argument
        const char* message

    const moe_error* moe_last_error()

    ctypedef enum moe_dtype:
        MOE_UNDEFINED
        MOE_FLOAT32
        MOE_FLOAT16
        MOE_INT8
        MOE_INT32
        MOE_UINT8
        MOE_INT16
        MOE_UINT16
        MOE_UINT32
        MOE_INT64
        MOE_UINT64
        MOE_FLOAT64
        MOE_BOOL
        MOE_BFLOAT16
        MOE_INT4

    ctypedef enum moe_format:
        MOE_FORMAT_ND
        MOE_FORMAT_NZ

    int MOE_MAX_RANK

    ctypedef struct moe_tensor:
        void* data
        moe_dtype dtype
        moe_format format
        int32_t rank
        int32_t storage_rank
        int64_t[8] shape
        int64_t[8] stride
        int64_t[8] storage_shape

    const char* moe_dtype_name(moe_dtype)
    moe_tensor moe_tensor_make(void*, moe_dtype, int32_t, const int64_t*)

    ctypedef struct moe_plan_piece:
        const char* name
        uint64_t size

    ctypedef struct moe_plan:
        uint64_t workspace_size
        int32_t threads
        int32_t piece_count
        moe_plan_piece[32] pieces

    ctypedef enum moe_data_policy:
        MOE_DATA_REJECT
        MOE_DATA_SKIP
        MOE_DATA_CHECK

    ctypedef enum moe_undefined_policy:
        MOE_UNDEFINED_KEEP
        MOE_UNDEFINED_ZERO

    ctypedef struct moe_data_report:
        uint64_t count

    ctypedef struct moe_run_options:
        moe_data_policy data_policy
        moe_undefined_policy undefined_policy
        moe_data_report* report

    moe_status moe_set_num_threads(int32_t)
    int32_t moe_get_num_threads()
    moe_status moe_set_isa_limit(const char*)
    const char* moe_get_isa_limit()
    ctypedef enum moe_limits:
        MOE_LIMITS_NONE
        MOE_LIMITS_ATLAS_A2
        MOE_LIMITS_SEED
    moe_limits moe_set_limits(moe_limits)
    ctypedef enum moe_bf16_mode:
        MOE_BF16_FAST
        MOE_BF16_EXACT
        MOE_BF16_DOT
    moe_bf16_mode moe_set_bf16_mode(moe_bf16_mode)
    const char* moe_version()


cdef int raise_last_error() except -1:
    """The one place where a status of the core becomes an exception, which keeps it as ``status``."""
    cdef const moe_error* error = moe_last_error()
    text = error.message.decode("utf-8", "replace")
    op = error.op.decode()
    if op:
        text = f"{op}: {text}"
    if error.kind == MOE_KIND_MISSING or error.kind == MOE_KIND_DTYPE:
        exception = TypeError(text)
    elif error.kind == MOE_KIND_RUNTIME:
        exception = RuntimeError(text)
    else:
        exception = ValueError(text)
    exception.status = error.status
    raise exception


def set_num_threads(threads):
    if isinstance(threads, bool):
        raise TypeError(f"threads: {threads!r}, needed an int >= 0")
    # Numbers beyond any machine's are cut to what the core's type holds.
    if moe_set_num_threads(max(-1, min(operator.index(threads), 1 << 20))) != 0:
        raise_last_error()


def get_num_threads():
    return moe_get_num_threads()


def set_isa_limit(str name):
    encoded = b"" if name is None else name.encode()
    if moe_set_isa_limit(encoded) != 0:
        raise_last_error()


def get_isa_limit():
    return moe_get_isa_limit().decode()


def set_limits(int limits):
    return <int>moe_set_limits(<moe_limits>limits)


def set_bf16_mode(int mode):
    return <int>moe_set_bf16_mode(<moe_bf16_mode>mode)


def version():
    return moe_version().decode()
