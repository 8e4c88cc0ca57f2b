#include "aclnn/executor.h"
#include "aclnnop/aclnn_grouped_matmul_swiglu_quant.h"
#include "aclnnop/aclnn_grouped_matmul_swiglu_quant_weight_nz.h"
#include "moe_native/grouped_matmul.h"

using namespace moe::device;

namespace {

constexpr Operation swiglu_quant = {"aclnnGroupedMatmulSwigluQuant", false, 561000};
constexpr Operation swiglu_quant_weight_nz = {"aclnnGroupedMatmulSwigluQuantWeightNZ", false, 561000};

struct Arguments {
    const aclTensor *x, *weight, *bias, *offset, *weight_scale, *x_scale, *group_list;
    aclTensor *output, *output_scale, *output_offset;
};

// The version for weights in FRACTAL_NZ looks at their storage before it looks at anything else, whatever the format.
Status check_storage(const aclTensor* handle) {
    std::shared_ptr<Tensor> weight;
    MOE_DEVICE_TRY(need_tensor(handle, "weight", &weight));
    const TensorState state = weight->state();
    const size_t rank = state.storage_shape.size();
    if (rank == 5) return 0;
    if (state.changed_by != nullptr)
        return refuse(161002, Rule::mutated, "weight",
                      text("storage of %zu dimensions since phase 1 of %s", rank, state.changed_by),
                      "a tensor of int32, made anew", weight->about());
    return refuse(161002, Rule::nz_not_ready, "weight", text("storage of %zu dimensions", rank), "5: FRACTAL_NZ",
                  weight->about());
}

Status check_weight(Call& call, Slot slot, bool weight_nz) {
    TensorState& weight = call.state(slot);
    if (!weight_nz && weight.dtype == ACL_INT8 && weight.format != ACL_FORMAT_FRACTAL_NZ)
        return refuse(161002, Rule::argument, "weight", text("format %d", static_cast<int>(weight.format)),
                      "29 (FRACTAL_NZ)", call.tensor(slot)->about());
    if (!weight_nz && weight.format == ACL_FORMAT_FRACTAL_NZ && weight.shape.size() != 5)
        return call.refuse_operand(161002, slot, "5 dimensions in FRACTAL_NZ");
    if (weight_nz) weight.format = ACL_FORMAT_FRACTAL_NZ;
    if (weight.shape.size() == 5) {
        if (!weight.is_dense()) return call.refuse_operand(161002, slot, "a contiguous weight");
        weight.storage_shape = weight.shape;
    }
    return 0;
}

// What a card leaves behind in its caller's tensors.
void change_operands(const Call& call, Slot weight, Slot weight_scale, const Operation& operation, bool weight_nz) {
    call.tensor(weight)->change([&](TensorState& state) {
        if (weight_nz) state.format = ACL_FORMAT_FRACTAL_NZ;
        if (state.dtype != ACL_INT32) return;
        become_int4(&state, operation.name);
        state.storage_shape = state.shape;
    });
    if (call.state(weight_scale).dtype == ACL_INT64)
        call.tensor(weight_scale)->change([](TensorState& state) { state.dtype = ACL_UINT64; });
}

Status translate(Call& call, const Arguments& of, const Operation& operation, bool has_places) {
    const bool weight_nz = &operation == &swiglu_quant_weight_nz;
    if (!has_places) return 0;  // which is refused before anything else
    if (weight_nz) MOE_DEVICE_TRY(check_storage(of.weight));
    const Slot x = call.input("x", of.x);
    const Slot weight = call.input("weight", of.weight);
    const Slot bias = call.optional_input("bias", of.bias);
    const Slot offset = call.optional_input("offset", of.offset);
    const Slot weight_scale = call.input("weightScale", of.weight_scale, "weight_scale");
    const Slot x_scale = call.input("xScale", of.x_scale, "x_scale");
    const Slot group_list = call.input("groupList", of.group_list, "group_list");
    const Slot output = call.output("output", of.output);
    const Slot output_scale = call.output("outputScale", of.output_scale, "output_scale");
    const Slot output_offset = call.optional_output("outputOffset", of.output_offset);
    MOE_DEVICE_TRY(call.status());
    call.may_be_tiled(weight);
    MOE_DEVICE_TRY(check_weight(call, weight, weight_nz));
    const bool int4 = call.state(weight).dtype != ACL_INT8;
    if (call.state(group_list).dtype != ACL_INT64) return call.refuse_operand(161002, group_list, "int64");
    const aclDataType scale_dtype = call.state(x_scale).dtype;
    if (scale_dtype == ACL_FLOAT16 || scale_dtype == ACL_BF16) return call.refuse_operand(561103, x_scale, "float32");
    call.ignore(offset);
    call.ignore(output_offset);
    if (!int4) call.ignore(bias);
    if (mode() == MOE_ACLNN_REAL)
        call.planned = [&call, &operation, weight, weight_scale, weight_nz] {
            change_operands(call, weight, weight_scale, operation, weight_nz);
        };
    call.compute(MOE_CORE(moe_grouped_matmul_swiglu_quant), [=](const Views& view) {
        moe_grouped_matmul_swiglu_quant_args args = {};
        args.x = view[x];
        args.weight = view[weight];
        args.group_list = view[group_list];
        args.weight_scale = view[weight_scale];
        args.x_scale = view[x_scale];
        args.bias = int4 ? view[bias] : nullptr;
        args.output = view[output];
        args.output_scale = view[output_scale];
        return args;
    });
    return 0;
}

}  // namespace

#define MOE_FIRST_PHASE(function, operation)                                                                          \
    aclnnStatus function(const aclTensor* x, const aclTensor* weight, const aclTensor* bias, const aclTensor* offset, \
                         const aclTensor* weightScale, const aclTensor* xScale, const aclTensor* groupList,           \
                         aclTensor* output, aclTensor* outputScale, aclTensor* outputOffset, uint64_t* workspaceSize, \
                         aclOpExecutor** executor) {                                                                  \
        return entry(MOE_HERE, [&] {                                                                                  \
            const Arguments of = {x,      weight,    bias,   offset,      weightScale,                                \
                                  xScale, groupList, output, outputScale, outputOffset};                              \
            return first_phase(operation, workspaceSize, executor, [&](Call& call) {                                  \
                return translate(call, of, operation, workspaceSize != nullptr && executor != nullptr);               \
            });                                                                                                       \
        });                                                                                                           \
    }
MOE_FIRST_PHASE(aclnnGroupedMatmulSwigluQuantGetWorkspaceSize, swiglu_quant)
MOE_FIRST_PHASE(aclnnGroupedMatmulSwigluQuantWeightNZGetWorkspaceSize, swiglu_quant_weight_nz)

MOE_SECOND_PHASE(aclnnGroupedMatmulSwigluQuant, swiglu_quant)
MOE_SECOND_PHASE(aclnnGroupedMatmulSwigluQuantWeightNZ, swiglu_quant_weight_nz)
