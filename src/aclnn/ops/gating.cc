#include "moe_native/gating.h"
#include "aclnn/executor.h"
#include "aclnnop/aclnn_moe_compute_expert_tokens.h"
#include "aclnnop/aclnn_moe_gating_top_k.h"
#include "aclnnop/aclnn_moe_gating_top_k_softmax.h"
#include "aclnnop/aclnn_moe_gating_top_k_softmax_v2.h"

using namespace moe::device;

namespace {

constexpr Operation gating_top_k = {"aclnnMoeGatingTopK", true};
constexpr Operation gating_top_k_softmax = {"aclnnMoeGatingTopKSoftmax", true};
constexpr Operation gating_top_k_softmax_v2 = {"aclnnMoeGatingTopKSoftmaxV2", true};
constexpr Operation compute_expert_tokens = {"aclnnMoeComputeExpertTokens", true};

// The core computes with nothing, a card does not.
Status check_not_empty(const Call& call, Slot x, int64_t k) {
    if (!call.state(x).has_elements()) return call.refuse_operand(561002, x, "no empty dimension");
    return k == 0 ? call.refuse_value(561002, "k", k, "1 or more") : 0;
}

}  // namespace

aclnnStatus aclnnMoeGatingTopKSoftmaxGetWorkspaceSize(const aclTensor* x, const aclTensor* finished, int64_t k,
                                                      const aclTensor* yOut, const aclTensor* expertIdxOut,
                                                      const aclTensor* rowIdxOut, uint64_t* workspaceSize,
                                                      aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return first_phase(gating_top_k_softmax, workspaceSize, executor, [&](Call& call) -> Status {
            const Slot in = call.input("x", x);
            const Slot done = call.optional_input("finished", finished);
            const Slot y = call.output("yOut", yOut, "y");
            const Slot ids = call.output("expertIdxOut", expertIdxOut, "expert_idx");
            const Slot row_idx = call.output("rowIdxOut", rowIdxOut, "row_idx");
            MOE_DEVICE_TRY(call.status());
            call.also_check = [&call, in, k] { return check_not_empty(call, in, k); };
            call.compute(MOE_CORE(moe_gating_top_k_softmax), [=](const Views& view) {
                return moe_gating_top_k_softmax_args{view[in], view[done], k, view[y], view[ids], view[row_idx]};
            });
            return 0;
        });
    });
}

aclnnStatus aclnnMoeGatingTopKSoftmaxV2GetWorkspaceSize(const aclTensor* x, const aclTensor* finished, int64_t k,
                                                        int64_t renorm, bool outputSoftmaxResultFlag,
                                                        const aclTensor* yOut, const aclTensor* expertIdxOut,
                                                        const aclTensor* softmaxResultOut, uint64_t* workspaceSize,
                                                        aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return first_phase(gating_top_k_softmax_v2, workspaceSize, executor, [&](Call& call) -> Status {
            const Slot in = call.input("x", x);
            const Slot done = call.optional_input("finished", finished);
            const Slot y = call.output("yOut", yOut, "y");
            const Slot ids = call.output("expertIdxOut", expertIdxOut, "expert_idx");
            const Slot softmax = call.optional_output("softmaxResultOut", softmaxResultOut, "softmax");
            MOE_DEVICE_TRY(call.status());
            if (!outputSoftmaxResultFlag || renorm != 0) call.never_read(softmax);
            call.also_check = [&call, in, k] { return check_not_empty(call, in, k); };
            call.compute(MOE_CORE(moe_gating_top_k_softmax_v2), [=](const Views& view) {
                moe_gating_top_k_softmax_v2_args args = {};
                args.x = view[in];
                args.finished = view[done];
                args.k = k;
                args.renorm = renorm;
                args.output_softmax = outputSoftmaxResultFlag;
                args.y = view[y];
                args.expert_idx = view[ids];
                args.softmax = view[softmax];
                return args;
            });
            return 0;
        });
    });
}

aclnnStatus aclnnMoeGatingTopKGetWorkspaceSize(const aclTensor* x, const aclTensor* bias, int64_t k, int64_t kGroup,
                                               int64_t groupCount, int64_t groupSelectMode, int64_t renorm,
                                               int64_t normType, bool outFlag, double routedScalingFactor, double eps,
                                               const aclTensor* yOut, const aclTensor* expertIdxOut,
                                               const aclTensor* outOut, uint64_t* workspaceSize,
                                               aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return first_phase(gating_top_k, workspaceSize, executor, [&](Call& call) -> Status {
            const Slot in = call.input("x", x);
            const Slot shift = call.optional_input("bias", bias);
            const Slot y = call.output("yOut", yOut, "y");
            const Slot ids = call.output("expertIdxOut", expertIdxOut, "expert_idx");
            const Slot norm = call.output("outOut", outOut, "norm_out");
            MOE_DEVICE_TRY(call.status());
            if (!outFlag) call.never_read(norm);
            call.also_check = [&call, in, k] { return check_not_empty(call, in, k); };
            call.compute(MOE_CORE(moe_gating_top_k), [=](const Views& view) {
                moe_gating_top_k_args args = {};
                args.x = view[in];
                args.bias = view[shift];
                args.k = k;
                args.k_group = kGroup;
                args.group_count = groupCount;
                args.group_select_mode = groupSelectMode;
                args.renorm = renorm;
                args.norm_type = normType;
                args.out_flag = outFlag;
                args.routed_scaling_factor = routedScalingFactor;
                args.eps = eps;
                args.y = view[y];
                args.expert_idx = view[ids];
                args.norm_out = view[norm];
                return args;
            });
            return 0;
        });
    });
}

aclnnStatus aclnnMoeComputeExpertTokensGetWorkspaceSize(const aclTensor* sortedExperts, int64_t numExperts,
                                                        const aclTensor* out, uint64_t* workspaceSize,
                                                        aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return first_phase(compute_expert_tokens, workspaceSize, executor, [&](Call& call) -> Status {
            const Slot in = call.input("sortedExperts", sortedExperts, "sorted_expert_for_source_row");
            const Slot ends = call.output("out", out);
            MOE_DEVICE_TRY(call.status());
            call.rename("num_expert", "numExperts");
            call.compute(MOE_CORE(moe_compute_expert_tokens), [=](const Views& view) {
                return moe_compute_expert_tokens_args{view[in], numExperts, view[ends]};
            });
            return 0;
        });
    });
}

MOE_SECOND_PHASE(aclnnMoeGatingTopK, gating_top_k)
MOE_SECOND_PHASE(aclnnMoeGatingTopKSoftmax, gating_top_k_softmax)
MOE_SECOND_PHASE(aclnnMoeGatingTopKSoftmaxV2, gating_top_k_softmax_v2)
MOE_SECOND_PHASE(aclnnMoeComputeExpertTokens, compute_expert_tokens)
