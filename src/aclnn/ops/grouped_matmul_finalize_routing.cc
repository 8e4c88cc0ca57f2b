#include <numeric>

#include "aclnn/executor.h"
#include "aclnnop/aclnn_grouped_matmul_finalize_routing.h"
#include "aclnnop/aclnn_grouped_matmul_finalize_routing_v2.h"
#include "aclnnop/aclnn_grouped_matmul_finalize_routing_v3.h"
#include "aclnnop/aclnn_grouped_matmul_finalize_routing_weight_nz.h"
#include "aclnnop/aclnn_grouped_matmul_finalize_routing_weight_nz_v2.h"
#include "moe_native/format.h"
#include "moe_native/grouped_matmul.h"

using namespace moe::device;

namespace {

struct Version {
    Operation operation;
    bool tiled;          // x2 in FRACTAL_NZ, of int8; else plain, of int4 packed in int32
    bool extended;       // has offset and the antiquant tensors
    const char* suffix;  // of the arguments that only the second version calls optional
};
constexpr Version base = {{"aclnnGroupedMatmulFinalizeRouting", false}, false, false, ""};
constexpr Version v2 = {{"aclnnGroupedMatmulFinalizeRoutingV2", false}, false, true, "Optional"};
constexpr Version v3 = {{"aclnnGroupedMatmulFinalizeRoutingV3", false}, false, true, ""};
constexpr Version weight_nz = {{"aclnnGroupedMatmulFinalizeRoutingWeightNz", false}, true, false, ""};
constexpr Version weight_nz_v2 = {{"aclnnGroupedMatmulFinalizeRoutingWeightNzV2", false}, true, true, ""};

struct Arguments {
    const aclTensor *x1, *x2, *scale, *bias, *offset, *antiquant_scale, *antiquant_offset, *pertoken_scale, *group_list,
        *shared_input, *logit, *row_index;
    int64_t dtype;
    float shared_input_weight;
    int64_t shared_input_offset;
    bool transpose_x1, transpose_x2;
    int64_t group_list_type;
    const aclIntArray* tuning_config;
    const aclTensor* out;
};

// A card counts the elements of the storage and looks at its row blocks, and takes the rest from the view.
Status check_tiles(Call& call, Slot slot) {
    TensorState& weight = call.state(slot);
    const About about = call.tensor(slot)->about();
    if (weight.format != ACL_FORMAT_FRACTAL_NZ)
        return refuse(161002, Rule::argument, call.name(slot), text("format %d", static_cast<int>(weight.format)),
                      "29 (FRACTAL_NZ)", about);
    const auto dtype = static_cast<moe_dtype>(weight.dtype);
    const int64_t c0 = moe_nz_default_c0(dtype);
    moe_tensor tiles;
    if (moe_nz_make(nullptr, dtype, 3, weight.shape.data(), c0, &tiles) != MOE_OK)
        return call.refuse_operand(161002, slot, "sizes of 0 or more that fit 64 bits");
    const std::vector<int64_t> needed(tiles.storage_shape, tiles.storage_shape + tiles.storage_rank);
    std::vector<int64_t> seen = weight.storage_shape;
    // Words of eight int4: their tiles may be told in words or in int4.
    if (weight.dtype == ACL_INT32 && !seen.empty()) seen.back() = c0;
    const auto count = [](const std::vector<int64_t>& shape) {
        return std::accumulate(shape.begin(), shape.end(), uint64_t{1},
                               [](uint64_t product, int64_t dim) { return product * static_cast<uint64_t>(dim); });
    };
    if (seen.size() < needed.size() || seen.size() > 9 || count(seen) != count(needed) ||
        seen[seen.size() - 3] != needed[2]) {
        TensorState storage = weight, expected = weight;
        storage.shape = weight.storage_shape;
        expected.shape = needed;
        return refuse(161002, Rule::nz_not_ready, call.name(slot), "storage of " + describe(storage),
                      describe(expected), about);
    }
    weight.storage_shape = needed;
    return 0;
}

Status check_weight_dtype(Call& call, Slot slot, const Version& version) {
    const TensorState& weight = call.state(slot);
    if (!version.tiled && weight.changed_by != nullptr && weight.dtype == ACL_INT4)
        return refuse(161002, Rule::mutated, call.name(slot),
                      describe(weight) + " since phase 1 of " + weight.changed_by, "a tensor of int32, made anew",
                      call.tensor(slot)->about());
    const bool int4 = weight.dtype == ACL_INT32 || (version.tiled && weight.dtype == ACL_INT4);
    if (version.tiled ? weight.dtype == ACL_INT8 || (version.extended && int4) : int4) return 0;
    return call.refuse_operand(161002, slot,
                               !version.tiled     ? "int32, of eight int4 each"
                               : version.extended ? "int8, or int4, or int32 of eight int4 each"
                                                  : "int8");
}

// What a card leaves behind in its caller's tensors.
void change_operands(Call& call, const Version& version, Slot weight) {
    for (const Operand& operand : call.operands)
        if (operand.tensor != nullptr && !operand.output && operand.state.format != ACL_FORMAT_FRACTAL_NZ &&
            operand.state.is_dense())
            operand.tensor->change([](TensorState& state) { state.format = ACL_FORMAT_ND; });
    if (version.tiled) return;
    call.tensor(weight)->change([&](TensorState& state) { become_int4(&state, version.operation.name); });
}

Status translate(Call& call, const Version& version, const Arguments& of) {
    const auto named = [&](const char* name) { return std::string(name) + version.suffix; };
    if (version.tiled && version.extended && of.x2 == nullptr)
        return refuse(161001, Rule::null_crash, "x2", "null, which crashes a real host", "a tensor");
    const Slot x = call.input("x1", of.x1, "x");
    const Slot w = call.input("x2", of.x2, "w");
    const Slot scale = call.input(named("scale"), of.scale, "scale");
    const Slot bias = version.tiled ? call.optional_input("bias", of.bias) : call.input(named("bias"), of.bias, "bias");
    Slot offset, antiquant_scale, antiquant_offset;
    if (version.extended) {
        offset = call.optional_input("offsetOptional", of.offset, "offset");
        antiquant_scale = call.optional_input("antiquantScaleOptional", of.antiquant_scale);
        antiquant_offset = call.optional_input("antiquantOffsetOptional", of.antiquant_offset);
    }
    const Slot pertoken = version.tiled
                              ? call.optional_input("pertokenScaleOptional", of.pertoken_scale, "pertoken_scale")
                              : call.input("pertokenScaleOptional", of.pertoken_scale, "pertoken_scale");
    const Slot group_list = call.input(named("groupList"), of.group_list, "group_list");
    const Slot shared = call.optional_input(named("sharedInput"), of.shared_input, "shared_input");
    const Slot logit = call.input(named("logit"), of.logit, "logit");
    const Slot row_index = call.input(named("rowIndex"), of.row_index, "row_index");
    MOE_DEVICE_TRY(call.status());
    for (const Slot slot : {antiquant_scale, antiquant_offset})
        if (version.extended && call.has(slot)) {
            if (!version.tiled) return call.refuse_operand(161001, slot, "null");
            call.ignore(slot);
        }
    if (of.dtype != 0) return call.refuse_value(161002, "dtype", of.dtype, "0 (float32)");
    if (call.state(w).shape.size() != 3) return call.refuse_operand(161002, w, "3 dimensions");
    if (of.transpose_x1) return call.refuse_value(161002, "transposeX1", 1, "false");
    if (of.transpose_x2) return call.refuse_value(161002, "transposeX2", 1, "false");
    if (version.tiled) {
        call.may_be_tiled(w);
        MOE_DEVICE_TRY(check_tiles(call, w));
    }
    const Slot out = call.output("out", of.out);
    MOE_DEVICE_TRY(call.status());
    MOE_DEVICE_TRY(check_weight_dtype(call, w, version));
    if (call.state(out).shape.size() != 2 || call.state(out).shape[0] <= 0)
        return call.refuse_operand(161002, out, "2 dimensions, of rows of the batch");
    std::vector<int64_t> tuning;
    MOE_DEVICE_TRY(array_values(of.tuning_config, "tuningConfigOptional", &tuning));
    call.rename("tuning_config", "tuningConfigOptional");
    call.rename("output_bs", "out");
    if (mode() == MOE_ACLNN_REAL) call.planned = [&call, &version, w] { change_operands(call, version, w); };
    call.compute(MOE_CORE(moe_grouped_matmul_finalize_routing), [=](const Views& view) {
        moe_grouped_matmul_finalize_routing_args args = {};
        args.x = view[x];
        args.w = view[w];
        args.group_list = view[group_list];
        args.scale = view[scale];
        args.bias = view[bias];
        args.offset = view[offset];
        args.pertoken_scale = view[pertoken];
        args.shared_input = view[shared];
        args.logit = view[logit];
        args.row_index = view[row_index];
        args.shared_input_weight = of.shared_input_weight;
        args.shared_input_offset = of.shared_input_offset;
        args.output_bs = view[out]->shape[0];
        args.group_list_type = of.group_list_type;
        args.tuning_config = tuning.data();
        args.tuning_config_size = static_cast<int64_t>(tuning.size());
        args.out = view[out];
        return args;
    });
    return 0;
}

aclnnStatus plan(const Version& version, const aclTensor* x1, const aclTensor* x2, const aclTensor* scale,
                 const aclTensor* bias, const aclTensor* offset, const aclTensor* antiquant_scale,
                 const aclTensor* antiquant_offset, const aclTensor* pertoken_scale, const aclTensor* group_list,
                 const aclTensor* shared_input, const aclTensor* logit, const aclTensor* row_index, int64_t dtype,
                 float shared_input_weight, int64_t shared_input_offset, bool transpose_x1, bool transpose_x2,
                 int64_t group_list_type, const aclIntArray* tuning_config, const aclTensor* out,
                 uint64_t* workspace_size, aclOpExecutor** executor) {
    const Arguments of = {x1,
                          x2,
                          scale,
                          bias,
                          offset,
                          antiquant_scale,
                          antiquant_offset,
                          pertoken_scale,
                          group_list,
                          shared_input,
                          logit,
                          row_index,
                          dtype,
                          shared_input_weight,
                          shared_input_offset,
                          transpose_x1,
                          transpose_x2,
                          group_list_type,
                          tuning_config,
                          out};
    return first_phase(version.operation, workspace_size, executor,
                       [&](Call& call) { return translate(call, version, of); });
}

}  // namespace

