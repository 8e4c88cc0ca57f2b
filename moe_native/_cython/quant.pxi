cdef extern from "moe_native/quant.h" nogil:
    ctypedef struct moe_dynamic_quant_args:
        const moe_tensor* input
        const moe_tensor* smooth_scales
        const moe_tensor* group_index
        moe_tensor* y
        moe_tensor* scale

    moe_status moe_dynamic_quant_shapes(const moe_dynamic_quant_args*, moe_tensor*)
    moe_status moe_dynamic_quant_plan(const moe_dynamic_quant_args*, moe_plan*)
    moe_status moe_dynamic_quant_run(
        const moe_dynamic_quant_args*, const moe_plan*, void*, uint64_t, const moe_run_options*)

    ctypedef struct moe_swiglu_args:
        const moe_tensor* input
        int64_t dim
        moe_tensor* out

    moe_status moe_swiglu_shapes(const moe_swiglu_args*, moe_tensor*)
    moe_status moe_swiglu_plan(const moe_swiglu_args*, moe_plan*)
    moe_status moe_swiglu_run(const moe_swiglu_args*, const moe_plan*, void*, uint64_t, const moe_run_options*)


def dynamic_quant(input, smooth_scales, group_index, out):
    cdef Call call = Call("npu_dynamic_quant")
    cdef moe_dynamic_quant_args args
    cdef moe_tensor[2] shapes
    args.input = call.input("input", input)
    args.smooth_scales = call.input("smooth_scales", smooth_scales)
    args.group_index = call.input("group_index", group_index)
    args.y = args.scale = NULL
    fail_if(moe_dynamic_quant_shapes(&args, shapes))
    results = call.results(out, 2)
    args.y = call.output("y", results[0], &shapes[0])
    args.scale = call.output("scale", results[1], &shapes[1])
    call.run(<plan_function>moe_dynamic_quant_plan, <run_function>moe_dynamic_quant_run, &args, out is None)
    return call.arrays()


def swiglu(input, dim, out):
    cdef Call call = Call("npu_swiglu")
    cdef moe_swiglu_args args
    cdef moe_tensor shape
    args.input = call.input("input", input)
    args.dim = call.integer("dim", dim)
    args.out = NULL
    fail_if(moe_swiglu_shapes(&args, &shape))
    args.out = call.output("the result", out, &shape)
    call.run(<plan_function>moe_swiglu_plan, <run_function>moe_swiglu_run, &args, out is None)
    return call.array_of(0)
