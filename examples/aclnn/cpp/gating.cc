// aclnnMoeGatingTopKSoftmax, its V2, and aclnnMoeGatingTopK: routers, against a few lines of double arithmetic.
#include <algorithm>

#include "aclnnop/aclnn_moe_gating_top_k.h"
#include "aclnnop/aclnn_moe_gating_top_k_softmax.h"
#include "aclnnop/aclnn_moe_gating_top_k_softmax_v2.h"
#include "client.h"

namespace {

// Bound of a float32 softmax of up to eight values: a rounding for each of exp, the sum's terms, and the division.
double bound(size_t) {
    return 16 * 1.2e-7;
}

std::vector<double> softmax(const float* x, size_t count) {
    const double largest = *std::max_element(x, x + count);
    std::vector<double> result;
    for (size_t i = 0; i < count; ++i) result.push_back(std::exp(x[i] - largest));
    const double sum = std::accumulate(result.begin(), result.end(), 0.0);
    for (double& value : result) value /= sum;
    return result;
}

}  // namespace

int main() {
    return client::program([] {
        const client::Device device;
        const std::vector<float> values = {1, 3, 2, 3, 0, -1, 4, 2, 5, 5, 5, 5};
        const auto x = client::floats({3, 4}, values);
        const std::vector<int32_t> best = {1, 3, 2, 3, 0, 1};  // of equal values the first
        std::vector<double> wanted;
        for (size_t i = 0; i < best.size(); ++i)
            wanted.push_back(softmax(&values[i / 2 * 4], 4)[static_cast<size_t>(best[i])]);
        {
            const client::Tensor<uint8_t> finished({3}, ACL_BOOL, {0, 1, 0});
            const client::Tensor<float> y({3, 2}, ACL_FLOAT);
            const client::Tensor<int32_t> experts({3, 2}, ACL_INT32);
            const client::Tensor<int32_t> rows({3, 2}, ACL_INT32);
            client::run(device, CLIENT_OP(MoeGatingTopKSoftmax), x, finished, 2, y, experts, rows);
            client::expect_close("softmax of the chosen", y.read(), wanted, bound);
            // The row that is finished belongs to no expert: 4 is one too many.
            client::expect_equal("chosen experts", experts.read(), {1, 3, 4, 4, 0, 1});
            client::expect_equal("numbers of the pairs", rows.read(), {0, 3, 1, 4, 2, 5});
        }
        {
            const client::Tensor<float> y({3, 2}, ACL_FLOAT);
            const client::Tensor<int32_t> experts({3, 2}, ACL_INT32);
            const client::Tensor<float> all({3, 4}, ACL_FLOAT);
            client::run(device, CLIENT_OP(MoeGatingTopKSoftmaxV2), x, nullptr, 2, 0, true, y, experts, all);
            client::expect_close("softmax of the chosen, V2", y.read(), wanted, bound);
            client::expect_equal("chosen experts, V2", experts.read(), best);
            std::vector<double> every;
            for (size_t row = 0; row < 3; ++row)
                for (const double value : softmax(&values[row * 4], 4)) every.push_back(value);
            client::expect_close("softmax of all", all.read(), every, bound);
        }
        {
            // Sigmoid scores, a bias for the choice alone, the two best of four groups.
            const std::vector<float> router = {0, 1, 2, -1, 3, 0.5F, -2, 1.5F};
            const auto scores = client::floats({1, 8}, router);
            const auto bias = client::floats({8}, {0.5F, 0, 0, 0.4F, -0.9F, 0, 0.6F, 0});
            const client::Tensor<float> y({1, 2}, ACL_FLOAT);
            const client::Tensor<int32_t> experts({1, 2}, ACL_INT32);
            const client::Tensor<float> all({1, 8}, ACL_FLOAT);
            client::run(device, CLIENT_OP(MoeGatingTopK), scores, bias, 2, 2, 4, 0, 0, 1, true, 2.5, 1e-20, y, experts,
                        all);
            std::vector<double> sigmoid;
            for (const float value : router) sigmoid.push_back(1 / (1 + std::exp(-static_cast<double>(value))));
            const double sum = sigmoid[0] + sigmoid[2];
            client::expect_equal("experts of the best groups", experts.read(), {0, 2});
            client::expect_close("their weights", y.read(), {2.5 * sigmoid[0] / sum, 2.5 * sigmoid[2] / sum}, bound);
            client::expect_close("all scores", all.read(), sigmoid, bound);
        }
    });
}
