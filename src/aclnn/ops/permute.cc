#include "moe_native/permute.h"
#include "aclnn/executor.h"
#include "aclnnop/aclnn_moe_token_permute_with_routing_map.h"
#include "aclnnop/aclnn_moe_token_unpermute_with_routing_map.h"

using namespace moe::device;

namespace {

constexpr Operation permute = {"aclnnMoeTokenPermuteWithRoutingMap", false, 161001, 161002, true, "routing_map"};
constexpr Operation unpermute = {"aclnnMoeTokenUnpermuteWithRoutingMap", false, 161001, 161002, true, "routing_map"};

}  // namespace

aclnnStatus aclnnMoeTokenPermuteWithRoutingMapGetWorkspaceSize(const aclTensor* tokens, const aclTensor* routingMap,
                                                               const aclTensor* probs, int64_t numOutTokens,
                                                               bool dropAndPad, aclTensor* permuteTokensOut,
                                                               aclTensor* permuteProbsOut, aclTensor* sortedIndicesOut,
                                                               uint64_t* workspaceSize, aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return first_phase(permute, workspaceSize, executor, [&](Call& call) -> Status {
            const Slot in = call.input("tokens", tokens);
            const Slot map = call.input("routingMap", routingMap, "routing_map");
            const Slot weight = call.optional_input("probs", probs);
            const Slot out = call.output("permuteTokensOut", permuteTokensOut, "permuted_tokens");
            const Slot out_probs = call.optional_output("permuteProbsOut", permuteProbsOut, "permuted_probs");
            const Slot indices = call.output("sortedIndicesOut", sortedIndicesOut, "sorted_indices");
            MOE_DEVICE_TRY(call.status());
            if (probs == nullptr && permuteProbsOut != nullptr)
                return refuse(161001, Rule::null_crash, "probs",
                              "null beside permuteProbsOut, which crashes a real host", "both or neither");
            // A card stops there, before it looks at the other shapes.
            const bool empty = !call.state(map).has_elements() || !call.state(out).has_elements();
            call.translate = [empty](Status status) { return empty && status == MOE_ERROR_TILING ? 0 : status; };
            call.compute(MOE_CORE(moe_token_permute_with_routing_map), [=](const Views& view) {
                moe_token_permute_with_routing_map_args args = {};
                args.tokens = view[in];
                args.routing_map = view[map];
                args.probs = view[weight];
                args.num_out_tokens = numOutTokens;
                args.drop_and_pad = dropAndPad;
                args.permuted_tokens = view[out];
                args.permuted_probs = view[out_probs];
                args.sorted_indices = view[indices];
                return args;
            });
            return 0;
        });
    });
}

aclnnStatus aclnnMoeTokenUnpermuteWithRoutingMapGetWorkspaceSize(const aclTensor* permutedTokens,
                                                                 const aclTensor* sortedIndices,
                                                                 const aclTensor* routingMap, const aclTensor* probs,
                                                                 bool paddedMode, const aclIntArray* restoreShape,
                                                                 aclTensor* unpermutedTokens, aclTensor* outIndex,
                                                                 aclTensor* permuteTokenId, aclTensor* permuteProbs,
                                                                 uint64_t* workspaceSize, aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return first_phase(unpermute, workspaceSize, executor, [&](Call& call) -> Status {
            const Slot in = call.input("permutedTokens", permutedTokens, "permuted_tokens");
            const Slot indices = call.input("sortedIndices", sortedIndices, "sorted_indices");
            const Slot map = call.optional_input("routingMap", routingMap, "routing_map");
            const Slot weight = call.optional_input("probs", probs);
            const Slot out = call.output("unpermutedTokens", unpermutedTokens, "unpermuted");
            const Slot index = paddedMode ? call.output("outIndex", outIndex, "out_index")
                                          : call.optional_output("outIndex", outIndex, "out_index");
            const Slot ids = paddedMode ? call.output("permuteTokenId", permuteTokenId, "permuted_token_id")
                                        : call.optional_output("permuteTokenId", permuteTokenId, "permuted_token_id");
            const Slot out_probs = call.optional_output("permuteProbs", permuteProbs, "permute_probs");
            MOE_DEVICE_TRY(call.status());
            if (probs == nullptr && restoreShape == nullptr)
                return refuse(161001, Rule::null_argument, "restoreShape", "null, as probs is", "one of the two");
            std::vector<int64_t> shape;
            MOE_DEVICE_TRY(array_values(restoreShape, "restoreShape", &shape));
            if (probs == nullptr && shape.size() != 2)
                return refuse(561002, Rule::argument, "restoreShape", text("%zu numbers", shape.size()),
                              "2: tokens and columns");
            // Only dropless calls with probs read the map.
            if (paddedMode || probs == nullptr) call.never_read(map);
            if (probs == nullptr) call.never_read(out_probs);
            // Undefined without padding, and then not touched.
            for (const Slot slot : {index, ids}) {
                if (paddedMode || !call.has(slot)) continue;
                call.never_read(slot);
                if (call.state(slot).dtype != ACL_INT32) return call.refuse_operand(161002, slot, "int32");
            }
            const bool from_probs = probs != nullptr;
            call.compute(MOE_CORE(moe_token_unpermute_with_routing_map), [=](const Views& view) {
                moe_token_unpermute_with_routing_map_args args = {};
                args.permuted_tokens = view[in];
                args.sorted_indices = view[indices];
                args.routing_map = view[map];
                args.probs = view[weight];
                args.drop_and_pad = paddedMode;
                args.restore_shape = from_probs ? nullptr : shape.data();
                args.unpermuted = view[out];
                args.out_index = paddedMode ? view[index] : nullptr;
                args.permuted_token_id = paddedMode ? view[ids] : nullptr;
                args.permute_probs = view[out_probs];
                return args;
            });
            return 0;
        });
    });
}

MOE_SECOND_PHASE(aclnnMoeTokenPermuteWithRoutingMap, permute)
MOE_SECOND_PHASE(aclnnMoeTokenUnpermuteWithRoutingMap, unpermute)
