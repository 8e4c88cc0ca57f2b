// No mistakes: two places per expert, no counts asked for.
#include "aclnnop/aclnn_moe_init_routing_v2.h"

#include "sample.h"

int main() {
    aclrtStream stream = nullptr;
    if (start(&stream) != 0) return 1;
    void *x_data, *ids_data, *out_data, *row_data, *before_data;
    aclTensor *x, *ids, *out, *row, *before;
    const std::vector<float> x_host = {.1F, .1F, .1F, .1F, .2F, .2F, .2F, .2F, .3F, .3F, .3F, .3F};
    if (make_tensor(x_host, {3, 4}, ACL_FLOAT, &x_data, &x) != 0) return 1;
    if (make_tensor(std::vector<int32_t>{1, 2, 0, 1, 0, 2}, {3, 2}, ACL_INT32, &ids_data, &ids) != 0) return 1;
    if (make_tensor(std::vector<float>(24), {3, 2, 4}, ACL_FLOAT, &out_data, &out) != 0) return 1;
    if (make_tensor(std::vector<int32_t>(6), {6}, ACL_INT32, &row_data, &row) != 0) return 1;
    if (make_tensor(std::vector<int32_t>(3), {3}, ACL_INT32, &before_data, &before) != 0) return 1;

    uint64_t size = 0;
    aclOpExecutor* executor;
    CHECK(aclnnMoeInitRoutingV2GetWorkspaceSize(x, ids, 0, 2, 3, 1, 0, true, out, row, nullptr, before, &size,
                                                &executor));
    void* workspace = nullptr;
    if (size > 0) CHECK(aclrtMalloc(&workspace, size, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECK(aclnnMoeInitRoutingV2(workspace, size, executor, stream));
    CHECK(aclrtSynchronizeStream(stream));
    if (print_first<float>("slots", out_data, 24) != 0) return 1;
    if (print_first<int32_t>("slot of each pair", row_data, 6) != 0) return 1;
    if (print_first<int32_t>("rows before dropping", before_data, 3) != 0) return 1;

    for (aclTensor* tensor : {x, ids, out, row, before}) CHECK(aclDestroyTensor(tensor));
    for (void* data : {x_data, ids_data, out_data, row_data, before_data}) CHECK(aclrtFree(data));
    if (size > 0) CHECK(aclrtFree(workspace));
    return finish(stream);
}