aclnnStatus aclnnGroupedMatmulFinalizeRoutingGetWorkspaceSize(
    const aclTensor* x1, aclTensor* x2, const aclTensor* scale, const aclTensor* bias, const aclTensor* pertokenScale,
    const aclTensor* groupList, const aclTensor* sharedInput, const aclTensor* logit, const aclTensor* rowIndex,
    int64_t dtype, float sharedInputWeight, int64_t sharedInputOffset, bool transposeX1, bool transposeX2,
    int64_t groupListType, aclTensor* out, uint64_t* workspaceSize, aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return plan(base, x1, x2, scale, bias, nullptr, nullptr, nullptr, pertokenScale, groupList, sharedInput, logit,
                    rowIndex, dtype, sharedInputWeight, sharedInputOffset, transposeX1, transposeX2, groupListType,
                    nullptr, out, workspaceSize, executor);
    });
}

aclnnStatus aclnnGroupedMatmulFinalizeRoutingV2GetWorkspaceSize(
    const aclTensor* x1, aclTensor* x2, const aclTensor* scale, const aclTensor* bias, const aclTensor* offset,
    const aclTensor* antiquantScale, const aclTensor* antiquantOffset, const aclTensor* pertokenScale,
    const aclTensor* groupList, const aclTensor* sharedInput, const aclTensor* logit, const aclTensor* rowIndex,
    int64_t dtype, float sharedInputWeight, int64_t sharedInputOffset, bool transposeX1, bool transposeX2,
    int64_t groupListType, aclTensor* out, uint64_t* workspaceSize, aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return plan(v2, x1, x2, scale, bias, offset, antiquantScale, antiquantOffset, pertokenScale, groupList,
                    sharedInput, logit, rowIndex, dtype, sharedInputWeight, sharedInputOffset, transposeX1, transposeX2,
                    groupListType, nullptr, out, workspaceSize, executor);
    });
}

