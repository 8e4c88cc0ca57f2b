// Floats described as fp16, and a host vector of four floats that is read as eight: legal for the device, and nonsense.
#include "aclnnop/aclnn_ffn_v3.h"

#include "sample.h"

int main() {
    aclrtStream stream = nullptr;
    if (start(&stream) != 0) return 1;
    void *x_data, *w1_data, *w2_data, *y_data;
    aclTensor *x, *w1, *w2, *y;
    std::vector<float> y_host = {0, 0, 0, 0};
    y_host.reserve(8);  // so that reading too far reads memory of ours
    if (make_tensor(std::vector<float>{.1F, .2F, .3F, .4F, .5F, .6F, .7F, .8F}, {4, 2}, ACL_FLOAT16, &x_data, &x) != 0)
        return 1;
    if (make_tensor(std::vector<float>{.1F, .2F, .3F, .4F}, {2, 2}, ACL_FLOAT16, &w1_data, &w1) != 0) return 1;
    if (make_tensor(std::vector<float>{.4F, .3F, .2F, .1F}, {2, 2}, ACL_FLOAT16, &w2_data, &w2) != 0) return 1;
    if (make_tensor(y_host, {4, 2}, ACL_FLOAT16, &y_data, &y) != 0) return 1;

    uint64_t size = 0;
    aclOpExecutor* executor;
    CHECK(aclnnFFNV3GetWorkspaceSize(x, w1, w2, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                                     nullptr, nullptr, nullptr, "relu", 1, false, y, &size, &executor));
    void* workspace = nullptr;
    if (size > 0) CHECK(aclrtMalloc(&workspace, size, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECK(aclnnFFNV3(workspace, size, executor, stream));
    CHECK(aclrtSynchronizeStream(stream));
    if (print_first<float>("y as floats", y_data, 8) != 0) return 1;

    for (aclTensor* tensor : {x, w1, w2, y}) CHECK(aclDestroyTensor(tensor));
    for (void* data : {x_data, w1_data, w2_data, y_data}) CHECK(aclrtFree(data));
    if (size > 0) CHECK(aclrtFree(workspace));
    return finish(stream);
}
