// aclnnMoeInitRoutingV3 for experts 1, 2 and 3 of 6: a copy with the scales of the tokens, and int8 with a scale per row.
#include "aclnnop/aclnn_moe_init_routing_v3.h"

#include "client.h"

int main() {
    return client::program([] {
        const client::Device device;
        const auto x = client::floats({3, 4}, {1, 2, -3, 4, 0.5F, -0.25F, 0.125F, 1, -8, 6, 7, 5});
        const auto experts = client::int32s({3, 2}, {2, 5, 0, 2, 3, 2});
        const client::IntArray range{1, 4};
        {
            const auto scale = client::floats({3}, {10, 20, 30});
            const client::Tensor<float> rows({6, 4}, ACL_FLOAT);
            const client::Tensor<int32_t> row_of({6}, ACL_INT32);
            const client::Tensor<int64_t> counts({3}, ACL_INT64);
            const client::Tensor<float> scales({6}, ACL_FLOAT);
            client::run(device, CLIENT_OP(MoeInitRoutingV3), x, experts, scale, nullptr, -1, -1, 6, 0, 1, true, -1,
                        range, 0, rows, row_of, counts, scales);
            client::expect_equal("row of each token and expert", row_of.read(), {0, -1, -1, 1, 3, 2});
            client::expect_equal<int64_t>("rows of each expert", counts.read(), {0, 3, 1});
            // Four of the six rows are used; the others are as they were.
            client::expect_equal("scales", scales.read(), {10, 20, 30, 30, 0, 0});
            client::expect_equal("rows", rows.read(), {1,  2, -3, 4, 0.5F, -0.25F, 0.125F, 1, -8, 6, 7, 5,  //
                                                       -8, 6, 7,  5, 0,    0,      0,      0, 0,  0, 0, 0});
        }
        {
            const client::Tensor<int8_t> rows({6, 4}, ACL_INT8);
            const client::Tensor<int32_t> source({6}, ACL_INT32);
            const client::Tensor<int64_t> ends({3}, ACL_INT64);
            const client::Tensor<float> scales({6}, ACL_FLOAT);
            client::run(device, CLIENT_OP(MoeInitRoutingV3), x, experts, nullptr, nullptr, -1, -1, 6, 0, 0, true, 1,
                        range, 1, rows, source, ends, scales);
            client::expect_equal("source of each row", source.read(), {0, 3, 5, 4, 1, 2});
            client::expect_equal<int64_t>("ends of the experts' rows", ends.read(), {0, 3, 4});
            client::expect_equal("scales", scales.read(), {4.F / 127, 1.F / 127, 8.F / 127, 8.F / 127, 0, 0});
            client::expect_equal<int8_t>("int8 rows", rows.read(),
                                         {32,   64, -95, 127, 64, -32, 16, 127, -127, 95, 111, 79,  //
                                          -127, 95, 111, 79,  0,  0,   0,  0,   0,    0,  0,   0});
        }
    });
}