aclnnStatus aclnnGroupedMatmulFinalizeRoutingV3GetWorkspaceSize(
    const aclTensor* x1, aclTensor* x2, const aclTensor* scale, const aclTensor* bias, const aclTensor* offset,
    const aclTensor* antiquantScale, const aclTensor* antiquantOffset, const aclTensor* pertokenScale,
    const aclTensor* groupList, const aclTensor* sharedInput, const aclTensor* logit, const aclTensor* rowIndex,
    int64_t dtype, float sharedInputWeight, int64_t sharedInputOffset, bool transposeX1, bool transposeX2,
    int64_t groupListType, const aclIntArray* tuningConfig, aclTensor* out, uint64_t* workspaceSize,
    aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return plan(v3, x1, x2, scale, bias, offset, antiquantScale, antiquantOffset, pertokenScale, groupList,
                    sharedInput, logit, rowIndex, dtype, sharedInputWeight, sharedInputOffset, transposeX1, transposeX2,
                    groupListType, tuningConfig, out, workspaceSize, executor);
    });
}

aclnnStatus aclnnGroupedMatmulFinalizeRoutingWeightNzGetWorkspaceSize(
    const aclTensor* x1, const aclTensor* x2, const aclTensor* scale, const aclTensor* bias,
    const aclTensor* pertokenScale, const aclTensor* groupList, const aclTensor* sharedInput, const aclTensor* logit,
    const aclTensor* rowIndex, int64_t dtype, float sharedInputWeight, int64_t sharedInputOffset, bool transposeX1,
    bool transposeX2, int64_t groupListType, aclTensor* out, uint64_t* workspaceSize, aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return plan(weight_nz, x1, x2, scale, bias, nullptr, nullptr, nullptr, pertokenScale, groupList, sharedInput,
                    logit, rowIndex, dtype, sharedInputWeight, sharedInputOffset, transposeX1, transposeX2,
                    groupListType, nullptr, out, workspaceSize, executor);
    });
}

