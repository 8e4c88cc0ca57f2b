// Mistakes: `row-index`, 32 bytes of floats described as eight 64-bit integers; `destroy`, everything is destroyed and
// freed by hand, and once more by its owner after aclFinalize. The logits are 64-bit integers described as floats:
// legal, and nonsense.
#include <memory>

#include "aclnnop/aclnn_grouped_matmul_finalize_routing_v3.h"
#include "sample.h"

using TensorOwner = std::unique_ptr<aclTensor, aclnnStatus (*)(const aclTensor*)>;
using BufferOwner = std::unique_ptr<void, aclError (*)(void*)>;

int main(int argc, char** argv) {
    const Mistakes mistakes{argc, argv};
    constexpr int64_t m = 8, k = 2048, n = 7168, batch = 8, shared_rows = 1;
    aclrtStream stream = nullptr;
    if (start(&stream) != 0) return 1;
    std::vector<TensorOwner> tensors;
    std::vector<BufferOwner> buffers;
    const auto add = [&](const auto& host, const std::vector<int64_t>& shape, aclDataType type) {
        void* data = nullptr;
        aclTensor* tensor = nullptr;
        const int status = make_tensor(host, shape, type, &data, &tensor);
        tensors.emplace_back(tensor, aclDestroyTensor);
        buffers.emplace_back(data, aclrtFree);
        return status == 0 ? tensor : nullptr;
    };
    aclTensor* x = add(std::vector<int8_t>(m * k, 1), {m, k}, ACL_INT8);
    // The weight is described as three dimensions over a storage of one.
    void* weight_data = nullptr;
    if (make_buffer(std::vector<int32_t>(k * n / 8, 1), {1, k, n / 8}, &weight_data) != 0) return 1;
    buffers.emplace_back(weight_data, aclrtFree);
    const std::vector<int64_t> weight_shape = {1, k, n / 8}, weight_strides = {k * n / 8, n / 8, 1},
                               weight_storage = {k * n / 8};
    aclTensor* weight = aclCreateTensor(weight_shape.data(), 3, ACL_INT32, weight_strides.data(), 0, ACL_FORMAT_ND,
                                        weight_storage.data(), 1, weight_data);
    tensors.emplace_back(weight, aclDestroyTensor);
    aclTensor* scale = add(std::vector<int64_t>(n, 0x3F800000), {1, 1, n}, ACL_INT64);
    aclTensor* bias = add(std::vector<float>(n, 0), {1, n}, ACL_FLOAT);
    aclTensor* offset = add(std::vector<float>(n, 0), {1, 1, n}, ACL_FLOAT);
    aclTensor* pertoken = add(std::vector<float>(m, 1), {m}, ACL_FLOAT);
    aclTensor* groups = add(std::vector<int64_t>{m}, {1}, ACL_INT64);
    aclTensor* shared = add(std::vector<uint16_t>(shared_rows * n, 0x3F80), {shared_rows, n}, ACL_BF16);
    aclTensor* logit = add(std::vector<int64_t>(m, 0x3F8000003F800000), {m}, ACL_FLOAT);
    aclTensor* row_index = mistakes.make("row-index") ? add(std::vector<float>(m, 0), {m}, ACL_INT64)
                                                      : add(std::vector<int64_t>(m, 0), {m}, ACL_INT64);
    aclTensor* out = add(std::vector<float>(batch * n), {batch, n}, ACL_FLOAT);
    const std::vector<int64_t> tuning_host = {1};
    aclIntArray* tuning = aclCreateIntArray(tuning_host.data(), 1);

    uint64_t size = 0;
    aclOpExecutor* executor;
    CHECK(aclnnGroupedMatmulFinalizeRoutingV3GetWorkspaceSize(x, weight, scale, bias, offset, nullptr, nullptr,
                                                              pertoken, groups, shared, logit, row_index, 0, 1.F, 0,
                                                              false, false, 1, tuning, out, &size, &executor));
    void* workspace = nullptr;
    if (size > 0) CHECK(aclrtMalloc(&workspace, size, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECK(aclnnGroupedMatmulFinalizeRoutingV3(workspace, size, executor, stream));
    CHECK(aclrtSynchronizeStream(stream));
    if (print_first<float>("out", buffers.back().get(), batch * n) != 0) return 1;

    for (TensorOwner& tensor : tensors) {
        CHECK(aclDestroyTensor(tensor.get()));
        if (!mistakes.make("destroy")) tensor.release();
    }
    for (BufferOwner& buffer : buffers) {
        CHECK(aclrtFree(buffer.get()));
        if (!mistakes.make("destroy")) buffer.release();
    }
    CHECK(aclDestroyIntArray(tuning));
    if (size > 0) CHECK(aclrtFree(workspace));
    return finish(stream);
}
