// No mistakes.
#include "aclnnop/aclnn_moe_finalize_routing.h"

#include "sample.h"

int main() {
    aclrtStream stream = nullptr;
    if (start(&stream) != 0) return 1;
    void *rows_data, *skip1_data, *skip2_data, *bias_data, *scales_data, *index_data, *experts_data, *out_data;
    aclTensor *rows, *skip1, *skip2, *bias, *scales, *index, *experts, *out;
    std::vector<float> rows_host, skip_host;
    for (int i = 0; i < 24; ++i) rows_host.push_back(static_cast<float>(i % 12) + .1F);
    for (int i = 0; i < 12; ++i) skip_host.push_back(static_cast<float>(i) + .2F);
    if (make_tensor(rows_host, {6, 4}, ACL_FLOAT, &rows_data, &rows) != 0) return 1;
    if (make_tensor(skip_host, {3, 4}, ACL_FLOAT, &skip1_data, &skip1) != 0) return 1;
    if (make_tensor(skip_host, {3, 4}, ACL_FLOAT, &skip2_data, &skip2) != 0) return 1;
    if (make_tensor(std::vector<float>{.2F, .4F, .2F, .4F, .2F, .4F, .2F, .4F}, {2, 4}, ACL_FLOAT, &bias_data, &bias))
        return 1;
    if (make_tensor(std::vector<float>{1.3F, 1.6F, 1.2F, 1.8F, 1.2F, 2.3F}, {3, 2}, ACL_FLOAT, &scales_data, &scales))
        return 1;
    if (make_tensor(std::vector<int32_t>{2, 1, 4, 3, 0, 5}, {6}, ACL_INT32, &index_data, &index) != 0) return 1;
    if (make_tensor(std::vector<int32_t>{0, 1, 0, 1, 0, 1}, {3, 2}, ACL_INT32, &experts_data, &experts) != 0) return 1;
    if (make_tensor(std::vector<float>(12), {3, 4}, ACL_FLOAT, &out_data, &out) != 0) return 1;

    uint64_t size = 0;
    aclOpExecutor* executor;
    CHECK(aclnnMoeFinalizeRoutingGetWorkspaceSize(rows, skip1, skip2, bias, scales, index, experts, out, &size,
                                                  &executor));
    void* workspace = nullptr;
    if (size > 0) CHECK(aclrtMalloc(&workspace, size, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECK(aclnnMoeFinalizeRouting(workspace, size, executor, stream));
    CHECK(aclrtSynchronizeStream(stream));
    if (print_first<float>("out", out_data, 12) != 0) return 1;

    for (aclTensor* tensor : {rows, skip1, skip2, bias, scales, index, experts, out}) CHECK(aclDestroyTensor(tensor));
    for (void* data : {rows_data, skip1_data, skip2_data, bias_data, scales_data, index_data, experts_data, out_data})
        CHECK(aclrtFree(data));
    if (size > 0) CHECK(aclrtFree(workspace));
    return finish(stream);
}