aclnnStatus aclnnGroupedMatmulFinalizeRoutingWeightNzV2GetWorkspaceSize(
    const aclTensor* x1, const aclTensor* x2, const aclTensor* scale, const aclTensor* bias, const aclTensor* offset,
    const aclTensor* antiquantScale, const aclTensor* antiquantOffset, const aclTensor* pertokenScale,
    const aclTensor* groupList, const aclTensor* sharedInput, const aclTensor* logit, const aclTensor* rowIndex,
    int64_t dtype, float sharedInputWeight, int64_t sharedInputOffset, bool transposeX1, bool transposeX2,
    int64_t groupListType, const aclIntArray* tuningConfig, aclTensor* out, uint64_t* workspaceSize,
    aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return plan(weight_nz_v2, x1, x2, scale, bias, offset, antiquantScale, antiquantOffset, pertokenScale,
                    groupList, sharedInput, logit, rowIndex, dtype, sharedInputWeight, sharedInputOffset, transposeX1,
                    transposeX2, groupListType, tuningConfig, out, workspaceSize, executor);
    });
}

MOE_SECOND_PHASE(aclnnGroupedMatmulFinalizeRouting, base.operation)
MOE_SECOND_PHASE(aclnnGroupedMatmulFinalizeRoutingV2, v2.operation)
MOE_SECOND_PHASE(aclnnGroupedMatmulFinalizeRoutingV3, v3.operation)
MOE_SECOND_PHASE(aclnnGroupedMatmulFinalizeRoutingWeightNz, weight_nz.operation)
MOE_SECOND_PHASE(aclnnGroupedMatmulFinalizeRoutingWeightNzV2, weight_nz_v2.operation)
