#include <algorithm>

#include "aclnn/executor.h"
#include "aclnnop/aclnn_moe_init_routing_v2.h"
#include "aclnnop/aclnn_moe_init_routing_v3.h"
#include "core/op.h"
#include "moe_native/init_routing.h"

using namespace moe::device;

namespace {

constexpr Operation init_routing_v2 = {"aclnnMoeInitRoutingV2", true};
constexpr Operation init_routing_v3 = {"aclnnMoeInitRoutingV3", false, 161001, 161002, true};

// As many experts as the core knows, for calls that only order by expert.
constexpr int64_t most_experts = 10240;

// Stands for an output that the core asks for and never writes.
moe_tensor* no_output(moe_dtype dtype) {
    static const int64_t empty = 0;
    static moe_tensor counts = moe_tensor_make(nullptr, MOE_INT64, 1, &empty);
    static moe_tensor scale = moe_tensor_make(nullptr, MOE_FLOAT32, 1, &empty);
    return dtype == MOE_INT64 ? &counts : &scale;
}

// Attributes of the second version. Its core is the third one's, where other numbers mean other things.
struct AttributesV2 {
    int64_t active_num, capacity, expert_num, drop_pad_mode, count_flag;
    bool before_capacity;

    bool padded() const { return drop_pad_mode == 1; }
    bool counts() const { return !padded() && count_flag > 0; }
    bool counts_before_capacity() const { return padded() && before_capacity; }
};

// To the core, and to the third version, an id that is no expert's is not routed here. The second version has every
// expert, so that such an id is a mistake.
moe_status run_v2(const moe_init_routing_v2_args* args, const moe_plan* plan, void* workspace, uint64_t size,
                  const moe_run_options* options) {
    const moe::OpScope scope("moe_init_routing_v2");
    const moe::RunContext context(options);
    const moe_tensor& ids = *args->expert_idx;
    const std::string needed = text("0 to %lld", static_cast<long long>(args->expert_num - 1));
    for (int64_t row = 0; row < ids.shape[0]; ++row)
        for (int64_t column = 0; column < ids.shape[1]; ++column) {
            const int32_t id = *reinterpret_cast<const int32_t*>(static_cast<const char*>(ids.data) +
                                                                 row * ids.stride[0] + column * ids.stride[1]);
            if (id < 0 || id >= args->expert_num)
                MOE_TRY(context.bad_data("expert_idx", row * ids.shape[1] + column, id, needed.c_str()));
        }
    const moe_run_options rest = {options->data_policy, options->undefined_policy, nullptr};
    return moe_init_routing_v2_run(args, plan, workspace, size, &rest);
}

Status check_v2(const Call& call, const AttributesV2& of, Slot x, Slot counts, Slot before_capacity) {
    const aclDataType dtype = call.state(x).dtype;
    if (dtype != ACL_FLOAT && dtype != ACL_FLOAT16 && dtype != ACL_BF16)
        return call.refuse_operand(161002, x, "float32, float16 or bfloat16");
    if (of.active_num < 0) return call.refuse_value(561002, "activeNum", of.active_num, "0 or more");
    if (of.capacity < 0) return call.refuse_value(561002, "expertCapacity", of.capacity, "0 or more");
    if (of.expert_num < 0) return call.refuse_value(561002, "expertNum", of.expert_num, "0 or more");
    if (of.drop_pad_mode != 0 && of.drop_pad_mode != 1)
        return call.refuse_value(561002, "dropPadMode", of.drop_pad_mode, "0 or 1");
    if (of.count_flag < 0 || of.count_flag > 2)
        return call.refuse_value(561002, "expertTokensCountOrCumsumFlag", of.count_flag, "0 to 2");
    if (of.count_flag > 0 && of.expert_num == 0)
        return call.refuse_value(561002, "expertNum", 0, "the number of experts, with expertTokensCountOrCumsumFlag");
    const auto check_counts = [&](bool wanted, Slot slot, const char* name) -> Status {
        if (!wanted) return 0;
        if (!call.has(slot)) return refuse(561002, Rule::null_argument, name, "null", "an output, as its flag says");
        const TensorState& state = call.state(slot);
        if (state.dtype != ACL_INT32 || state.shape != std::vector<int64_t>{of.expert_num})
            return call.refuse_operand(561002, slot, text("int32 (%lld,)", static_cast<long long>(of.expert_num)));
        return 0;
    };
    MOE_DEVICE_TRY(check_counts(of.counts(), counts, "expertTokensCountOrCumsumOut"));
    return check_counts(of.counts_before_capacity(), before_capacity, "expertTokensBeforeCapacityOut");
}

}  // namespace

