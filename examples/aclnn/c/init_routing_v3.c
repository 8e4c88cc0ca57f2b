/* aclnnMoeInitRoutingV3 from C: tokens sorted by expert, int8 with a scale of each row. */
#include "aclnnop/aclnn_moe_init_routing_v3.h"

#include "client.h"

int main(void) {
    static const float x_values[8] = {1, -2, .5F, 127, 0, 0, 3, 1};
    static const int32_t ids[8] = {1, 0, 3, 3, 0, 2, 2, 1};
    static const int64_t x_shape[2] = {4, 2}, ids_shape[2] = {4, 2}, rows_shape[2] = {8, 2}, pairs_shape[1] = {8},
                         experts_shape[1] = {4};
    static const int64_t range_values[2] = {0, 4};
    static const int32_t wanted_row_of[8] = {2, 0, 6, 7, 1, 4, 5, 3};
    static const float wanted_scales[8] = {2.F / 127, 0, 2.F / 127, 3.F / 127, 0, 3.F / 127, 1, 1};
    aclrtStream stream = NULL;
    CHECK(aclInit(NULL));
    CHECK(aclrtSetDevice(0));
    CHECK(aclrtCreateStream(&stream));
    device_tensor x = make_tensor(ACL_FLOAT, x_values, 2, x_shape);
    device_tensor experts = make_tensor(ACL_INT32, ids, 2, ids_shape);
    device_tensor rows = make_tensor(ACL_INT8, NULL, 2, rows_shape);
    device_tensor row_of = make_tensor(ACL_INT32, NULL, 1, pairs_shape);
    device_tensor counts = make_tensor(ACL_INT64, NULL, 1, experts_shape);
    device_tensor scales = make_tensor(ACL_FLOAT, NULL, 1, pairs_shape);
    aclIntArray* const range = aclCreateIntArray(range_values, 2);
    uint64_t size = 0;
    aclOpExecutor* executor = NULL;
    CHECK(aclnnMoeInitRoutingV3GetWorkspaceSize(x.tensor, experts.tensor, NULL, NULL, -1, -1, 4, 0, 1, true, 1, range,
                                                0, rows.tensor, row_of.tensor, counts.tensor, scales.tensor, &size,
                                                &executor));
    launch(aclnnMoeInitRoutingV3, size, executor, stream);
    expect_int32s("row of each token and expert", &row_of, wanted_row_of);
    expect_floats("scales", &scales, wanted_scales, 0);
    int64_t seen[4];
    read_tensor(&counts, seen);
    for (int i = 0; i < 4; ++i) {
        if (seen[i] != 2) {
            fprintf(stderr, "expert %d has %d rows, wanted 2\n", i, (int)seen[i]);
            return 1;
        }
    }
    CHECK(aclDestroyIntArray(range));
    free_tensor(&x);
    free_tensor(&experts);
    free_tensor(&rows);
    free_tensor(&row_of);
    free_tensor(&counts);
    free_tensor(&scales);
    CHECK(aclrtDestroyStream(stream));
    CHECK(aclrtResetDevice(0));
    CHECK(aclFinalize());
    return 0;
}
