// aclnnMoeInitRoutingV2: rows sorted by expert without a limit, and with two places per expert.
#include "aclnnop/aclnn_moe_init_routing_v2.h"

#include "client.h"

int main() {
    return client::program([] {
        const client::Device device;
        const auto x = client::floats({3, 4}, {1, 2, -3, 4, 0.5F, -0.25F, 0.125F, 1, -8, 6, 7, 5});
        {
            const auto experts = client::int32s({3, 2}, {0, 2, 2, 1, 1, 0});
            const client::Tensor<float> rows({6, 4}, ACL_FLOAT);
            const client::Tensor<int32_t> row_of({6}, ACL_INT32);
            const client::Tensor<int32_t> ends({3}, ACL_INT32);
            client::run(device, CLIENT_OP(MoeInitRoutingV2), x, experts, 0, 0, 3, 0, 1, false, rows, row_of, ends,
                        nullptr);
            client::expect_equal("row of each token and expert", row_of.read(), {0, 4, 5, 2, 3, 1});
            client::expect_equal("ends of the experts' rows", ends.read(), {2, 4, 6});
            client::expect_equal("rows", rows.read(), {1,    2,      -3,     4, -8,   6,      7,      5,  //
                                                       0.5F, -0.25F, 0.125F, 1, -8,   6,      7,      5,  //
                                                       1,    2,      -3,     4, 0.5F, -0.25F, 0.125F, 1});
        }
        {
            // Expert 2 is chosen three times: its last row is dropped. Expert 1 leaves a place empty.
            const auto experts = client::int32s({3, 2}, {0, 2, 2, 1, 2, 0});
            const client::Tensor<float> slots({3, 2, 4}, ACL_FLOAT);
            const client::Tensor<int32_t> slot_of({6}, ACL_INT32);
            const client::Tensor<int32_t> wanted({3}, ACL_INT32);
            client::run(device, CLIENT_OP(MoeInitRoutingV2), x, experts, 0, 2, 3, 1, 0, true, slots, slot_of, nullptr,
                        wanted);
            client::expect_equal("slot of each token and expert", slot_of.read(), {0, 4, 5, 2, -1, 1});
            client::expect_equal("rows that the experts were chosen for", wanted.read(), {2, 1, 3});
            client::expect_equal("slots", slots.read(), {1,    2,      -3,     4, -8,   6,      7,      5,  //
                                                         0.5F, -0.25F, 0.125F, 1, 0,    0,      0,      0,  //
                                                         1,    2,      -3,     4, 0.5F, -0.25F, 0.125F, 1});
        }
    });
}
