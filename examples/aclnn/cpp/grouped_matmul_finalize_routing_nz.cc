// aclnnGroupedMatmulFinalizeRoutingWeightNz and its V2 with int8 weights, which aclnnTransMatmulWeight and
// aclnnNpuFormatCast bring into FRACTAL_NZ. All numbers are exact.
#include "aclnnop/aclnn_grouped_matmul_finalize_routing_weight_nz.h"
#include "aclnnop/aclnn_grouped_matmul_finalize_routing_weight_nz_v2.h"
#include "aclnnop/aclnn_npu_format_cast.h"
#include "aclnnop/aclnn_trans_matmul_weight.h"
#include "client.h"

namespace {

constexpr int64_t m = 4, k = 48, n = 256, experts = 2, batch = 2;
const std::vector<int64_t> token_of = {0, 1, 1, 0};
const std::vector<float> pertoken = {1, .5F, 2, .25F};
const std::vector<float> logit = {.5F, 1, .25F, 2};

int8_t x_at(int64_t i, int64_t t) {
    return static_cast<int8_t>((i * 37 + t * 11) % 255 - 127);
}
int8_t weight_at(int64_t e, int64_t t, int64_t j) {
    return static_cast<int8_t>((e * 91 + t * 17 + j * 29) % 255 - 127);
}
float scale_at(int64_t e, int64_t j) {
    return j % 2 == e ? .5F : .25F;
}

std::vector<float> wanted() {
    std::vector<float> out(static_cast<size_t>(batch * n));
    for (int64_t i = 0; i < m; ++i) {
        const int64_t e = i < 3 ? 0 : 1;
        for (int64_t j = 0; j < n; ++j) {
            int product = 0;
            for (int64_t t = 0; t < k; ++t) product += x_at(i, t) * weight_at(e, t, j);
            out[static_cast<size_t>(token_of[static_cast<size_t>(i)] * n + j)] +=
                static_cast<float>(product) * scale_at(e, j) * pertoken[static_cast<size_t>(i)] *
                logit[static_cast<size_t>(i)];
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
        std::vector<int8_t> plain;
        std::vector<float> scale_values;
        for (int64_t e = 0; e < experts; ++e) {
            for (int64_t t = 0; t < k; ++t)
                for (int64_t j = 0; j < n; ++j) plain.push_back(weight_at(e, t, j));
            for (int64_t j = 0; j < n; ++j) scale_values.push_back(scale_at(e, j));
        }
        const auto x = client::int8s({m, k}, rows);
        const auto scale = client::floats({experts, n}, scale_values);
        const auto row_scale = client::floats({m}, pertoken);
        const auto weight_of_row = client::floats({m}, logit);
        const auto row_index = client::int64s({m}, token_of);
        const client::Tensor<uint16_t> shared({1, n}, ACL_BF16);
        {
            const client::IntArray shape{experts, k, n};
            uint64_t size = 0;
            CLIENT_CHECK(aclnnCalculateMatmulWeightSizeV2(shape, ACL_INT8, &size));
            std::vector<int8_t> room(plain);
            room.resize(size);
            const client::Tensor<int8_t> weight({experts, k, n}, ACL_INT8, room, ACL_FORMAT_ND, {experts * k * n});
            client::run(device, CLIENT_OP(TransMatmulWeight), weight);
            const auto counts = client::int64s({experts}, {3, 1});
            const client::Tensor<float> out({batch, n}, ACL_FLOAT);
            client::run(device, CLIENT_OP(GroupedMatmulFinalizeRoutingWeightNz), x, weight, scale, nullptr, row_scale,
                        counts, shared, weight_of_row, row_index, 0, 1.F, 0, false, false, 1, out);
            client::expect_equal("weight of aclnnTransMatmulWeight", out.read(), wanted());
        }
        {
            const auto source = client::int8s({experts, k, n}, plain);
            const client::Tensor<int8_t> weight({experts, k, n}, ACL_INT8, std::vector<int8_t>(plain.size()),
                                                ACL_FORMAT_FRACTAL_NZ, {experts, n / 32, k / 16, 16, 32});
            client::run(device, CLIENT_OP(NpuFormatCast), source, weight);
            const auto ends = client::int64s({experts}, {3, 4});
            const client::IntArray expected_rows{2};
            const client::Tensor<float> out({batch, n}, ACL_FLOAT);
            client::run(device, CLIENT_OP(GroupedMatmulFinalizeRoutingWeightNzV2), x, weight, scale, nullptr, nullptr,
                        nullptr, nullptr, row_scale, ends, nullptr, weight_of_row, row_index, 0, 1.F, 0, false, false,
                        0, expected_rows, out);
            client::expect_equal("weight of aclnnNpuFormatCast", out.read(), wanted());
        }
    });
}
