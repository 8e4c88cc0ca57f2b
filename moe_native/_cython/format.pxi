import math

from libc.stdint cimport uintptr_t
from libc.string cimport memcpy


cdef extern from "moe_native/format.h" nogil:
    ctypedef struct moe_format_cast_args:
        const moe_tensor* input
        moe_format acl_format
        int64_t c0
        cbool in_place
        moe_tensor* out

    int64_t moe_nz_default_c0(moe_dtype)
    moe_status moe_nz_check(const moe_tensor*)
    moe_status moe_nz_locate(const moe_tensor*, const int64_t*, int64_t*, int64_t*)
    moe_status moe_format_cast_shapes(const moe_format_cast_args*, moe_tensor*)
    moe_status moe_format_cast_plan(const moe_format_cast_args*, moe_plan*)
    moe_status moe_format_cast_run(
        const moe_format_cast_args*, const moe_plan*, void*, uint64_t, const moe_run_options*)


cdef cnp.ndarray empty_aligned(const moe_tensor* needed):
    """A new array that starts with a cache line: no row of a tile crosses one, and whole lines are written."""
    cdef int d
    shape = tuple([needed.shape[d] for d in range(needed.rank)])
    dtype = np.dtype(cnp.PyArray_DescrFromType(type_number_of(needed.dtype)))
    memory = np.empty(math.prod(shape) * dtype.itemsize + 64, np.uint8)
    cdef uintptr_t address = <uintptr_t>cnp.PyArray_DATA(memory)
    return np.ndarray(shape, dtype, memory, <Py_ssize_t>(-address % 64))


def nd_to_nz(value, c0, out):
    """The storage of `value` in FRACTAL_NZ."""
    cdef Call call = Call("npu_format_cast")
    cdef moe_format_cast_args args
    cdef moe_tensor needed
    cdef moe_tensor stored
    memset(&args, 0, sizeof(args))
    args.input = call.input("input", value)
    args.acl_format = MOE_FORMAT_NZ
    call.note("acl_format", 29)
    args.c0 = call.integer("c0", c0)
    fail_if(moe_format_cast_shapes(&args, &needed))
    stored = needed
    stored.format = MOE_FORMAT_ND
    stored.rank = needed.storage_rank
    memcpy(stored.shape, needed.storage_shape, sizeof(stored.shape))
    args.out = call.output("the storage", empty_aligned(&stored) if out is None else out, &stored)
    needed.data = args.out.data
    args.out = &needed
    call.run(<plan_function>moe_format_cast_plan, <run_function>moe_format_cast_run, &args, out is None)
    return call.array_of(0)


def nz_to_nd(value, out):
    """The plain array of an NzArray."""
    cdef Call call = Call("npu_format_cast")
    cdef moe_format_cast_args args
    cdef moe_tensor needed
    memset(&args, 0, sizeof(args))
    args.input = call.matrix("input", value)
    args.acl_format = MOE_FORMAT_ND
    call.note("acl_format", 2)
    fail_if(moe_format_cast_shapes(&args, &needed))
    args.out = call.output("the result", empty_aligned(&needed) if out is None else out, &needed)
    call.run(<plan_function>moe_format_cast_plan, <run_function>moe_format_cast_run, &args, out is None)
    return call.array_of(0)


def nz_check(cnp.ndarray storage, tuple shape):
    """Raises unless `storage` is that of a matrix of `shape`."""
    cdef Call call = Call("NzArray")
    fail_if(moe_nz_check(call.nz_view("storage", storage, shape)))


def nz_locate(cnp.ndarray storage, tuple shape, tuple index):
    """Position and storage index of an element; the index has as many numbers as the shape."""
    cdef Call call = Call("NzArray")
    cdef moe_tensor* tensor = call.nz_view("storage", storage, shape)
    cdef int64_t[8] where
    cdef int64_t[8] stored
    cdef int64_t position
    cdef int d
    for d in range(tensor.rank):
        where[d] = index[d]
    fail_if(moe_nz_locate(tensor, where, &position, stored))
    return position, tuple([stored[d] for d in range(tensor.storage_rank)])
