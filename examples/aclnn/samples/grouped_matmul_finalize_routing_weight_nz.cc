// Mistakes: `row-index`, half of the bytes that its 64-bit integers need; `workspace`, the first workspace is forgotten;
// `free`, a buffer that was never made is freed; `destroy`, everything is destroyed and freed by hand, and once more by
// its owner after aclFinalize. Half of the output is read, as 16-bit integers: legal, and nonsense.
#include <memory>

#include "aclnnop/aclnn_grouped_matmul_finalize_routing_weight_nz_v2.h"
#include "aclnnop/aclnn_trans_matmul_weight.h"
#include "sample.h"

using TensorOwner = std::unique_ptr<aclTensor, aclnnStatus (*)(const aclTensor*)>;
using ArrayOwner = std::unique_ptr<aclIntArray, aclnnStatus (*)(const aclIntArray*)>;
using BufferOwner = std::unique_ptr<void, aclError (*)(void*)>;

int main(int argc, char** argv) {
    const Mistakes mistakes{argc, argv};
    constexpr int64_t m = 192, k = 2048, n = 7168, experts = 4, batch = 24, shared_rows = 8;
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
    void* weight_data = nullptr;
    if (make_buffer(std::vector<int8_t>(experts * k * n, 1), {experts, k, n}, &weight_data) != 0) return 1;
    buffers.emplace_back(weight_data, aclrtFree);
    const std::vector<int64_t> weight_shape = {experts, k, n}, weight_strides = {k * n, n, 1},
                               weight_storage = {experts * k * n};
    aclTensor* weight = aclCreateTensor(weight_shape.data(), 3, ACL_INT8, weight_strides.data(), 0, ACL_FORMAT_ND,
                                        weight_storage.data(), 1, weight_data);
    tensors.emplace_back(weight, aclDestroyTensor);
    aclTensor* scale = add(std::vector<float>(experts * n, 1), {experts, n}, ACL_FLOAT);
    aclTensor* pertoken = add(std::vector<float>(m, 1), {m}, ACL_FLOAT);
    aclTensor* groups = add(std::vector<int64_t>{64, 0, 0, 0}, {experts}, ACL_INT64);
    aclTensor* shared = add(std::vector<uint16_t>(shared_rows * n, 0x3F80), {shared_rows, n}, ACL_BF16);
    aclTensor* logit = add(std::vector<float>(m, 1), {m}, ACL_FLOAT);
    aclTensor* row_index = mistakes.make("row-index") ? add(std::vector<float>(m, 0), {m}, ACL_INT64)
                                                      : add(std::vector<int64_t>(m, 0), {m}, ACL_INT64);
    aclTensor* out = add(std::vector<float>(batch * n), {batch, n}, ACL_FLOAT);
    const std::vector<int64_t> tuning_host = {m / experts};
    ArrayOwner tuning(aclCreateIntArray(tuning_host.data(), 1), aclDestroyIntArray);

    uint64_t size = 0;
    aclOpExecutor* executor;
    CHECK(aclnnTransMatmulWeightGetWorkspaceSize(weight, &size, &executor));
    void* workspace = nullptr;
    if (size > 0) CHECK(aclrtMalloc(&workspace, size, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECK(aclnnTransMatmulWeight(workspace, size, executor, stream));
    void* const first_workspace = workspace;

    // No synchronisation: the stream keeps the order.
    workspace = nullptr;
    CHECK(aclnnGroupedMatmulFinalizeRoutingWeightNzV2GetWorkspaceSize(
        x, weight, scale, nullptr, nullptr, nullptr, nullptr, pertoken, groups, shared, logit, row_index, 0, 1.F, 0,
        false, false, 1, tuning.get(), out, &size, &executor));
    if (size > 0) CHECK(aclrtMalloc(&workspace, size, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECK(aclnnGroupedMatmulFinalizeRoutingWeightNzV2(workspace, size, executor, stream));
    CHECK(aclrtSynchronizeStream(stream));
    if (print_first<uint16_t>("out as integers", buffers.back().get(), batch * n) != 0) return 1;

    for (TensorOwner& tensor : tensors) {
        CHECK(aclDestroyTensor(tensor.get()));
        if (!mistakes.make("destroy")) tensor.release();
    }
    CHECK(aclDestroyIntArray(tuning.get()));
    if (!mistakes.make("destroy")) tuning.release();
    for (BufferOwner& buffer : buffers) {
        CHECK(aclrtFree(buffer.get()));
        if (!mistakes.make("destroy")) buffer.release();
    }
    if (workspace != nullptr) CHECK(aclrtFree(workspace));
    if (first_workspace != nullptr && !mistakes.make("workspace")) CHECK(aclrtFree(first_workspace));
    void* const bias_data = nullptr;
    if (mistakes.make("free")) aclrtFree(bias_data);
    return finish(stream);
}
