cdef extern from "moe_native/gating.h" nogil:
    ctypedef struct moe_gating_top_k_softmax_args:
        const moe_tensor* x
        const moe_tensor* finished
        int64_t k
        moe_tensor* y
        moe_tensor* expert_idx
        moe_tensor* row_idx

    moe_status moe_gating_top_k_softmax_shapes(const moe_gating_top_k_softmax_args*, moe_tensor*)
    moe_status moe_gating_top_k_softmax_plan(const moe_gating_top_k_softmax_args*, moe_plan*)
    moe_status moe_gating_top_k_softmax_run(
        const moe_gating_top_k_softmax_args*, const moe_plan*, void*, uint64_t, const moe_run_options*)

    ctypedef struct moe_gating_top_k_softmax_v2_args:
        const moe_tensor* x
        const moe_tensor* finished
        int64_t k
        int64_t renorm
        cbool output_softmax
        moe_tensor* y
        moe_tensor* expert_idx
        moe_tensor* softmax

    moe_status moe_gating_top_k_softmax_v2_shapes(const moe_gating_top_k_softmax_v2_args*, moe_tensor*)
    moe_status moe_gating_top_k_softmax_v2_plan(const moe_gating_top_k_softmax_v2_args*, moe_plan*)
    moe_status moe_gating_top_k_softmax_v2_run(
        const moe_gating_top_k_softmax_v2_args*, const moe_plan*, void*, uint64_t, const moe_run_options*)

    ctypedef struct moe_gating_top_k_args:
        const moe_tensor* x
        const moe_tensor* bias
        int64_t k
        int64_t k_group
        int64_t group_count
        int64_t group_select_mode
        int64_t renorm
        int64_t norm_type
        cbool out_flag
        double routed_scaling_factor
        double eps
        moe_tensor* y
        moe_tensor* expert_idx
        moe_tensor* norm_out

    moe_status moe_gating_top_k_shapes(const moe_gating_top_k_args*, moe_tensor*)
    moe_status moe_gating_top_k_plan(const moe_gating_top_k_args*, moe_plan*)
    moe_status moe_gating_top_k_run(
        const moe_gating_top_k_args*, const moe_plan*, void*, uint64_t, const moe_run_options*)

    ctypedef struct moe_compute_expert_tokens_args:
        const moe_tensor* sorted_expert_for_source_row
        int64_t num_expert
        moe_tensor* out

    moe_status moe_compute_expert_tokens_shapes(const moe_compute_expert_tokens_args*, moe_tensor*)
    moe_status moe_compute_expert_tokens_plan(const moe_compute_expert_tokens_args*, moe_plan*)
    moe_status moe_compute_expert_tokens_run(
        const moe_compute_expert_tokens_args*, const moe_plan*, void*, uint64_t, const moe_run_options*)


def gating_top_k_softmax(x, finished, k, out):
    cdef Call call = Call("npu_moe_gating_top_k_softmax")
    cdef moe_gating_top_k_softmax_args args
    cdef moe_tensor[3] shapes
    memset(&args, 0, sizeof(args))
    args.x = call.input("x", x)
    args.finished = call.input("finished", finished)
    args.k = call.integer("k", k)
    fail_if(moe_gating_top_k_softmax_shapes(&args, shapes))
    y, expert_idx, row_idx = call.results(out, 3)
    args.y = call.output("y", y, &shapes[0])
    args.expert_idx = call.output("expert_idx", expert_idx, &shapes[1])
    args.row_idx = call.output("row_idx", row_idx, &shapes[2])
    call.run(<plan_function>moe_gating_top_k_softmax_plan, <run_function>moe_gating_top_k_softmax_run, &args,
             out is None)
    return call.arrays()


def gating_top_k_softmax_v2(x, k, finished, renorm, output_softmax, out):
    cdef Call call = Call("npu_moe_gating_top_k_softmax_v2")
    cdef moe_gating_top_k_softmax_v2_args args
    cdef moe_tensor[3] shapes
    memset(&args, 0, sizeof(args))
    args.x = call.input("x", x)
    args.finished = call.input("finished", finished)
    args.k = call.integer("k", k)
    args.renorm = call.integer("renorm", renorm)
    args.output_softmax = call.boolean("output_softmax", output_softmax)
    fail_if(moe_gating_top_k_softmax_v2_shapes(&args, shapes))
    y, expert_idx, softmax = call.results(out, 3)
    args.y = call.output("y", y, &shapes[0])
    args.expert_idx = call.output("expert_idx", expert_idx, &shapes[1])
    args.softmax = call.output("softmax", softmax, &shapes[2])
    call.run(<plan_function>moe_gating_top_k_softmax_v2_plan, <run_function>moe_gating_top_k_softmax_v2_run, &args,
             out is None)
    return call.arrays()


def gating_top_k(x, k, bias, k_group, group_count, group_select_mode, renorm, norm_type, out_flag,
                 routed_scaling_factor, eps, out):
    cdef Call call = Call("npu_moe_gating_top_k")
    cdef moe_gating_top_k_args args
    cdef moe_tensor[3] shapes
    memset(&args, 0, sizeof(args))
    args.x = call.input("x", x)
    args.bias = call.input("bias", bias)
    args.k = call.integer("k", k)
    args.k_group = call.integer("k_group", k_group)
    args.group_count = call.integer("group_count", group_count)
    args.group_select_mode = call.integer("group_select_mode", group_select_mode)
    args.renorm = call.integer("renorm", renorm)
    args.norm_type = call.integer("norm_type", norm_type)
    args.out_flag = call.boolean("out_flag", out_flag)
    args.routed_scaling_factor = call.real("routed_scaling_factor", routed_scaling_factor)
    args.eps = call.real("eps", eps)
    fail_if(moe_gating_top_k_shapes(&args, shapes))
    y, expert_idx, norm_out = call.results(out, 3)
    args.y = call.output("y", y, &shapes[0])
    args.expert_idx = call.output("expert_idx", expert_idx, &shapes[1])
    args.norm_out = call.output("norm_out", norm_out, &shapes[2])
    call.run(<plan_function>moe_gating_top_k_plan, <run_function>moe_gating_top_k_run, &args, out is None)
    return call.arrays()


def compute_expert_tokens(sorted_expert_for_source_row, num_expert, out):
    cdef Call call = Call("npu_moe_compute_expert_tokens")
    cdef moe_compute_expert_tokens_args args
    cdef moe_tensor shape
    memset(&args, 0, sizeof(args))
    args.sorted_expert_for_source_row = call.input("sorted_expert_for_source_row", sorted_expert_for_source_row)
    args.num_expert = call.integer("num_expert", num_expert)
    fail_if(moe_compute_expert_tokens_shapes(&args, &shape))
    args.out = call.output("the result", out, &shape)
    call.run(<plan_function>moe_compute_expert_tokens_plan, <run_function>moe_compute_expert_tokens_run, &args,
             out is None)
    return call.array_of(0)
