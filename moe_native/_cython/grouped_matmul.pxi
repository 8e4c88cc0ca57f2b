cdef extern from "moe_native/grouped_matmul.h" nogil:
    ctypedef struct moe_grouped_matmul_finalize_routing_args:
        const moe_tensor* x
        const moe_tensor* w
        const moe_tensor* group_list
        const moe_tensor* scale
        const moe_tensor* bias
        const moe_tensor* offset
        const moe_tensor* pertoken_scale
        const moe_tensor* shared_input
        const moe_tensor* logit
        const moe_tensor* row_index
        int64_t dtype
        float shared_input_weight
        int64_t shared_input_offset
        int64_t output_bs
        int64_t group_list_type
        const int64_t* tuning_config
        int64_t tuning_config_size
        moe_tensor* out

    moe_status moe_grouped_matmul_finalize_routing_shapes(
        const moe_grouped_matmul_finalize_routing_args*, moe_tensor*)
    moe_status moe_grouped_matmul_finalize_routing_plan(const moe_grouped_matmul_finalize_routing_args*, moe_plan*)
    moe_status moe_grouped_matmul_finalize_routing_run(
        const moe_grouped_matmul_finalize_routing_args*, const moe_plan*, void*, uint64_t, const moe_run_options*)

    ctypedef struct moe_grouped_matmul_swiglu_quant_args:
        const moe_tensor* x
        const moe_tensor* weight
        const moe_tensor* group_list
        const moe_tensor* weight_scale
        const moe_tensor* x_scale
        const moe_tensor* bias
        const moe_tensor* offset
        int64_t group_list_type
        moe_tensor* output
        moe_tensor* output_scale
        moe_tensor* output_offset

    moe_status moe_grouped_matmul_swiglu_quant_shapes(const moe_grouped_matmul_swiglu_quant_args*, moe_tensor*)
    moe_status moe_grouped_matmul_swiglu_quant_plan(const moe_grouped_matmul_swiglu_quant_args*, moe_plan*)
    moe_status moe_grouped_matmul_swiglu_quant_run(
        const moe_grouped_matmul_swiglu_quant_args*, const moe_plan*, void*, uint64_t, const moe_run_options*)


cdef moe_tensor* column_input(Call call, str name, object value) except? NULL:
    """One number per row, which may also come as a column (m, 1)."""
    cdef moe_tensor* tensor = call.input(name, value)
    if tensor != NULL and tensor.rank == 2 and tensor.shape[1] == 1:
        tensor.rank = 1
    return tensor


cdef int64_t first_entry(Call call, str name, object values, int64_t* size) except? -1:
    """The first of some integers, the only one the core looks at; all of them must be integers."""
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise TypeError(f"{call.op}: {name}: {type(values).__name__}, needed a list of int")
    numbers = [call.integer(name, entry) for entry in values]
    call.note(name, numbers)
    size[0] = len(numbers)
    return numbers[0] if numbers else 0


def grouped_matmul_finalize_routing(
        x, w, group_list, scale, bias, offset, pertoken_scale, shared_input, logit, row_index, dtype,
        shared_input_weight, shared_input_offset, output_bs, group_list_type, tuning_config, out):
    cdef Call call = Call("npu_grouped_matmul_finalize_routing")
    cdef moe_grouped_matmul_finalize_routing_args args
    cdef moe_tensor shape
    cdef int64_t tuning
    memset(&args, 0, sizeof(args))
    args.x = call.input("x", x)
    args.w = call.matrix("w", w)
    args.group_list = call.input("group_list", group_list)
    args.scale = call.input("scale", scale)
    args.bias = call.input("bias", bias)
    args.offset = call.input("offset", offset)
    args.pertoken_scale = column_input(call, "pertoken_scale", pertoken_scale)
    args.shared_input = call.input("shared_input", shared_input)
    args.logit = call.input("logit", logit)
    args.row_index = call.input("row_index", row_index)
    args.dtype = dtype
    args.shared_input_weight = call.real("shared_input_weight", shared_input_weight)
    args.shared_input_offset = call.integer("shared_input_offset", shared_input_offset)
    args.output_bs = call.integer("output_bs", output_bs)
    args.group_list_type = call.integer("group_list_type", group_list_type)
    if tuning_config is not None:
        tuning = first_entry(call, "tuning_config", tuning_config, &args.tuning_config_size)
        args.tuning_config = &tuning
    fail_if(moe_grouped_matmul_finalize_routing_shapes(&args, &shape))
    args.out = call.output("the result", out, &shape)
    call.run(<plan_function>moe_grouped_matmul_finalize_routing_plan,
             <run_function>moe_grouped_matmul_finalize_routing_run, &args, out is None)
    return call.array_of(0)


def grouped_matmul_swiglu_quant(
        x, weight, group_list, weight_scale, x_scale, bias, offset, group_list_type, out):
    cdef Call call = Call("npu_grouped_matmul_swiglu_quant")
    cdef moe_grouped_matmul_swiglu_quant_args args
    cdef moe_tensor[3] shapes
    memset(&args, 0, sizeof(args))
    args.x = call.input("x", x)
    args.weight = call.matrix("weight", weight)
    args.group_list = call.input("group_list", group_list)
    args.weight_scale = call.input("weight_scale", weight_scale)
    args.x_scale = column_input(call, "x_scale", x_scale)
    args.bias = call.input("bias", bias)
    args.offset = call.input("offset", offset)
    args.group_list_type = call.integer("group_list_type", group_list_type)
    fail_if(moe_grouped_matmul_swiglu_quant_shapes(&args, shapes))
    output, output_scale, output_offset = call.results(out, 3)
    args.output = call.output("output", output, &shapes[0])
    args.output_scale = call.output("output_scale", output_scale, &shapes[1])
    args.output_offset = call.output("output_offset", output_offset, &shapes[2])
    call.run(<plan_function>moe_grouped_matmul_swiglu_quant_plan,
             <run_function>moe_grouped_matmul_swiglu_quant_run, &args,
             output is None and output_scale is None and output_offset is None)
    return call.arrays()
