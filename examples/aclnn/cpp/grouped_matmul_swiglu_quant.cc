// aclnnGroupedMatmulSwigluQuant and its WeightNZ: the first product of int8 experts, swiglu, and int8 again.
#include "aclnnop/aclnn_grouped_matmul_swiglu_quant.h"

#include "aclnnop/aclnn_grouped_matmul_swiglu_quant_weight_nz.h"
#include "client.h"

namespace {

constexpr int64_t m = 5, k = 32, n = 64, experts = 2;
constexpr int64_t k1 = k / 16, n1 = n / 32;
const std::vector<int64_t> ends = {3, 4};  // row 4 belongs to nobody
const std::vector<float> x_scale = {1, .5F, 3, .25F, .125F};

int8_t x_at(int64_t i, int64_t t) {
    return static_cast<int8_t>((i * 5 + t * 3) % 9 - 4);
}
int8_t weight_at(int64_t e, int64_t t, int64_t j) {
    return static_cast<int8_t>((e * 5 + t * 7 + j * 3) % 11 - 5);
}
float scale_at(int64_t e, int64_t j) {
    return static_cast<float>(1 + (j + e) % 3) / 64;
}

// One row in double.
std::vector<double> row_of(int64_t i) {
    const int64_t e = i < ends[0] ? 0 : 1;
    std::vector<double> c;
    for (int64_t j = 0; j < n; ++j) {
        int product = 0;
        for (int64_t t = 0; t < k; ++t) product += x_at(i, t) * weight_at(e, t, j);
        c.push_back(static_cast<double>(product) * scale_at(e, j) * x_scale[static_cast<size_t>(i)]);
    }
    std::vector<double> s;
    for (size_t j = 0; j < n / 2; ++j) s.push_back(c[j] / (1 + std::exp(-c[j])) * c[n / 2 + j]);
    return s;
}

void expect(const char* name, const std::vector<int8_t>& codes, const std::vector<float>& scales) {
    for (int64_t i = 0; i < ends.back(); ++i) {
        const std::vector<double> s = row_of(i);
        double largest = 0;
        for (const double value : s) largest = std::max(largest, std::fabs(value));
        const double scale = scales[static_cast<size_t>(i)];
        // Ten roundings of float32 on the way to a value, and one in the division.
        if (!(std::fabs(scale - largest / 127) <= 16 * 6e-8 * scale))
            throw std::runtime_error(std::string(name) + ": scale of row " + std::to_string(i));
        for (size_t j = 0; j < s.size(); ++j) {
            const double code = codes[static_cast<size_t>(i * n / 2) + j];
            if (!(std::fabs(code * scale - s[j]) <= scale * (.5 + 127 * 16 * 6e-8)))
                throw std::runtime_error(std::string(name) + ": code " + std::to_string(j) + " of row " +
                                         std::to_string(i));
        }
    }
    // The row of nobody keeps its zeros.
    for (size_t j = static_cast<size_t>(ends.back() * n / 2); j < codes.size(); ++j)
        if (codes[j] != 0) throw std::runtime_error(std::string(name) + ": a row behind the last expert was written");
    std::printf("%s: as expected\n", name);
}

}  // namespace

int main() {
    return client::program([] {
        const client::Device device;
        std::vector<int8_t> rows;
        for (int64_t i = 0; i < m; ++i)
            for (int64_t t = 0; t < k; ++t) rows.push_back(x_at(i, t));
        // FRACTAL_NZ is made on the host here; format_cast.cc has the operators for it.
        std::vector<int8_t> tiles(static_cast<size_t>(experts * k * n));
        std::vector<float> scale_values;
        for (int64_t e = 0; e < experts; ++e) {
            for (int64_t t = 0; t < k; ++t)
                for (int64_t j = 0; j < n; ++j)
                    tiles[static_cast<size_t>((((e * n1 + j / 32) * k1 + t / 16) * 16 + t % 16) * 32 + j % 32)] =
                        weight_at(e, t, j);
            for (int64_t j = 0; j < n; ++j) scale_values.push_back(scale_at(e, j));
        }
        const auto x = client::int8s({m, k}, rows);
        const auto weight_scale = client::floats({experts, n}, scale_values);
        const auto row_scale = client::floats({m}, x_scale);
        const auto groups = client::int64s({experts}, ends);
        const client::Shape stored = {experts, n1, k1, 16, 32};
        {
            const client::Tensor<int8_t> weight(stored, ACL_INT8, tiles, ACL_FORMAT_FRACTAL_NZ);
            const client::Tensor<int8_t> codes({m, n / 2}, ACL_INT8);
            const client::Tensor<float> scales({m}, ACL_FLOAT);
            client::run(device, CLIENT_OP(GroupedMatmulSwigluQuant), x, weight, nullptr, nullptr, weight_scale,
                        row_scale, groups, codes, scales, nullptr);
            expect("aclnnGroupedMatmulSwigluQuant", codes.read(), scales.read());
        }
        {
            const client::Tensor<int8_t> weight({experts, k, n}, ACL_INT8, tiles, ACL_FORMAT_FRACTAL_NZ, stored);
            const client::Tensor<int8_t> codes({m, n / 2}, ACL_INT8);
            const client::Tensor<float> scales({m}, ACL_FLOAT);
            client::run(device, CLIENT_OP(GroupedMatmulSwigluQuantWeightNZ), x, weight, nullptr, nullptr, weight_scale,
                        row_scale, groups, codes, scales, nullptr);
            expect("aclnnGroupedMatmulSwigluQuantWeightNZ", codes.read(), scales.read());
        }
    });
}
