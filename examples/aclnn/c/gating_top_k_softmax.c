/* aclnnMoeGatingTopKSoftmax from C. */
#include "aclnnop/aclnn_moe_gating_top_k_softmax.h"

#include "client.h"

int main(void) {
    static const float x_values[12] = {1, 3, 2, 3, 0, -1, 4, 2, 5, 5, 5, 5};
    static const int64_t x_shape[2] = {3, 4}, y_shape[2] = {3, 2};
    static const int32_t wanted_experts[6] = {1, 3, 2, 3, 0, 1}, wanted_rows[6] = {0, 3, 1, 4, 2, 5};
    const double sums[3] = {exp(-2.0) + exp(-1.0) + 2, exp(-4.0) + exp(-5.0) + exp(-2.0) + 1, 4};
    const float wanted[6] = {
        (float)(1 / sums[0]), (float)(1 / sums[0]), (float)(1 / sums[1]), (float)(exp(-2.0) / sums[1]), .25F, .25F};
    aclrtStream stream = NULL;
    CHECK(aclInit(NULL));
    CHECK(aclrtSetDevice(0));
    CHECK(aclrtCreateStream(&stream));
    device_tensor x = make_tensor(ACL_FLOAT, x_values, 2, x_shape);
    device_tensor y = make_tensor(ACL_FLOAT, NULL, 2, y_shape);
    device_tensor experts = make_tensor(ACL_INT32, NULL, 2, y_shape);
    device_tensor rows = make_tensor(ACL_INT32, NULL, 2, y_shape);
    uint64_t size = 0;
    aclOpExecutor* executor = NULL;
    CHECK(aclnnMoeGatingTopKSoftmaxGetWorkspaceSize(x.tensor, NULL, 2, y.tensor, experts.tensor, rows.tensor, &size,
                                                    &executor));
    launch(aclnnMoeGatingTopKSoftmax, size, executor, stream);
    expect_floats("y", &y, wanted, 1e-6); /* a few roundings of float32 */
    expect_int32s("experts", &experts, wanted_experts);
    expect_int32s("rows", &rows, wanted_rows);
    free_tensor(&x);
    free_tensor(&y);
    free_tensor(&experts);
    free_tensor(&rows);
    CHECK(aclrtDestroyStream(stream));
    CHECK(aclrtResetDevice(0));
    CHECK(aclFinalize());
    return 0;
}
