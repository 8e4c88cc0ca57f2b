cdef extern from "moe_native/permute.h" nogil:
    ctypedef struct moe_token_permute_with_routing_map_args:
        const moe_tensor* tokens
        const moe_tensor* routing_map
        const moe_tensor* probs
        int64_t num_out_tokens
        cbool drop_and_pad
        moe_tensor* permuted_tokens
        moe_tensor* permuted_probs
        moe_tensor* sorted_indices

    moe_status moe_token_permute_with_routing_map_shapes(const moe_token_permute_with_routing_map_args*, moe_tensor*)
    moe_status moe_token_permute_with_routing_map_plan(const moe_token_permute_with_routing_map_args*, moe_plan*)
    moe_status moe_token_permute_with_routing_map_run(
        const moe_token_permute_with_routing_map_args*, const moe_plan*, void*, uint64_t, const moe_run_options*)

    ctypedef struct moe_token_unpermute_with_routing_map_args:
        const moe_tensor* permuted_tokens
        const moe_tensor* sorted_indices
        const moe_tensor* routing_map
        const moe_tensor* probs
        cbool drop_and_pad
        const int64_t* restore_shape
        moe_tensor* unpermuted
        moe_tensor* out_index
        moe_tensor* permuted_token_id
        moe_tensor* permute_probs

    moe_status moe_token_unpermute_with_routing_map_shapes(
        const moe_token_unpermute_with_routing_map_args*, moe_tensor*)
    moe_status moe_token_unpermute_with_routing_map_plan(const moe_token_unpermute_with_routing_map_args*, moe_plan*)
    moe_status moe_token_unpermute_with_routing_map_run(
        const moe_token_unpermute_with_routing_map_args*, const moe_plan*, void*, uint64_t, const moe_run_options*)


cdef moe_tensor* output_with_probs(Call call, str name, object out, const moe_tensor* needed) except? NULL:
    """A result that exists exactly when there are probabilities."""
    if needed.dtype != MOE_UNDEFINED:
        return call.output(name, out, needed)
    if out is not None:
        raise TypeError(f"{call.op}: out: an array for {name}, needed None as probs is None")
    return NULL


def permute(tokens, routing_map, probs, num_out_tokens, drop_and_pad, out):
    cdef Call call = Call("npu_moe_token_permute_with_routing_map")
    cdef moe_token_permute_with_routing_map_args args
    cdef moe_tensor[3] shapes
    memset(&args, 0, sizeof(args))
    out_tokens, out_probs, out_indices = call.results(out, 3)
    args.tokens = call.input("tokens", tokens)
    args.routing_map = call.input("routing_map", routing_map)
    args.drop_and_pad = call.boolean("drop_and_pad", drop_and_pad)
    if num_out_tokens is not None:
        args.num_out_tokens = call.integer("num_out_tokens", num_out_tokens)
    elif args.routing_map != NULL and args.routing_map.rank == 2:
        array = call.inputs[len(call.inputs) - 1]
        args.num_out_tokens = args.routing_map.shape[0] if drop_and_pad else np.count_nonzero(array)
        call.note("num_out_tokens", args.num_out_tokens)
    args.probs = call.input("probs", probs)
    fail_if(moe_token_permute_with_routing_map_shapes(&args, shapes))
    args.permuted_tokens = call.output("permuted_tokens", out_tokens, &shapes[0])
    args.permuted_probs = output_with_probs(call, "permuted_probs", out_probs, &shapes[1])
    args.sorted_indices = call.output("sorted_indices", out_indices, &shapes[2])
    call.run(<plan_function>moe_token_permute_with_routing_map_plan,
             <run_function>moe_token_permute_with_routing_map_run, &args, out is None)
    if args.probs == NULL:
        return call.array_of(0), None, call.array_of(1)
    return call.arrays()


def unpermute(permuted_tokens, sorted_indices, restore_shape, probs, routing_map, drop_and_pad, out):
    """All four results."""
    cdef Call call = Call("npu_moe_token_unpermute_with_routing_map")
    cdef moe_token_unpermute_with_routing_map_args args
    cdef moe_tensor[4] shapes
    cdef int64_t[2] restored
    memset(&args, 0, sizeof(args))
    out_tokens, out_index, out_id, out_probs = call.results(out, 4)
    args.permuted_tokens = call.input("permuted_tokens", permuted_tokens)
    args.sorted_indices = call.input("sorted_indices", sorted_indices)
    if restore_shape is not None:
        try:
            sizes = tuple(restore_shape)
        except TypeError:
            raise TypeError(
                f"{call.op}: restore_shape: {type(restore_shape).__name__}, needed (tokens, hidden)"
            ) from None
        if len(sizes) != 2:
            raise ValueError(f"{call.op}: restore_shape: {len(sizes)} numbers, needed 2: (tokens, hidden)")
        restored[0] = call.integer("restore_shape", sizes[0])
        restored[1] = call.integer("restore_shape", sizes[1])
        call.note("restore_shape", (restored[0], restored[1]))
        args.restore_shape = restored
    args.probs = call.input("probs", probs)
    args.routing_map = call.input("routing_map", routing_map)
    args.drop_and_pad = call.boolean("drop_and_pad", drop_and_pad)
    fail_if(moe_token_unpermute_with_routing_map_shapes(&args, shapes))
    args.unpermuted = call.output("unpermuted", out_tokens, &shapes[0])
    args.out_index = call.output("out_index", out_index, &shapes[1])
    args.permuted_token_id = call.output("permuted_token_id", out_id, &shapes[2])
    args.permute_probs = output_with_probs(call, "permute_probs", out_probs, &shapes[3])
    call.run(<plan_function>moe_token_unpermute_with_routing_map_plan,
             <run_function>moe_token_unpermute_with_routing_map_run, &args, out is None)
    return call.arrays() if args.probs != NULL else (*call.arrays(), None)
