cdef extern from "moe_native/ffn.h" nogil:
    ctypedef struct moe_ffn_args:
        const moe_tensor* x
        const moe_tensor* weight1
        const moe_tensor* weight2
        const moe_tensor* expert_tokens
        const moe_tensor* bias1
        const moe_tensor* bias2
        const moe_tensor* scale
        const moe_tensor* offset
        const moe_tensor* deq_scale1
        const moe_tensor* deq_scale2
        const moe_tensor* antiquant_scale1
        const moe_tensor* antiquant_scale2
        const moe_tensor* antiquant_offset1
        const moe_tensor* antiquant_offset2
        const char* activation
        int64_t inner_precise
        moe_dtype output_dtype
        cbool tokens_index
        cbool tokens_known
        moe_tensor* y

    moe_status moe_ffn_shapes(const moe_ffn_args*, moe_tensor*)
    moe_status moe_ffn_plan(const moe_ffn_args*, moe_plan*)
    moe_status moe_ffn_run(const moe_ffn_args*, const moe_plan*, void*, uint64_t, const moe_run_options*)


cdef object token_array(Call call, str name, object value):
    """A list of row numbers as an int64 array: from a list, a tuple or an integer array; None stays None."""
    if value is None:
        return None
    if not isinstance(value, (list, tuple)):
        array = as_array(value)
        if array is None:
            raise TypeError(f"{call.op}: {name}: {type(value).__name__}, needed a list of ints or an integer array")
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise TypeError(f"{call.op}: {name}: {array.dtype} {array.shape}, needed integers in 1 dimension")
        if dtype_of(array) == MOE_INT64:
            return array
        value = array.tolist()
    return np.array([call.integer(name, number) for number in value], np.int64)


cdef moe_dtype result_dtype(Call call, str name, object value) except? MOE_UNDEFINED:
    """The core's number of what NumPy takes for a dtype, or of torch's; None: MOE_UNDEFINED."""
    if value is None:
        return MOE_UNDEFINED
    known = {"torch.float16": np.float16, "torch.bfloat16": ml_dtypes.bfloat16}.get(str(value), value)
    try:
        dtype = dtype_of(np.empty(0, known))
    except (TypeError, ValueError, SyntaxError):  # what NumPy raises, by what it cannot make a dtype of
        dtype = MOE_UNDEFINED
    if dtype == MOE_UNDEFINED:
        raise TypeError(f"{call.op}: {name}: {value!r}, needed float16 or bfloat16")
    return dtype


def ffn(x, weight1, weight2, activation, expert_tokens, expert_tokens_index, bias1, bias2, scale, offset, deq_scale1,
        deq_scale2, antiquant_scale1, antiquant_scale2, antiquant_offset1, antiquant_offset2, inner_precise,
        output_dtype, out):
    cdef Call call = Call("npu_ffn")
    cdef moe_ffn_args args
    cdef moe_tensor shape
    if not isinstance(activation, str):
        raise TypeError(f"npu_ffn: activation: {type(activation).__name__}, needed a str")
    if "\0" in activation:
        raise ValueError(f"npu_ffn: activation: {activation!r}, needed a name without null characters")
    call.note("activation", activation)
    encoded = activation.encode("utf-8", "replace")
    args.activation = encoded
    args.x = call.input("x", x)
    args.weight1 = call.weight("weight1", weight1)
    args.weight2 = call.weight("weight2", weight2)
    args.tokens_index = expert_tokens_index is not None
    if args.tokens_index:
        args.expert_tokens = call.input(
            "expert_tokens_index", token_array(call, "expert_tokens_index", expert_tokens_index))
    else:
        args.expert_tokens = call.input("expert_tokens", token_array(call, "expert_tokens", expert_tokens))
    args.tokens_known = True
    args.bias1 = call.input("bias1", bias1)
    args.bias2 = call.input("bias2", bias2)
    args.scale = call.input("scale", scale)
    args.offset = call.input("offset", offset)
    args.deq_scale1 = call.input("deq_scale1", deq_scale1)
    args.deq_scale2 = call.input("deq_scale2", deq_scale2)
    args.antiquant_scale1 = call.input("antiquant_scale1", antiquant_scale1)
    args.antiquant_scale2 = call.input("antiquant_scale2", antiquant_scale2)
    args.antiquant_offset1 = call.input("antiquant_offset1", antiquant_offset1)
    args.antiquant_offset2 = call.input("antiquant_offset2", antiquant_offset2)
    args.inner_precise = call.integer("inner_precise", inner_precise)
    args.output_dtype = result_dtype(call, "output_dtype", None if deq_scale1 is None else output_dtype)
    if args.output_dtype != MOE_UNDEFINED:
        call.note("output_dtype", moe_dtype_name(args.output_dtype).decode())
    args.y = NULL
    fail_if(moe_ffn_shapes(&args, &shape))
    args.y = call.output("the result", out, &shape)
    call.run(<plan_function>moe_ffn_plan, <run_function>moe_ffn_run, &args, out is None)
    return call.array_of(0)