aclnnStatus aclnnMoeInitRoutingV2GetWorkspaceSize(
    const aclTensor* x, const aclTensor* expertIdx, int64_t activeNum, int64_t expertCapacity, int64_t expertNum,
    int64_t dropPadMode, int64_t expertTokensCountOrCumsumFlag, bool expertTokensBeforeCapacityFlag,
    const aclTensor* expandedXOut, const aclTensor* expandedRowIdxOut, const aclTensor* expertTokensCountOrCumsumOut,
    const aclTensor* expertTokensBeforeCapacityOut, uint64_t* workspaceSize, aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return first_phase(init_routing_v2, workspaceSize, executor, [&](Call& call) -> Status {
            const AttributesV2 of = {activeNum,
                                     expertCapacity,
                                     expertNum,
                                     dropPadMode,
                                     expertTokensCountOrCumsumFlag,
                                     expertTokensBeforeCapacityFlag};
            const Slot in = call.input("x", x);
            const Slot ids = call.input("expertIdx", expertIdx, "expert_idx");
            const Slot out = call.output("expandedXOut", expandedXOut, "expanded_x");
            const Slot row_idx = call.output("expandedRowIdxOut", expandedRowIdxOut, "expanded_row_idx");
            const Slot counts = call.optional_output("expertTokensCountOrCumsumOut", expertTokensCountOrCumsumOut);
            const Slot before = call.optional_output("expertTokensBeforeCapacityOut", expertTokensBeforeCapacityOut);
            MOE_DEVICE_TRY(call.status());
            MOE_DEVICE_TRY(check_v2(call, of, in, counts, before));
            if (!of.counts()) call.never_read(counts);
            if (!of.counts_before_capacity()) call.never_read(before);
            const Core<moe_init_routing_v2_args> core = {moe_init_routing_v2_plan, run_v2};
            call.compute(core, [=](const Views& view) {
                moe_init_routing_v2_args args = {};
                args.x = view[in];
                args.expert_idx = view[ids];
                args.active_num = of.active_num;
                args.expert_capacity = of.capacity;
                args.expert_num = of.padded() || of.counts() ? of.expert_num : std::max(of.expert_num, most_experts);
                args.drop_pad_mode = of.drop_pad_mode;
                args.expert_tokens_num_flag = of.counts() || of.counts_before_capacity();
                args.expert_tokens_num_type = of.counts() && of.count_flag == 1 ? 0 : 1;
                args.quant_mode = -1;
                args.expanded_x = view[out];
                args.expanded_row_idx = view[row_idx];
                args.expert_token_cumsum_or_count = of.counts()                   ? view[counts]
                                                    : of.counts_before_capacity() ? view[before]
                                                                                  : no_output(MOE_INT64);
                args.expanded_scale = no_output(MOE_FLOAT32);
                return args;
            });
            return 0;
        });
    });
}

aclnnStatus aclnnMoeInitRoutingV3GetWorkspaceSize(
    const aclTensor* x, const aclTensor* expertIdx, const aclTensor* scale, const aclTensor* offset, int64_t activeNum,
    int64_t expertCapacity, int64_t expertNum, int64_t dropPadMode, int64_t expertTokensNumType,
    bool expertTokensNumFlag, int64_t quantMode, const aclIntArray* activeExpertRange, int64_t rowIdxType,
    const aclTensor* expandedXOut, const aclTensor* expandedRowIdxOut, const aclTensor* expertTokensCountOrCumsumOut,
    const aclTensor* expandedScaleOut, uint64_t* workspaceSize, aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return first_phase(init_routing_v3, workspaceSize, executor, [&](Call& call) -> Status {
            const Slot in = call.input("x", x);
            const Slot ids = call.input("expertIdx", expertIdx, "expert_idx");
            const Slot factor = call.optional_input("scale", scale);
            const Slot shift = call.optional_input("offset", offset);
            const Slot out = call.output("expandedXOut", expandedXOut, "expanded_x");
            const Slot row_idx = call.output("expandedRowIdxOut", expandedRowIdxOut, "expanded_row_idx");
            const Slot counts = call.output("expertTokensCountOrCumsumOut", expertTokensCountOrCumsumOut,
                                            "expert_token_cumsum_or_count");
            const Slot out_scale = call.output("expandedScaleOut", expandedScaleOut, "expanded_scale");
            MOE_DEVICE_TRY(call.status());
            if (activeExpertRange == nullptr)
                return refuse(161001, Rule::null_crash, "activeExpertRange", "null, which crashes a real host",
                              "an array of two numbers");
            std::vector<int64_t> range;
            MOE_DEVICE_TRY(array_values(activeExpertRange, "activeExpertRange", &range));
            if (call.state(counts).dtype != ACL_INT64) return call.refuse_operand(161002, counts, "int64");
            const TensorState& source = call.state(in);
            if (quantMode == -1 && call.state(out).dtype == ACL_INT8 && source.dtype != ACL_INT8 &&
                mode() == MOE_ACLNN_COMPAT) {
                // Rows are copied as they are, into as much memory as there is.
                MOE_DEVICE_TRY(mistake(161002, Rule::output_mismatch, "expandedXOut", describe(call.state(out)),
                                       "the dtype of x with quantMode -1", call.operands[4].tensor->about()));
                call.state(out).dtype = source.dtype;
            }
            if (quantMode != 0) call.never_read(shift);
            if (!expertTokensNumFlag) call.never_read(counts);
            if (quantMode == 0 || (quantMode == -1 && scale == nullptr)) call.never_read(out_scale);
            call.compute(MOE_CORE(moe_init_routing_v2), [=](const Views& view) {
                moe_init_routing_v2_args args = {};
                args.x = view[in];
                args.expert_idx = view[ids];
                args.scale = view[factor];
                args.offset = view[shift];
                args.active_num = activeNum;
                args.expert_capacity = expertCapacity;
                args.expert_num = expertNum;
                args.drop_pad_mode = dropPadMode;
                args.expert_tokens_num_type = expertTokensNumType;
                args.expert_tokens_num_flag = expertTokensNumFlag;
                args.quant_mode = quantMode;
                args.active_expert_range = range.data();
                args.active_expert_range_length = static_cast<int64_t>(range.size());
                args.row_idx_type = rowIdxType;
                args.expanded_x = view[out];
                args.expanded_row_idx = view[row_idx];
                args.expert_token_cumsum_or_count = view[counts];
                args.expanded_scale = view[out_scale];
                return args;
            });
            return 0;
        });
    });
}

MOE_SECOND_PHASE(aclnnMoeInitRoutingV2, init_routing_v2)
MOE_SECOND_PHASE(aclnnMoeInitRoutingV3, init_routing_v3)
