// No mistakes: DeepSeek-V3's router for three tokens.
#include "aclnnop/aclnn_moe_gating_top_k.h"

#include <random>

#include "sample.h"

int main() {
    aclrtStream stream = nullptr;
    if (start(&stream) != 0) return 1;
    void *x_data, *bias_data, *y_data, *ids_data, *norm_data;
    aclTensor *x, *bias, *y, *ids, *norm;
    std::mt19937 generator(1);
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<float> x_host(768), bias_host(256);
    for (float& value : x_host) value = uniform(generator);
    for (float& value : bias_host) value = uniform(generator);
    if (make_tensor(x_host, {3, 256}, ACL_FLOAT, &x_data, &x) != 0) return 1;
    if (make_tensor(bias_host, {256}, ACL_FLOAT, &bias_data, &bias) != 0) return 1;
    if (make_tensor(std::vector<float>(24), {3, 8}, ACL_FLOAT, &y_data, &y) != 0) return 1;
    if (make_tensor(std::vector<int32_t>(24), {3, 8}, ACL_INT32, &ids_data, &ids) != 0) return 1;
    if (make_tensor(std::vector<float>(768), {3, 256}, ACL_FLOAT, &norm_data, &norm) != 0) return 1;

    uint64_t size = 0;
    aclOpExecutor* executor;
    CHECK(aclnnMoeGatingTopKGetWorkspaceSize(x, bias, 8, 4, 8, 1, 0, 1, false, 1, 1, y, ids, norm, &size, &executor));
    void* workspace = nullptr;
    if (size > 0) CHECK(aclrtMalloc(&workspace, size, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECK(aclnnMoeGatingTopK(workspace, size, executor, stream));
    CHECK(aclrtSynchronizeStream(stream));
    if (print_first<float>("weights", y_data, 24) != 0) return 1;
    if (print_first<int32_t>("experts", ids_data, 24) != 0) return 1;

    for (aclTensor* tensor : {x, bias, y, ids, norm}) CHECK(aclDestroyTensor(tensor));
    for (void* data : {x_data, bias_data, y_data, ids_data, norm_data}) CHECK(aclrtFree(data));
    if (size > 0) CHECK(aclrtFree(workspace));
    return finish(stream);
}
