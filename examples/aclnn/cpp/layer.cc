// A whole layer with int8 experts: router, dispatch, both products, weighted sum per token. Four operators, of which the
// first three are queued without waiting in between. Each step is checked against double arithmetic on what went into
// it.
#include <algorithm>

#include "aclnnop/aclnn_grouped_matmul_finalize_routing_weight_nz.h"
#include "aclnnop/aclnn_grouped_matmul_swiglu_quant_weight_nz.h"
#include "aclnnop/aclnn_moe_gating_top_k.h"
#include "aclnnop/aclnn_moe_init_routing_v3.h"
#include "client.h"

namespace {

constexpr int64_t tokens = 8, hidden = 256, inner = 64, experts = 4, top_k = 2, rows = tokens * top_k;
constexpr double half_ulp = 6e-8;  // of float32, relative

// Numbers between -1 and 1 without a pattern.
float noise(uint32_t i) {
    i = (i ^ i >> 15) * 0x2C1B3C6D;
    i = (i ^ i >> 12) * 0x297A2D39;
    return static_cast<float>(i >> 8) / 8388608.F - 1;
}

struct Weight {
    Weight(int64_t k_, int64_t n_, uint32_t seed) : k(k_), n(n_) {
        for (int64_t i = 0; i < experts * k * n; ++i)
            values.push_back(static_cast<int8_t>(std::lround(127 * noise(seed + static_cast<uint32_t>(i)))));
        tiles.resize(values.size());
        for (int64_t e = 0; e < experts; ++e)
            for (int64_t row = 0; row < k; ++row)
                for (int64_t column = 0; column < n; ++column)
                    tiles[static_cast<size_t>(
                        (((e * (n / 32) + column / 32) * (k / 16) + row / 16) * 16 + row % 16) * 32 + column % 32)] =
                        values[static_cast<size_t>((e * k + row) * n + column)];
    }
    client::Tensor<int8_t> tensor() const {
        return {{experts, k, n}, ACL_INT8, tiles, ACL_FORMAT_FRACTAL_NZ, {experts, n / 32, k / 16, 16, 32}};
    }
    // Row `row` of codes times column `column` of the weight of expert e.
    int64_t product(const std::vector<int8_t>& codes, int64_t row, int64_t e, int64_t column) const {
        int64_t sum = 0;
        for (int64_t t = 0; t < k; ++t)
            sum += int64_t{codes[static_cast<size_t>(row * k + t)]} *
                   values[static_cast<size_t>((e * k + t) * n + column)];
        return sum;
    }

    int64_t k, n;
    std::vector<int8_t> values, tiles;
};

void expect(bool condition, const char* what, int64_t row) {
    if (!condition) throw std::runtime_error(std::string(what) + " of row " + std::to_string(row));
}

// The codes of a row and its scale stand for its values: none is off by more than half a step.
void expect_codes(const char* what, int64_t row, const std::vector<int8_t>& codes, double scale,
                  const std::vector<double>& values) {
    double largest = 0;
    for (const double value : values) largest = std::max(largest, std::fabs(value));
    expect(std::fabs(scale - largest / 127) <= 16 * half_ulp * scale, what, row);
    for (size_t j = 0; j < values.size(); ++j)
        expect(std::fabs(codes[static_cast<size_t>(row) * values.size() + j] * scale - values[j]) <=
                   scale * (.5 + 127 * 16 * half_ulp),
               what, row);
}

}  // namespace

