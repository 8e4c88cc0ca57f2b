cdef extern from "moe_native/init_routing.h" nogil:
    ctypedef struct moe_init_routing_v2_args:
        const moe_tensor* x
        const moe_tensor* expert_idx
        const moe_tensor* scale
        const moe_tensor* offset
        int64_t active_num
        int64_t expert_capacity
        int64_t expert_num
        int64_t drop_pad_mode
        int64_t expert_tokens_num_type
        cbool expert_tokens_num_flag
        int64_t quant_mode
        const int64_t* active_expert_range
        int64_t active_expert_range_length
        int64_t row_idx_type
        moe_tensor* expanded_x
        moe_tensor* expanded_row_idx
        moe_tensor* expert_token_cumsum_or_count
        moe_tensor* expanded_scale

    moe_status moe_init_routing_v2_shapes(const moe_init_routing_v2_args*, moe_tensor*)
    moe_status moe_init_routing_v2_plan(const moe_init_routing_v2_args*, moe_plan*)
    moe_status moe_init_routing_v2_run(
        const moe_init_routing_v2_args*, const moe_plan*, void*, uint64_t, const moe_run_options*)


def init_routing_v2(x, expert_idx, scale, offset, active_num, expert_capacity, expert_num, drop_pad_mode,
                    expert_tokens_num_type, expert_tokens_num_flag, quant_mode, active_expert_range, row_idx_type, out):
    cdef Call call = Call("npu_moe_init_routing_v2")
    cdef moe_init_routing_v2_args args
    cdef moe_tensor[4] shapes
    cdef int64_t[2] bounds
    cdef int64_t bound
    cdef int i
    args.x = call.input("x", x)
    args.expert_idx = call.input("expert_idx", expert_idx)
    args.scale = call.input("scale", scale)
    args.offset = call.input("offset", offset)
    args.active_num = call.integer("active_num", active_num)
    args.expert_capacity = call.integer("expert_capacity", expert_capacity)
    args.expert_num = call.integer("expert_num", expert_num)
    args.drop_pad_mode = call.integer("drop_pad_mode", drop_pad_mode)
    args.expert_tokens_num_type = call.integer("expert_tokens_num_type", expert_tokens_num_type)
    args.expert_tokens_num_flag = call.boolean("expert_tokens_num_flag", expert_tokens_num_flag)
    args.quant_mode = call.integer("quant_mode", quant_mode)
    args.row_idx_type = call.integer("row_idx_type", row_idx_type)
    if not isinstance(active_expert_range, (list, tuple)):
        raise TypeError(
            f"{call.op}: active_expert_range: {type(active_expert_range).__name__}, needed a list of two ints"
        )
    # A list of another length is for the core to refuse; its numbers need not be kept.
    for i, value in enumerate(active_expert_range):
        bound = call.integer("active_expert_range", value)
        if i < 2:
            bounds[i] = bound
    if call.arguments is not None:
        call.note("active_expert_range", [operator.index(value) for value in active_expert_range])
    args.active_expert_range = bounds
    args.active_expert_range_length = len(active_expert_range)
    args.expanded_x = args.expanded_row_idx = args.expert_token_cumsum_or_count = args.expanded_scale = NULL
    fail_if(moe_init_routing_v2_shapes(&args, shapes))
    results = call.results(out, 4)
    args.expanded_x = call.output("expanded_x", results[0], &shapes[0])
    args.expanded_row_idx = call.output("expanded_row_idx", results[1], &shapes[1])
    args.expert_token_cumsum_or_count = call.output("expert_token_cumsum_or_count", results[2], &shapes[2])
    args.expanded_scale = call.output("expanded_scale", results[3], &shapes[3])
    call.run(<plan_function>moe_init_routing_v2_plan, <run_function>moe_init_routing_v2_run, &args, out is None)
    return call.arrays()
