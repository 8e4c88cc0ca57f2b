// Mistakes: `int8-output`, the output is int8 although nothing is quantised, with a buffer of a quarter of the size;
// `array`, the range is never destroyed. The offset has three elements over a host vector of one, which nobody can see.
#include "aclnnop/aclnn_moe_init_routing_v3.h"

#include "sample.h"

int main(int argc, char** argv) {
    const Mistakes mistakes{argc, argv};
    aclrtStream stream = nullptr;
    if (start(&stream) != 0) return 1;
    void *x_data, *ids_data, *scale_data, *offset_data, *out_data, *row_data, *count_data, *out_scale_data;
    aclTensor *x, *ids, *scale, *offset, *out, *row, *count, *out_scale;
    std::vector<float> offset_host = {0};
    offset_host.reserve(3);  // so that reading too far reads memory of ours
    if (make_tensor(std::vector<float>{.1F, .1F, .2F, .2F, .3F, .3F}, {3, 2}, ACL_FLOAT, &x_data, &x) != 0) return 1;
    if (make_tensor(std::vector<int32_t>{1, 2, 0, 3, 0, 2, 1, 3, 0, 1, 3, 2}, {3, 4}, ACL_INT32, &ids_data, &ids) != 0)
        return 1;
    if (make_tensor(std::vector<float>{.3F, .2F, .1F}, {3}, ACL_FLOAT, &scale_data, &scale) != 0) return 1;
    if (make_tensor(offset_host, {3}, ACL_FLOAT, &offset_data, &offset) != 0) return 1;
    if (mistakes.make("int8-output")) {
        if (make_tensor(std::vector<int8_t>(24), {12, 2}, ACL_INT8, &out_data, &out) != 0) return 1;
    } else {
        if (make_tensor(std::vector<float>(24), {12, 2}, ACL_FLOAT, &out_data, &out) != 0) return 1;
    }
    if (make_tensor(std::vector<int32_t>(12), {12}, ACL_INT32, &row_data, &row) != 0) return 1;
    if (make_tensor(std::vector<int64_t>(4), {4}, ACL_INT64, &count_data, &count) != 0) return 1;
    if (make_tensor(std::vector<float>(12), {12}, ACL_FLOAT, &out_scale_data, &out_scale) != 0) return 1;
    const std::vector<int64_t> range_host = {0, 4};
    aclIntArray* range = aclCreateIntArray(range_host.data(), range_host.size());

    uint64_t size = 0;
    aclOpExecutor* executor;
    CHECK(aclnnMoeInitRoutingV3GetWorkspaceSize(x, ids, scale, offset, 12, 4, 256, 0, 1, true, -1, range, 1, out, row,
                                                count, out_scale, &size, &executor));
    void* workspace = nullptr;
    if (size > 0) CHECK(aclrtMalloc(&workspace, size, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECK(aclnnMoeInitRoutingV3(workspace, size, executor, stream));
    CHECK(aclrtSynchronizeStream(stream));
    if (print_first<int8_t>("rows as bytes", out_data, 24) != 0) return 1;
    if (print_first<int32_t>("source of each row", row_data, 12) != 0) return 1;
    if (print_first<int32_t>("counts, half of the bytes", count_data, 4) != 0) return 1;
    if (print_first<float>("scales", out_scale_data, 12) != 0) return 1;

    for (aclTensor* tensor : {x, ids, scale, offset, out, row, count, out_scale}) CHECK(aclDestroyTensor(tensor));
    for (void* data : {x_data, ids_data, scale_data, offset_data, out_data, row_data, count_data, out_scale_data})
        CHECK(aclrtFree(data));
    if (size > 0) CHECK(aclrtFree(workspace));
    if (!mistakes.make("array")) CHECK(aclDestroyIntArray(range));
    return finish(stream);
}
