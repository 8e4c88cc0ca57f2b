// No mistakes.
#include "aclnnop/aclnn_moe_compute_expert_tokens.h"

#include "sample.h"

int main() {
    aclrtStream stream = nullptr;
    if (start(&stream) != 0) return 1;
    void *ids_data, *out_data;
    aclTensor *ids, *out;
    if (make_tensor(std::vector<int32_t>{0, 0, 1, 1, 2, 2}, {6}, ACL_INT32, &ids_data, &ids) != 0) return 1;
    if (make_tensor(std::vector<int32_t>(3), {3}, ACL_INT32, &out_data, &out) != 0) return 1;

    uint64_t size = 0;
    aclOpExecutor* executor;
    CHECK(aclnnMoeComputeExpertTokensGetWorkspaceSize(ids, 3, out, &size, &executor));
    void* workspace = nullptr;
    if (size > 0) CHECK(aclrtMalloc(&workspace, size, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECK(aclnnMoeComputeExpertTokens(workspace, size, executor, stream));
    CHECK(aclrtSynchronizeStream(stream));
    if (print_first<int32_t>("ends", out_data, 3) != 0) return 1;

    for (aclTensor* tensor : {ids, out}) CHECK(aclDestroyTensor(tensor));
    for (void* data : {ids_data, out_data}) CHECK(aclrtFree(data));
    if (size > 0) CHECK(aclrtFree(workspace));
    return finish(stream);
}
