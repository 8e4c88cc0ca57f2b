// No mistakes.
#include "aclnnop/aclnn_moe_gating_top_k_softmax.h"

#include "sample.h"

int main() {
    aclrtStream stream = nullptr;
    if (start(&stream) != 0) return 1;
    void *x_data, *y_data, *ids_data, *rows_data;
    aclTensor *x, *y, *ids, *rows;
    const std::vector<float> x_host = {.1F, 1.1F, 2.1F, 3.1F, 4.1F, 5.1F, 6.1F, 7.1F, 8.1F, 9.1F, 10.1F, 11.1F};
    if (make_tensor(x_host, {3, 4}, ACL_FLOAT, &x_data, &x) != 0) return 1;
    if (make_tensor(std::vector<float>(6), {3, 2}, ACL_FLOAT, &y_data, &y) != 0) return 1;
    if (make_tensor(std::vector<int32_t>(6), {3, 2}, ACL_INT32, &ids_data, &ids) != 0) return 1;
    if (make_tensor(std::vector<int32_t>(6), {3, 2}, ACL_INT32, &rows_data, &rows) != 0) return 1;

    uint64_t size = 0;
    aclOpExecutor* executor;
    CHECK(aclnnMoeGatingTopKSoftmaxGetWorkspaceSize(x, nullptr, 2, y, ids, rows, &size, &executor));
    void* workspace = nullptr;
    if (size > 0) CHECK(aclrtMalloc(&workspace, size, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECK(aclnnMoeGatingTopKSoftmax(workspace, size, executor, stream));
    CHECK(aclrtSynchronizeStream(stream));
    if (print_first<float>("weights", y_data, 6) != 0) return 1;
    if (print_first<int32_t>("experts", ids_data, 6) != 0) return 1;

    for (aclTensor* tensor : {x, y, ids, rows}) CHECK(aclDestroyTensor(tensor));
    for (void* data : {x_data, y_data, ids_data, rows_data}) CHECK(aclrtFree(data));
    if (size > 0) CHECK(aclrtFree(workspace));
    return finish(stream);
}
