#include "aclnn/executor.h"
#include "aclnnop/aclnn_moe_finalize_routing.h"
#include "aclnnop/aclnn_moe_finalize_routing_v2.h"
#include "moe_native/finalize.h"

using namespace moe::device;

namespace {

constexpr Operation finalize_routing = {"aclnnMoeFinalizeRouting", true};
constexpr Operation finalize_routing_v2 = {"aclnnMoeFinalizeRoutingV2", true};

struct Operands {
    Slot rows, x1, x2, bias, scales, row_idx, expert_idx, out;
};

void compute(Call& call, const Operands& of, int64_t drop_pad_mode) {
    call.compute(MOE_CORE(moe_finalize_routing), [of, drop_pad_mode](const Views& view) {
        moe_finalize_routing_args args = {};
        args.expanded_permuted_rows = view[of.rows];
        args.skip1 = view[of.x1];
        args.skip2 = view[of.x2];
        args.bias = view[of.bias];
        args.scales = view[of.scales];
        args.expanded_src_to_dst_row = view[of.row_idx];
        args.export_for_source_row = view[of.expert_idx];
        args.drop_pad_mode = drop_pad_mode;
        args.k = 1;
        args.out = view[of.out];
        return args;
    });
}

}  // namespace

aclnnStatus aclnnMoeFinalizeRoutingGetWorkspaceSize(const aclTensor* expandedX, const aclTensor* x1,
                                                    const aclTensor* x2, const aclTensor* bias, const aclTensor* scales,
                                                    const aclTensor* expandedRowIdx, const aclTensor* expandedExpertIdx,
                                                    const aclTensor* out, uint64_t* workspaceSize,
                                                    aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return first_phase(finalize_routing, workspaceSize, executor, [&](Call& call) -> Status {
            Operands of;
            of.rows = call.input("expandedX", expandedX, "expanded_permuted_rows");
            of.x1 = call.input("x1", x1, "skip1");
            of.x2 = call.optional_input("x2", x2, "skip2");
            of.bias = call.input("bias", bias);
            of.scales = call.input("scales", scales);
            of.row_idx = call.input("expandedRowIdx", expandedRowIdx, "expanded_src_to_dst_row");
            of.expert_idx = call.input("expandedExpertIdx", expandedExpertIdx, "export_for_source_row");
            of.out = call.output("out", out);
            MOE_DEVICE_TRY(call.status());
            compute(call, of, 0);
            return 0;
        });
    });
}

aclnnStatus aclnnMoeFinalizeRoutingV2GetWorkspaceSize(const aclTensor* expandedX, const aclTensor* expandedRowIdx,
                                                      const aclTensor* x1, const aclTensor* x2, const aclTensor* bias,
                                                      const aclTensor* scales, const aclTensor* expertIdx,
                                                      int64_t dropPadMode, const aclTensor* out,
                                                      uint64_t* workspaceSize, aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return first_phase(finalize_routing_v2, workspaceSize, executor, [&](Call& call) -> Status {
            Operands of;
            of.rows = call.input("expandedX", expandedX, "expanded_permuted_rows");
            of.row_idx = call.input("expandedRowIdx", expandedRowIdx, "expanded_src_to_dst_row");
            of.x1 = call.optional_input("x1", x1, "skip1");
            of.x2 = call.optional_input("x2", x2, "skip2");
            of.bias = call.optional_input("bias", bias);
            of.scales = call.optional_input("scales", scales);
            // Without a bias nobody reads the ids: their memory may hold, or be, anything.
            of.expert_idx = call.optional_input("expertIdx", expertIdx, "export_for_source_row");
            if (bias == nullptr) call.never_read(of.expert_idx);
            of.out = call.output("out", out);
            MOE_DEVICE_TRY(call.status());
            compute(call, of, dropPadMode);
            return 0;
        });
    });
}

MOE_SECOND_PHASE(aclnnMoeFinalizeRouting, finalize_routing)
MOE_SECOND_PHASE(aclnnMoeFinalizeRoutingV2, finalize_routing_v2)
