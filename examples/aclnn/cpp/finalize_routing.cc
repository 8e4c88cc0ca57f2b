// aclnnMoeFinalizeRouting and aclnnMoeFinalizeRoutingV2: the weighted sum of each token's expert outputs.
#include "aclnnop/aclnn_moe_finalize_routing.h"
#include "aclnnop/aclnn_moe_finalize_routing_v2.h"

#include "client.h"

int main() {
    return client::program([] {
        const client::Device device;
        const auto rows = client::floats({4, 3}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
        const auto skip1 = client::floats({2, 3}, {.5F, .5F, .5F, 1, 1, 1});
        const auto skip2 = client::floats({2, 3}, {10, 20, 30, 40, 50, 60});
        const auto bias = client::floats({3, 3}, {.25F, 0, 0, 0, .5F, 0, 0, 0, 1});
        const auto scales = client::floats({2, 2}, {.5F, 2, 1, -1});
        const auto experts = client::int32s({2, 2}, {0, 2, 1, 2});
        const std::vector<float> wanted = {23.625F, 36, 50.5F, 35, 45.5F, 54};
        {
            const auto row_of = client::int32s({4}, {3, 0, 1, 2});  // first choices of all tokens, then second ones
            const client::Tensor<float> out({2, 3}, ACL_FLOAT);
            client::run(device, CLIENT_OP(MoeFinalizeRouting), rows, skip1, skip2, bias, scales, row_of, experts, out);
            client::expect_equal("first version", out.read(), wanted);
        }
        {
            const auto row_of = client::int32s({4}, {3, 1, 0, 2});  // both choices of a token, token by token
            const client::Tensor<float> out({2, 3}, ACL_FLOAT);
            client::run(device, CLIENT_OP(MoeFinalizeRoutingV2), rows, row_of, skip1, skip2, bias, scales, experts, 2,
                        out);
            client::expect_equal("second version, mode 2", out.read(), wanted);
        }
        {
            // Slots of two experts with two places each; -1 marks what was dropped, whose bias still counts.
            const auto slots = client::floats({2, 2, 3}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
            const auto slot_bias = client::floats({2, 3}, {.25F, 0, 0, 0, .5F, 1});
            const auto slot_experts = client::int32s({2, 2}, {0, 1, 1, 0});
            const auto slot_of = client::int32s({4}, {3, -1, -1, 0});
            const client::Tensor<float> out({2, 3}, ACL_FLOAT);
            client::run(device, CLIENT_OP(MoeFinalizeRoutingV2), slots, slot_of, nullptr, nullptr, slot_bias, scales,
                        slot_experts, 1, out);
            // .5 * (row 3 + bias 0) + 2 * (0 + bias 1);  1 * (0 + bias 1) - 1 * (row 0 + bias 0)
            client::expect_equal("second version, mode 1", out.read(), {5.125F, 6.5F, 8, -1.25F, -1.5F, -2});
        }
    });
}
