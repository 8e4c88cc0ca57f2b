cdef extern from "moe_native/finalize.h" nogil:
    ctypedef struct moe_finalize_routing_args:
        const moe_tensor* expanded_permuted_rows
        const moe_tensor* skip1
        const moe_tensor* skip2
        const moe_tensor* bias
        const moe_tensor* scales
        const moe_tensor* expanded_src_to_dst_row
        const moe_tensor* export_for_source_row
        int64_t drop_pad_mode
        int64_t k
        moe_tensor* out

    moe_status moe_finalize_routing_shapes(const moe_finalize_routing_args*, moe_tensor*)
    moe_status moe_finalize_routing_plan(const moe_finalize_routing_args*, moe_plan*)
    moe_status moe_finalize_routing_run(
        const moe_finalize_routing_args*, const moe_plan*, void*, uint64_t, const moe_run_options*)


def finalize_routing(rows, skip1, skip2, bias, scales, index, expert, drop_pad_mode, k, out):
    cdef Call call = Call("npu_moe_finalize_routing")
    cdef moe_finalize_routing_args args
    cdef moe_tensor shape
    args.expanded_permuted_rows = call.input("expanded_permuted_rows", rows)
    args.skip1 = call.input("skip1", skip1)
    args.skip2 = call.input("skip2", skip2)
    args.bias = call.input("bias", bias)
    args.scales = call.input("scales", scales)
    args.expanded_src_to_dst_row = call.input("expanded_src_to_dst_row", index)
    args.export_for_source_row = call.input("export_for_source_row", expert)
    args.drop_pad_mode = call.integer("drop_pad_mode", drop_pad_mode)
    args.k = call.integer("k", k)
    args.out = NULL
    fail_if(moe_finalize_routing_shapes(&args, &shape))
    args.out = call.output("the result", out, &shape)
    call.run(<plan_function>moe_finalize_routing_plan, <run_function>moe_finalize_routing_run, &args, out is None)
    return call.array_of(0)
