/* aclnnMoeFinalizeRoutingV2 from C. */
#include "aclnnop/aclnn_moe_finalize_routing_v2.h"

#include "client.h"

int main(void) {
    static const float rows_values[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    static const int32_t row_of_values[4] = {3, 1, 0, 2};
    static const float scales_values[4] = {.5F, 2, 1, -1};
    static const int64_t rows_shape[2] = {4, 3}, pairs_shape[1] = {4}, choices_shape[2] = {2, 2}, out_shape[2] = {2, 3};
    /* .5 * row 3 + 2 * row 1; row 0 - row 2 */
    static const float wanted[6] = {13, 15.5F, 18, -6, -6, -6};
    aclrtStream stream = NULL;
    CHECK(aclInit(NULL));
    CHECK(aclrtSetDevice(0));
    CHECK(aclrtCreateStream(&stream));
    device_tensor rows = make_tensor(ACL_FLOAT, rows_values, 2, rows_shape);
    device_tensor row_of = make_tensor(ACL_INT32, row_of_values, 1, pairs_shape);
    device_tensor scales = make_tensor(ACL_FLOAT, scales_values, 2, choices_shape);
    device_tensor out = make_tensor(ACL_FLOAT, NULL, 2, out_shape);
    uint64_t size = 0;
    aclOpExecutor* executor = NULL;
    CHECK(aclnnMoeFinalizeRoutingV2GetWorkspaceSize(rows.tensor, row_of.tensor, NULL, NULL, NULL, scales.tensor, NULL,
                                                    2, out.tensor, &size, &executor));
    launch(aclnnMoeFinalizeRoutingV2, size, executor, stream);
    expect_floats("out", &out, wanted, 0);
    free_tensor(&rows);
    free_tensor(&row_of);
    free_tensor(&scales);
    free_tensor(&out);
    CHECK(aclrtDestroyStream(stream));
    CHECK(aclrtResetDevice(0));
    CHECK(aclFinalize());
    return 0;
}
