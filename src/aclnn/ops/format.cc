#include "moe_native/format.h"

#include <algorithm>

#include "aclnn/executor.h"
#include "aclnnop/aclnn_npu_format_cast.h"
#include "aclnnop/aclnn_trans_matmul_weight.h"

using namespace moe::device;

namespace {

constexpr Operation trans_matmul_weight = {"aclnnTransMatmulWeight", false};
constexpr Operation npu_format_cast = {"aclnnNpuFormatCast", false};

bool is_weight_dtype(aclDataType dtype) {
    return dtype == ACL_INT8 || dtype == ACL_FLOAT16 || dtype == ACL_BF16;
}

bool is_cast_dtype(aclDataType dtype) {
    switch (dtype) {
        case ACL_INT8:
        case ACL_UINT8:
        case ACL_FLOAT16:
        case ACL_BF16:
        case ACL_FLOAT:
        case ACL_INT32:
        case ACL_UINT32:
            return true;
        default:
            return false;
    }
}

// Storage dims of a shape in FRACTAL_NZ; false when it cannot be.
bool nz_storage(const std::vector<int64_t>& shape, aclDataType dtype, std::vector<int64_t>* storage) {
    moe_tensor tensor;
    const auto type = static_cast<moe_dtype>(dtype);
    if (shape.size() > MOE_MAX_RANK || moe_nz_make(nullptr, type, static_cast<int32_t>(shape.size()), shape.data(),
                                                   moe_nz_default_c0(type), &tensor) != MOE_OK)
        return false;
    storage->assign(tensor.storage_shape, tensor.storage_shape + tensor.storage_rank);
    return true;
}

Status weight_size(const aclIntArray* shape_array, aclDataType dtype, size_t highest_rank, uint64_t* size) {
    if (shape_array == nullptr) return refuse(161001, Rule::null_argument, "tensorShape", "null", "the shape");
    if (size == nullptr)
        return refuse(161001, Rule::null_argument, "weightTensorSize", "null", "a place for the result");
    std::vector<int64_t> shape;
    MOE_DEVICE_TRY(array_values(shape_array, "tensorShape", &shape));
    if (!is_weight_dtype(dtype))
        return refuse(161002, Rule::argument, "dataType", text("%d", static_cast<int>(dtype)),
                      "int8, float16 or bfloat16");
    if (shape.size() < 2 || shape.size() > highest_rank)
        return refuse(161002, Rule::argument, "tensorShape", text("%zu dimensions", shape.size()),
                      text("2 to %zu", highest_rank));
    if (std::any_of(shape.begin(), shape.end(), [](int64_t dim) { return dim <= 0; }))
        return refuse(161002, Rule::argument, "tensorShape", "an empty or negative dimension",
                      "dimensions of 1 or more");
    int64_t count = 0;
    if (moe_nz_element_count(static_cast<int32_t>(shape.size()), shape.data(),
                             moe_nz_default_c0(static_cast<moe_dtype>(dtype)), &count) != MOE_OK)
        return refuse(161002, Rule::argument, "tensorShape", "too large", "a size that fits 64 bits");
    *size = static_cast<uint64_t>(count);
    return 0;
}

}  // namespace

aclnnStatus aclnnCalculateMatmulWeightSize(const aclIntArray* tensorShape, uint64_t* weightTensorSize) {
    return entry(MOE_HERE, [&] { return weight_size(tensorShape, ACL_FLOAT16, 3, weightTensorSize); });
}

aclnnStatus aclnnCalculateMatmulWeightSizeV2(const aclIntArray* tensorShape, aclDataType dataType,
                                             uint64_t* weightTensorSize) {
    return entry(MOE_HERE, [&] { return weight_size(tensorShape, dataType, 6, weightTensorSize); });
}

aclnnStatus aclnnTransMatmulWeightGetWorkspaceSize(aclTensor* mmWeightRef, uint64_t* workspaceSize,
                                                   aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return first_phase(trans_matmul_weight, workspaceSize, executor, [&](Call& call) -> Status {
            // The same memory before and after.
            const Slot before = call.input("mmWeightRef", mmWeightRef, "input");
            const Slot after = call.output("mmWeightRef", mmWeightRef, "out");
            MOE_DEVICE_TRY(call.status());
            call.may_be_tiled(after);
            const TensorState weight = call.state(before);
            if (weight.format == ACL_FORMAT_FRACTAL_NZ)
                return refuse(161002, Rule::mutated, "mmWeightRef", "FRACTAL_NZ already", "a tensor in format ND",
                              call.tensor(before)->about());
            if (!is_weight_dtype(weight.dtype)) return call.refuse_operand(161002, before, "int8, float16 or bfloat16");
            const size_t highest_rank = weight.dtype == ACL_INT8 ? 6 : 3;
            if (weight.shape.size() < 2 || weight.shape.size() > highest_rank)
                return call.refuse_operand(161002, before, text("2 to %zu dimensions", highest_rank));
            if (!weight.is_dense()) return call.refuse_operand(161002, before, "a contiguous tensor");
            if (!weight.has_elements()) return 0;
            std::vector<int64_t> storage;
            if (!nz_storage(weight.shape, weight.dtype, &storage))
                return call.refuse_operand(161002, before, "a shape that fits 64 bits");
            call.state(after).format = ACL_FORMAT_FRACTAL_NZ;
            call.state(after).storage_shape = storage;
            const std::shared_ptr<Tensor> tensor = call.tensor(before);
            call.planned = [tensor, storage] {
                tensor->change([&](TensorState& state) {
                    state.format = ACL_FORMAT_FRACTAL_NZ;
                    state.storage_shape = storage;
                    state.tiles = Tiles::planned;
                });
            };
            call.queued = [tensor] { tensor->change([](TensorState& state) { state.tiles = Tiles::queued; }); };
            call.compute(MOE_CORE(moe_format_cast), [=](const Views& view) {
                return moe_format_cast_args{view[before], MOE_FORMAT_NZ, 0, true, view[after]};
            });
            return 0;
        });
    });
}

