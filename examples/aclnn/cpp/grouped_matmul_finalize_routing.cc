// aclnnGroupedMatmulFinalizeRouting, V2 and V3 with packed int4 weights. All numbers are small multiples of powers of
// two, so that results are exact.
#include "aclnnop/aclnn_grouped_matmul_finalize_routing.h"

#include "aclnnop/aclnn_grouped_matmul_finalize_routing_v2.h"
#include "aclnnop/aclnn_grouped_matmul_finalize_routing_v3.h"
#include "client.h"

namespace {

constexpr int64_t m = 4, k = 192, n = 72, experts = 2, batch = 2;
const std::vector<int64_t> counts = {3, 1};
const std::vector<int64_t> token_of = {0, 1, 1, 0};
const std::vector<float> pertoken = {1, .5F, 2, .25F};
const std::vector<float> logit = {.5F, 1, .25F, 2};
const std::vector<float> scales = {.5F, .25F};  // of all columns of an expert

int8_t x_at(int64_t i, int64_t t) {
    return static_cast<int8_t>((i * 5 + t * 3) % 11 - 5);
}
int weight_at(int64_t e, int64_t t, int64_t j) {
    return static_cast<int>((e + t * 7 + j * 5) % 3 - 1);
}

// Eight int4 of a row in each int32, the first one in the lowest bits.
std::vector<int32_t> packed_weight() {
    std::vector<int32_t> packed;
    for (int64_t e = 0; e < experts; ++e)
        for (int64_t t = 0; t < k; ++t)
            for (int64_t j = 0; j < n; j += 8) {
                uint32_t word = 0;
                for (int64_t nibble = 0; nibble < 8; ++nibble)
                    word |= (static_cast<uint32_t>(weight_at(e, t, j + nibble)) & 15U) << (4 * nibble);
                packed.push_back(static_cast<int32_t>(word));
            }
    return packed;
}

// The scale of a column is a 64-bit integer with the bits of a float.
std::vector<int64_t> scale_bits() {
    std::vector<int64_t> bits;
    for (int64_t e = 0; e < experts; ++e) {
        uint32_t value;
        std::memcpy(&value, &scales[static_cast<size_t>(e)], sizeof(value));
        bits.insert(bits.end(), static_cast<size_t>(n), value);
    }
    return bits;
}

// The activations are split into two signed halves of four bits, which shifts them by 8: the bias takes that back.
std::vector<float> bias_values() {
    std::vector<float> bias;
    for (int64_t e = 0; e < experts; ++e)
        for (int64_t j = 0; j < n; ++j) {
            int sum = 0;
            for (int64_t t = 0; t < k; ++t) sum += weight_at(e, t, j);
            bias.push_back(8 * static_cast<float>(sum) * scales[static_cast<size_t>(e)]);
        }
    return bias;
}

constexpr float shared_weight = .5F;
constexpr int64_t shared_offset = 1;
float shared_at(int64_t j) {
    return static_cast<float>(j % 4);
}

// `offset` of the second and third version adds offset * sum of the row of x.
std::vector<float> wanted(float offset) {
    std::vector<float> out(static_cast<size_t>(batch * n));
    for (int64_t j = 0; j < n; ++j) out[static_cast<size_t>(shared_offset * n + j)] = shared_weight * shared_at(j);
    for (int64_t i = 0; i < m; ++i) {
        const int64_t e = i < counts[0] ? 0 : 1;
        const auto row = static_cast<size_t>(i);
        for (int64_t j = 0; j < n; ++j) {
            int product = 0;
            int sum = 0;
            for (int64_t t = 0; t < k; ++t) {
                product += x_at(i, t) * weight_at(e, t, j);
                sum += x_at(i, t);
            }
            out[static_cast<size_t>(token_of[row] * n + j)] +=
                (static_cast<float>(product) * scales[static_cast<size_t>(e)] + offset * static_cast<float>(sum)) *
                pertoken[row] * logit[row];
        }
    }
    return out;
}

}  // namespace

int main() {
    return client::program([] {
        const client::Device device;
        std::vector<int8_t> rows;
        for (int64_t i = 0; i < m; ++i)
            for (int64_t t = 0; t < k; ++t) rows.push_back(x_at(i, t));
        std::vector<uint16_t> shared_bits;
        for (int64_t j = 0; j < n; ++j) shared_bits.push_back(client::bfloat16(shared_at(j)));
        const auto x = client::int8s({m, k}, rows);
        const auto scale = client::int64s({experts, 1, n}, scale_bits());
        const auto bias = client::floats({experts, n}, bias_values());
        const auto offset = client::floats({experts, 1, n}, std::vector<float>(static_cast<size_t>(experts * n), .5F));
        const auto row_scale = client::floats({m}, pertoken);
        const auto groups = client::int64s({experts}, counts);
        const client::Tensor<uint16_t> shared({1, n}, ACL_BF16, shared_bits);
        const auto weight_of_row = client::floats({m}, logit);
        const auto row_index = client::int64s({m}, token_of);
        {
            const client::Tensor<int32_t> weight({experts, k, n / 8}, ACL_INT32, packed_weight());
            const client::Tensor<float> out({batch, n}, ACL_FLOAT);
            client::run(device, CLIENT_OP(GroupedMatmulFinalizeRouting), x, weight, scale, bias, row_scale, groups,
                        shared, weight_of_row, row_index, 0, shared_weight, shared_offset, false, false, 1, out);
            client::expect_equal("first version", out.read(), wanted(0));
        }
        {
            // A first call may change the description of the weight, so a second call gets a fresh one.
            const client::Tensor<int32_t> weight({experts, k, n / 8}, ACL_INT32, packed_weight());
            const client::Tensor<float> out({batch, n}, ACL_FLOAT);
            client::run(device, CLIENT_OP(GroupedMatmulFinalizeRoutingV2), x, weight, scale, bias, offset, nullptr,
                        nullptr, row_scale, groups, shared, weight_of_row, row_index, 0, shared_weight, shared_offset,
                        false, false, 1, out);
            client::expect_equal("second version", out.read(), wanted(.5F));
        }
        {
            const client::IntArray expected_rows{2};
            const client::Tensor<int32_t> weight({experts, k, n / 8}, ACL_INT32, packed_weight());
            const client::Tensor<float> out({batch, n}, ACL_FLOAT);
            client::run(device, CLIENT_OP(GroupedMatmulFinalizeRoutingV3), x, weight, scale, bias, offset, nullptr,
                        nullptr, row_scale, groups, shared, weight_of_row, row_index, 0, shared_weight, shared_offset,
                        false, false, 1, expected_rows, out);
            client::expect_equal("third version", out.read(), wanted(.5F));
        }
    });
}
