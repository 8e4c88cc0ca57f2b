#include "moe_native/quant.h"
#include "aclnn/executor.h"
#include "aclnnop/aclnn_dynamic_quant.h"
#include "aclnnop/aclnn_dynamic_quant_v2.h"
#include "aclnnop/aclnn_swi_glu.h"

using namespace moe::device;

namespace {

constexpr Operation dynamic_quant = {"aclnnDynamicQuant", false};
constexpr Operation dynamic_quant_v2 = {"aclnnDynamicQuantV2", false};
constexpr Operation swi_glu = {"aclnnSwiGlu", true};

Status quantise(Call& call, const aclTensor* x, const aclTensor* smooth_scales, const aclTensor* group_index,
                const aclTensor* y, const aclTensor* scale) {
    const Slot in = call.input("x", x, "input");
    const Slot smooth = call.optional_input("smoothScalesOptional", smooth_scales, "smooth_scales");
    const Slot groups = call.optional_input("groupIndexOptional", group_index, "group_index");
    const Slot out = call.output("yOut", y, "y");
    const Slot out_scale = call.output("scaleOut", scale, "scale");
    MOE_DEVICE_TRY(call.status());
    call.compute(MOE_CORE(moe_dynamic_quant), [=](const Views& view) {
        return moe_dynamic_quant_args{view[in], view[smooth], view[groups], view[out], view[out_scale]};
    });
    return 0;
}

}  // namespace

aclnnStatus aclnnDynamicQuantGetWorkspaceSize(const aclTensor* x, const aclTensor* smoothScales, const aclTensor* yOut,
                                              const aclTensor* scaleOut, uint64_t* workspaceSize,
                                              aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return first_phase(dynamic_quant, workspaceSize, executor,
                           [&](Call& call) { return quantise(call, x, smoothScales, nullptr, yOut, scaleOut); });
    });
}

aclnnStatus aclnnDynamicQuantV2GetWorkspaceSize(const aclTensor* x, const aclTensor* smoothScales,
                                                const aclTensor* groupIndex, int64_t dstType, const aclTensor* yOut,
                                                const aclTensor* scaleOut, const aclTensor* offsetOut,
                                                uint64_t* workspaceSize, aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return first_phase(dynamic_quant_v2, workspaceSize, executor, [&](Call& call) -> Status {
            MOE_DEVICE_TRY(quantise(call, x, smoothScales, groupIndex, yOut, scaleOut));
            if (dstType != ACL_INT8) return call.refuse_value(161002, "dstType", dstType, "2 (int8)");
            if (offsetOut != nullptr)
                return refuse(161002, Rule::argument, "offsetOut", "a tensor",
                              "null: only the symmetric form is there");
            return 0;
        });
    });
}

aclnnStatus aclnnSwiGluGetWorkspaceSize(const aclTensor* x, int64_t dim, const aclTensor* out, uint64_t* workspaceSize,
                                        aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return first_phase(swi_glu, workspaceSize, executor, [&](Call& call) -> Status {
            const Slot in = call.input("x", x, "input");
            const Slot to = call.output("out", out);
            MOE_DEVICE_TRY(call.status());
            call.compute(MOE_CORE(moe_swiglu), [=](const Views& view) {
                return moe_swiglu_args{view[in], dim, view[to]};
            });
            return 0;
        });
    });
}

MOE_SECOND_PHASE(aclnnDynamicQuant, dynamic_quant)
MOE_SECOND_PHASE(aclnnDynamicQuantV2, dynamic_quant_v2)
MOE_SECOND_PHASE(aclnnSwiGlu, swi_glu)
