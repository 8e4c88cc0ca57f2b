// aclnnMoeTokenPermuteWithRoutingMap and aclnnMoeTokenUnpermuteWithRoutingMap: there and back, weighted by the
// probabilities; and with a fixed number of places per expert.
#include "aclnnop/aclnn_moe_token_permute_with_routing_map.h"
#include "aclnnop/aclnn_moe_token_unpermute_with_routing_map.h"

#include "client.h"

int main() {
    return client::program([] {
        const client::Device device;
        const auto tokens = client::floats({3, 2}, {1, 2, 3, 4, 5, 6});
        const client::Tensor<uint8_t> map({3, 4}, ACL_BOOL, {1, 0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1});
        const auto probs = client::floats({3, 4}, {.125F, .25F, .5F, 0, 0, .25F, .75F, 0, .5F, 0, 0, 1});
        {
            const client::Tensor<float> rows({6, 2}, ACL_FLOAT);
            const client::Tensor<float> weights({6}, ACL_FLOAT);
            const client::Tensor<int32_t> row_of({6}, ACL_INT32);
            client::run(device, CLIENT_OP(MoeTokenPermuteWithRoutingMap), tokens, map, probs, 6, false, rows, weights,
                        row_of);
            client::expect_equal("rows, expert by expert", rows.read(), {1, 2, 5, 6, 3, 4, 1, 2, 3, 4, 5, 6});
            client::expect_equal("their probabilities", weights.read(), {.125F, .5F, .25F, .5F, .75F, 1});
            client::expect_equal("row of each token's experts", row_of.read(), {0, 3, 2, 4, 1, 5});

            const client::Tensor<float> back({3, 2}, ACL_FLOAT);
            const client::Tensor<int32_t> index({6}, ACL_INT32);
            const client::Tensor<int32_t> token({6}, ACL_INT32);
            const client::Tensor<float> used({6}, ACL_FLOAT);
            const client::IntArray shape{3, 2};
            client::run(device, CLIENT_OP(MoeTokenUnpermuteWithRoutingMap), rows, row_of, map, probs, false, shape,
                        back, index, token, used);
            client::expect_equal("weighted sums", back.read(), {.625F, 1.25F, 3, 4, 7.5F, 9});
            client::expect_equal("probabilities in the order of the tokens", used.read(),
                                 {.125F, .5F, .25F, .75F, .5F, 1});
        }
        {
            // Two places per expert: experts 1 and 3 fill up with tokens that did not choose them.
            const client::Tensor<float> slots({8, 2}, ACL_FLOAT);
            const client::Tensor<float> weights({8}, ACL_FLOAT);
            const client::Tensor<int32_t> token_of({8}, ACL_INT32);
            client::run(device, CLIENT_OP(MoeTokenPermuteWithRoutingMap), tokens, map, probs, 8, true, slots, weights,
                        token_of);
            client::expect_equal("token in each slot", token_of.read(), {0, 2, 1, 0, 0, 1, 2, 0});
            client::expect_equal("probabilities of the slots", weights.read(),
                                 {.125F, .5F, .25F, .25F, .5F, .75F, 1, 0});

            const client::Tensor<float> back({3, 2}, ACL_FLOAT);
            const client::Tensor<int32_t> order({8}, ACL_INT32);
            const client::Tensor<int32_t> token({8}, ACL_INT32);
            const client::Tensor<float> used({8}, ACL_FLOAT);
            const client::IntArray shape{3, 2};
            client::run(device, CLIENT_OP(MoeTokenUnpermuteWithRoutingMap), slots, token_of, map, probs, true, shape,
                        back, order, token, used);
            client::expect_equal("weighted sums of the slots", back.read(), {.875F, 1.75F, 3, 4, 7.5F, 9});
            client::expect_equal("slots in the order of the tokens", order.read(), {0, 3, 4, 7, 2, 5, 1, 6});
            client::expect_equal("their tokens", token.read(), {0, 0, 0, 0, 1, 1, 2, 2});
        }
    });
}
