// aclnnMoeComputeExpertTokens: where each expert's rows end in a sorted list of experts.
#include "aclnnop/aclnn_moe_compute_expert_tokens.h"

#include "client.h"

int main() {
    return client::program([] {
        const client::Device device;
        const auto sorted = client::int32s({6}, {0, 0, 2, 2, 2, 5});
        const client::Tensor<int32_t> ends({6}, ACL_INT32);
        client::run(device, CLIENT_OP(MoeComputeExpertTokens), sorted, 6, ends);
        client::expect_equal("ends of the experts' rows", ends.read(), {2, 2, 5, 5, 5, 6});
    });
}
