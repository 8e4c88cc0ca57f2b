// Mistakes: `map`, 32-bit integers described as bools, so that the rows of the map hold 1, 0 and 1 ones instead of two
// each. The tokens are floats described as bf16, in a buffer twice as large as needed: legal, and nonsense.
#include "aclnnop/aclnn_moe_token_permute_with_routing_map.h"

#include "sample.h"

int main(int argc, char** argv) {
    const Mistakes mistakes{argc, argv};
    aclrtStream stream = nullptr;
    if (start(&stream) != 0) return 1;
    void *tokens_data, *map_data, *out_data, *indices_data;
    aclTensor *tokens, *map, *out, *indices;
    const std::vector<float> tokens_host = {1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
    if (make_tensor(tokens_host, {3, 4}, ACL_BF16, &tokens_data, &tokens) != 0) return 1;
    if (mistakes.make("map")) {
        if (make_tensor(std::vector<int32_t>{1, 1, 1, 1, 1, 1}, {3, 2}, ACL_BOOL, &map_data, &map) != 0) return 1;
    } else {
        if (make_tensor(std::vector<int8_t>{1, 1, 1, 1, 1, 1}, {3, 2}, ACL_BOOL, &map_data, &map) != 0) return 1;
    }
    if (make_tensor(std::vector<float>(24), {6, 4}, ACL_BF16, &out_data, &out) != 0) return 1;
    if (make_tensor(std::vector<int32_t>(6), {6}, ACL_INT32, &indices_data, &indices) != 0) return 1;

    uint64_t size = 0;
    aclOpExecutor* executor;
    CHECK(aclnnMoeTokenPermuteWithRoutingMapGetWorkspaceSize(tokens, map, nullptr, 6, false, out, nullptr, indices,
                                                             &size, &executor));
    void* workspace = nullptr;
    if (size > 0) CHECK(aclrtMalloc(&workspace, size, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECK(aclnnMoeTokenPermuteWithRoutingMap(workspace, size, executor, stream));
    CHECK(aclrtSynchronizeStream(stream));
    if (print_first<float>("rows as floats", out_data, 24) != 0) return 1;
    if (print_first<int32_t>("indices", indices_data, 6) != 0) return 1;

    for (aclTensor* tensor : {tokens, map, out, indices}) CHECK(aclDestroyTensor(tensor));
    for (void* data : {tokens_data, map_data, out_data, indices_data}) CHECK(aclrtFree(data));
    if (size > 0) CHECK(aclrtFree(workspace));
    return finish(stream);
}