int main() {
    return client::program([] {
        const client::Device device;
        std::vector<float> x_values, logits;
        for (uint32_t i = 0; i < tokens * hidden; ++i) x_values.push_back(noise(i));
        for (uint32_t i = 0; i < tokens * experts; ++i) logits.push_back(4 * noise(7777 + i));
        const Weight up(hidden, 2 * inner, 1000), down(inner, hidden, 2000);
        const float step = .001F;  // what a code of the weights stands for

        const auto x = client::floats({tokens, hidden}, x_values);
        const auto router = client::floats({tokens, experts}, logits);
        const auto up_weight = up.tensor(), down_weight = down.tensor();
        const auto up_scale = client::floats({experts, up.n}, std::vector<float>(experts * up.n, step));
        const auto down_scale = client::floats({experts, down.n}, std::vector<float>(experts * down.n, step));
        const client::Tensor<float> weights({tokens, top_k}, ACL_FLOAT), scores({tokens, experts}, ACL_FLOAT);
        const client::Tensor<int32_t> chosen({tokens, top_k}, ACL_INT32), source({rows}, ACL_INT32);
        const client::Tensor<int8_t> codes({rows, hidden}, ACL_INT8), inner_codes({rows, inner}, ACL_INT8);
        const client::Tensor<float> scales({rows}, ACL_FLOAT), inner_scales({rows}, ACL_FLOAT);
        const client::Tensor<int64_t> ends({experts}, ACL_INT64);
        const client::IntArray range{0, experts};

        uint64_t sizes[3] = {};
        aclOpExecutor* executors[3] = {};
        CLIENT_CHECK(aclnnMoeGatingTopKGetWorkspaceSize(router, nullptr, top_k, 1, 1, 0, 0, 1, false, 1.0, 1e-20,
                                                        weights, chosen, scores, &sizes[0], &executors[0]));
        CLIENT_CHECK(aclnnMoeInitRoutingV3GetWorkspaceSize(x, chosen, nullptr, nullptr, -1, -1, experts, 0, 0, true, 1,
                                                           range, 1, codes, source, ends, scales, &sizes[1],
                                                           &executors[1]));
        CLIENT_CHECK(aclnnGroupedMatmulSwigluQuantWeightNZGetWorkspaceSize(codes, up_weight, nullptr, nullptr, up_scale,
                                                                           scales, ends, inner_codes, inner_scales,
                                                                           nullptr, &sizes[2], &executors[2]));
        const client::Buffer workspaces[3] = {client::Buffer(sizes[0]), client::Buffer(sizes[1]),
                                              client::Buffer(sizes[2])};
        CLIENT_CHECK(aclnnMoeGatingTopK(workspaces[0].data(), sizes[0], executors[0], device.stream()));
        CLIENT_CHECK(aclnnMoeInitRoutingV3(workspaces[1].data(), sizes[1], executors[1], device.stream()));
        CLIENT_CHECK(
            aclnnGroupedMatmulSwigluQuantWeightNZ(workspaces[2].data(), sizes[2], executors[2], device.stream()));
        device.synchronize();

        // Which token each row came from, and how much it counts.
        const std::vector<int32_t> source_of = source.read();
        const std::vector<float> pair_weights = weights.read();
        std::vector<int64_t> token_of;
        std::vector<float> weight_of;
        for (const int32_t pair : source_of) {
            token_of.push_back(pair / top_k);
            weight_of.push_back(pair_weights[static_cast<size_t>(pair)]);
        }
        const auto row_index = client::int64s({rows}, token_of);
        const auto row_weight = client::floats({rows}, weight_of);
        const client::Tensor<float> out({tokens, hidden}, ACL_FLOAT);
        client::run(device, CLIENT_OP(GroupedMatmulFinalizeRoutingWeightNz), inner_codes, down_weight, down_scale,
                    nullptr, inner_scales, ends, nullptr, row_weight, row_index, 0, 1.F, 0, false, false, 0, out);

        const std::vector<int32_t> chosen_of = chosen.read();
        const std::vector<int64_t> end_of = ends.read();
        const std::vector<int8_t> code_values = codes.read(), inner_values = inner_codes.read();
        const std::vector<float> scale_of = scales.read(), inner_scale_of = inner_scales.read();
        std::vector<double> wanted(tokens * hidden), magnitude(tokens * hidden);
        for (int64_t row = 0; row < rows; ++row) {
            const auto r = static_cast<size_t>(row);
            const int64_t e = std::upper_bound(end_of.begin(), end_of.end(), row) - end_of.begin();
            const int64_t token = token_of[r];
            expect(chosen_of[static_cast<size_t>(source_of[r])] == e, "expert", row);
            // The two best scores of the token, normalised.
            std::vector<double> score;
            for (int64_t j = 0; j < experts; ++j)
                score.push_back(1 / (1 + std::exp(-double{logits[static_cast<size_t>(token * experts + j)]})));
            std::vector<double> sorted(score);
            std::sort(sorted.rbegin(), sorted.rend());
            expect(score[static_cast<size_t>(e)] >= sorted[1], "choice", row);
            expect(std::fabs(weight_of[r] - score[static_cast<size_t>(e)] / (sorted[0] + sorted[1])) <= 16 * half_ulp,
                   "weight", row);
            const auto* const begin = &x_values[static_cast<size_t>(token * hidden)];
            expect_codes("int8 tokens", row, code_values, scale_of[r], std::vector<double>(begin, begin + hidden));
            std::vector<double> activated;
            for (int64_t j = 0; j < inner; ++j) {
                const double gate = static_cast<double>(up.product(code_values, row, e, j)) * step * scale_of[r];
                const double value =
                    static_cast<double>(up.product(code_values, row, e, inner + j)) * step * scale_of[r];
                activated.push_back(gate / (1 + std::exp(-gate)) * value);
            }
            expect_codes("swiglu", row, inner_values, inner_scale_of[r], activated);
            for (int64_t j = 0; j < hidden; ++j) {
                const double term = static_cast<double>(down.product(inner_values, row, e, j)) * step *
                                    inner_scale_of[r] * weight_of[r];
                wanted[static_cast<size_t>(token * hidden + j)] += term;
                magnitude[static_cast<size_t>(token * hidden + j)] += std::fabs(term);
            }
        }
        client::expect_close("layer", out.read(), wanted, [&](size_t i) { return 16 * half_ulp * magnitude[i]; });
    });
}
