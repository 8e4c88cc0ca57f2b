cdef extern from "moe_native/pack.h" nogil:
    ctypedef struct moe_pack_args:
        const moe_tensor* w
        int64_t k
        int64_t n
        moe_tensor* out

    moe_status moe_pack_shapes(const moe_pack_args*, moe_tensor*)
    moe_status moe_pack_plan(const moe_pack_args*, moe_plan*)
    moe_status moe_pack_run(const moe_pack_args*, const moe_plan*, void*, uint64_t, const moe_run_options*)
    moe_status moe_packed_view(const void*, uint64_t, moe_tensor*)
    moe_status moe_packed_verify(const void*, uint64_t)
    cbool moe_packed_is_current(const moe_tensor*)


def pack(w, k, n, out):
    """The bytes of a packed weight."""
    cdef Call call = Call("pack")
    cdef moe_pack_args args
    cdef moe_tensor needed
    memset(&args, 0, sizeof(args))
    args.w = call.matrix("w", w)
    args.k = call.integer("k", k)
    args.n = call.integer("n", n)
    fail_if(moe_pack_shapes(&args, &needed))
    args.out = call.output("the result", empty_aligned(&needed) if out is None else out, &needed)
    call.run(<plan_function>moe_pack_plan, <run_function>moe_pack_run, &args, out is None)
    return call.array_of(0)


def packed_verify(cnp.ndarray array):
    """Raises unless the bytes are a packed weight whose contents are those that were packed."""
    cdef const void* data = cnp.PyArray_DATA(array)
    cdef uint64_t size = cnp.PyArray_NBYTES(array)
    cdef moe_status status
    with nogil:
        status = moe_packed_verify(data, size)
    fail_if(status)


def packed_description(cnp.ndarray array):
    """The shape, the name of the dtype, and whether the kernels of now read it where it lies."""
    cdef moe_tensor tensor
    fail_if(moe_packed_view(cnp.PyArray_DATA(array), cnp.PyArray_NBYTES(array), &tensor))
    shape = (tensor.shape[0], tensor.shape[1], tensor.shape[2])
    return shape, moe_dtype_name(tensor.dtype).decode(), moe_packed_is_current(&tensor)


def aligned_bytes(size):
    """A new array of bytes that starts with a cache line."""
    cdef moe_tensor tensor
    cdef int64_t count = size
    tensor = moe_tensor_make(NULL, MOE_UINT8, 1, &count)
    return empty_aligned(&tensor)