aclnnStatus aclnnNpuFormatCastCalculateSizeAndFormat(const aclTensor* srcTensor, const int dstFormat,
                                                     int additionalDtype, int64_t** dstShape, uint64_t* dstShapeSize,
                                                     int* actualFormat) {
    return entry(MOE_HERE, [&]() -> Status {
        std::shared_ptr<Tensor> tensor;
        MOE_DEVICE_TRY(need_tensor(srcTensor, "srcTensor", &tensor));
        for (const auto& [name, place] : {std::pair<const char*, const void*>{"dstShape", dstShape},
                                          {"dstShapeSize", dstShapeSize},
                                          {"actualFormat", actualFormat}})
            if (place == nullptr) return refuse(161001, Rule::null_argument, name, "null", "a place for the result");
        const TensorState source = tensor->state();
        if (!is_cast_dtype(source.dtype))
            return refuse(161002, Rule::argument, "srcTensor", describe(source),
                          "int8, uint8, float16, bfloat16, float32, int32 or uint32", tensor->about());
        if (dstFormat != ACL_FORMAT_ND && dstFormat != ACL_FORMAT_FRACTAL_NZ)
            return refuse(161002, Rule::argument, "dstFormat", text("%d", dstFormat), "2 (ND) or 29 (FRACTAL_NZ)");
        const bool official_examples = mode() == MOE_ACLNN_COMPAT && additionalDtype == ACL_FORMAT_ND;
        if (additionalDtype != -1 && additionalDtype != source.dtype && !official_examples)
            return refuse(161002, Rule::argument, "additionalDtype", text("%d", additionalDtype),
                          text("-1 or %d, the data type of srcTensor", static_cast<int>(source.dtype)));
        std::vector<int64_t> dims = source.shape;
        if (dstFormat == ACL_FORMAT_FRACTAL_NZ) {
            if (source.format == ACL_FORMAT_FRACTAL_NZ)
                return refuse(361001, Rule::argument, "srcTensor", "FRACTAL_NZ already", "a tensor in format ND",
                              tensor->about());
            if (!nz_storage(source.shape, source.dtype, &dims))
                return refuse(161002, Rule::argument, "srcTensor", describe(source), "2 to 6 dimensions",
                              tensor->about());
        }
        *dstShape = new int64_t[std::max<size_t>(1, dims.size())];  // the caller's, to delete[]
        std::copy(dims.begin(), dims.end(), *dstShape);
        *dstShapeSize = dims.size();
        *actualFormat = dstFormat;
        return 0;
    });
}

aclnnStatus aclnnNpuFormatCastGetWorkspaceSize(const aclTensor* srcTensor, aclTensor* dstTensor,
                                               uint64_t* workspaceSize, aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return first_phase(npu_format_cast, workspaceSize, executor, [&](Call& call) -> Status {
            const Slot from = call.input("srcTensor", srcTensor, "input");
            const Slot to = call.output("dstTensor", dstTensor, "out");
            MOE_DEVICE_TRY(call.status());
            call.may_be_tiled(from);
            call.may_be_tiled(to);
            const TensorState& source = call.state(from);
            const TensorState& target = call.state(to);
            if (!is_cast_dtype(source.dtype))
                return call.refuse_operand(161002, from, "int8, uint8, float16, bfloat16, float32, int32 or uint32");
            for (const Slot slot : {from, to})
                if (!call.state(slot).is_dense() || !call.state(slot).has_elements() || call.state(slot).offset != 0)
                    return call.refuse_operand(161002, slot, "a contiguous tensor that is not empty");
            // The tiles are what the storage says, of rows of 32 bytes.
            const int64_t c0 = moe_nz_default_c0(static_cast<moe_dtype>(source.dtype));
            for (const Slot slot : {from, to}) {
                const TensorState& state = call.state(slot);
                if (state.format != ACL_FORMAT_FRACTAL_NZ ||
                    (!state.storage_shape.empty() && state.storage_shape.back() == c0))
                    continue;
                return refuse(161002, Rule::nz_not_ready, call.name(slot),
                              state.storage_shape.empty() ? "storage without dimensions"
                                                          : text("storage with tiles of %lld columns",
                                                                 static_cast<long long>(state.storage_shape.back())),
                              text("%lld", static_cast<long long>(c0)), call.tensor(slot)->about());
            }
            const bool to_nz = target.format == ACL_FORMAT_FRACTAL_NZ;
            // Of a second conversion the tiles of the first are there meanwhile.
            const std::shared_ptr<Tensor> tensor = call.tensor(to);
            call.planned = [tensor, to_nz] {
                tensor->change([&](TensorState& state) {
                    if (to_nz && state.tiles == Tiles::told) state.tiles = Tiles::planned;
                });
            };
            call.queued = [tensor, to_nz] {
                tensor->change([&](TensorState& state) {
                    if (to_nz) state.tiles = Tiles::queued;
                });
            };
            call.compute(MOE_CORE(moe_format_cast), [=](const Views& view) {
                return moe_format_cast_args{view[from], to_nz ? MOE_FORMAT_NZ : MOE_FORMAT_ND, c0, false, view[to]};
            });
            return 0;
        });
    });
}

MOE_SECOND_PHASE(aclnnTransMatmulWeight, trans_matmul_weight)
MOE_SECOND_PHASE(aclnnNpuFormatCast, npu_format_cast)
