// Mistake: `array`, the shape is never destroyed. Both slots hold token 1, which is legal.
#include "aclnnop/aclnn_moe_token_unpermute_with_routing_map.h"

#include "sample.h"

int main(int argc, char** argv) {
    const Mistakes mistakes{argc, argv};
    aclrtStream stream = nullptr;
    if (start(&stream) != 0) return 1;
    void *rows_data, *indices_data, *map_data, *probs_data, *out_data, *index_data, *id_data, *used_data;
    aclTensor *rows, *indices, *map, *probs, *out, *index, *id, *used;
    if (make_tensor(std::vector<float>{1, 1, 1, 1}, {2, 2}, ACL_FLOAT, &rows_data, &rows) != 0) return 1;
    if (make_tensor(std::vector<int32_t>{1, 1}, {2}, ACL_INT32, &indices_data, &indices) != 0) return 1;
    if (make_tensor(std::vector<int8_t>{1, 1, 1, 1}, {2, 2}, ACL_INT8, &map_data, &map) != 0) return 1;
    if (make_tensor(std::vector<float>{1, 1, 1, 1}, {2, 2}, ACL_FLOAT, &probs_data, &probs) != 0) return 1;
    if (make_tensor(std::vector<float>(4), {2, 2}, ACL_FLOAT, &out_data, &out) != 0) return 1;
    if (make_tensor(std::vector<int32_t>(2), {2}, ACL_INT32, &index_data, &index) != 0) return 1;
    if (make_tensor(std::vector<int32_t>(2), {2}, ACL_INT32, &id_data, &id) != 0) return 1;
    if (make_tensor(std::vector<float>(2), {2}, ACL_FLOAT, &used_data, &used) != 0) return 1;
    const std::vector<int64_t> shape_host = {2, 2};
    aclIntArray* shape = aclCreateIntArray(shape_host.data(), shape_host.size());

    uint64_t size = 0;
    aclOpExecutor* executor;
    CHECK(aclnnMoeTokenUnpermuteWithRoutingMapGetWorkspaceSize(rows, indices, map, probs, true, shape, out, index, id,
                                                               used, &size, &executor));
    void* workspace = nullptr;
    if (size > 0) CHECK(aclrtMalloc(&workspace, size, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECK(aclnnMoeTokenUnpermuteWithRoutingMap(workspace, size, executor, stream));
    CHECK(aclrtSynchronizeStream(stream));
    if (print_first<float>("tokens", out_data, 4) != 0) return 1;

    for (aclTensor* tensor : {rows, indices, map, probs, out, index, id, used}) CHECK(aclDestroyTensor(tensor));
    for (void* data : {rows_data, indices_data, map_data, probs_data, out_data, index_data, id_data, used_data})
        CHECK(aclrtFree(data));
    if (size > 0) CHECK(aclrtFree(workspace));
    if (!mistakes.make("array")) CHECK(aclDestroyIntArray(shape));
    return finish(stream);
}
