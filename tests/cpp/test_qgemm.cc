// The int8 matrix products: every kernel table against sums in int64, and the dequantisation.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/qgemm/qgemm_list.h"

using namespace moe;

namespace {

constexpr int64_t column_counts[] = {1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 101};

// All values, the extremes often.
std::vector<int8_t> codes(int64_t n, unsigned seed) {
    std::mt19937 engine(seed);
    std::vector<int8_t> out(static_cast<size_t>(n));
    for (int8_t& code : out) {
        const unsigned draw = engine() % 300;
        code = draw < 256 ? static_cast<int8_t>(draw - 128) : draw % 2 == 0 ? int8_t{-128} : int8_t{127};
    }
    return out;
}

struct Problem {
    int64_t rows, k, columns, stride;
    std::vector<int8_t> a, w;
    std::vector<int32_t> needed;

    Problem(int64_t rows_, int64_t k_, int64_t columns_)
        : rows(rows_),
          k(k_),
          columns(columns_),
          stride(columns_ + 3),
          a(codes(rows_ * k_, 1)),
          w(codes(k_ * (columns_ + 3), 2)),
          needed(static_cast<size_t>(rows_ * columns_)) {
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < columns; ++j) {
                int64_t sum = start(i, j);
                for (int64_t p = 0; p < k; ++p)
                    sum += int64_t{a[static_cast<size_t>(i * k + p)]} * w[static_cast<size_t>(p * stride + j)];
                needed[static_cast<size_t>(i * columns + j)] = static_cast<int32_t>(sum);
            }
    }

    static int32_t start(int64_t i, int64_t j) { return static_cast<int32_t>(1000 * i - j); }
};

template <class Check>
void for_each_table(Check&& check) {
    for (const auto& row : qgemm_kernel_list) {
        if (row.isa > isa_limit()) continue;
        CAPTURE(row.name);
        check(*row.table);
    }
}

}  // namespace

TEST_CASE("packed and streamed sums are exact") {
    for_each_table([&](const QgemmKernels& kernels) {
        REQUIRE(kernels.mr <= qgemm_max_rows);
        REQUIRE(kernels.nr <= qgemm_max_columns);
        for (const int64_t columns : column_counts)
            for (const int64_t k : {1, 2, 3, 4, 5, 8, 63, 64, 65}) {
                CAPTURE(columns);
                CAPTURE(k);
                const Problem problem(1 + (columns + k) % (kernels.mr + 3), k, columns);
                const int64_t unit = (k + qgemm_k_unit - 1) / qgemm_k_unit * qgemm_k_unit;
                REQUIRE(kernels.row_size(k) <= unit * qgemm_packed_item);
                REQUIRE(kernels.panel_size(k) <= unit * qgemm_packed_item * kernels.nr);
                REQUIRE(kernels.row_size(k) % 64 == 0);
                REQUIRE(kernels.panel_size(k) % 64 == 0);

                const int64_t panels = (columns + kernels.nr - 1) / kernels.nr;
                const int64_t width = panels * kernels.nr;
                std::vector<unsigned char> packed(static_cast<size_t>(panels * kernels.panel_size(k)), 0xEE);
                std::vector<unsigned char> rows(static_cast<size_t>(kernels.mr * kernels.row_size(k)), 0xEE);
                std::vector<int32_t> sums(static_cast<size_t>(problem.rows * width), 7);
                kernels.pack(problem.w.data(), problem.stride, k, columns, packed.data());
                std::vector<int32_t> streamed(problem.needed.size());
                for (int64_t i = 0; i < problem.rows; ++i) {
                    for (int64_t j = 0; j < columns; ++j)
                        sums[static_cast<size_t>(i * width + j)] = streamed[static_cast<size_t>(i * columns + j)] =
                            Problem::start(i, j);
                    kernels.row(problem.w.data(), problem.stride, k, columns, problem.a.data() + i * k,
                                streamed.data() + i * columns);
                }
                for (int64_t i = 0; i < problem.rows; i += kernels.mr) {
                    const int64_t count = std::min<int64_t>(kernels.mr, problem.rows - i);
                    for (int64_t r = 0; r < count; ++r)
                        kernels.pack_row(problem.a.data() + (i + r) * k, k, rows.data() + r * kernels.row_size(k));
                    for (int64_t p = 0; p < panels; ++p)
                        kernels.tile(count, k, rows.data(), packed.data() + p * kernels.panel_size(k),
                                     sums.data() + i * width + p * kernels.nr, width);
                }
                CHECK(streamed == problem.needed);
                for (int64_t i = 0; i < problem.rows; ++i)
                    for (int64_t j = 0; j < width; ++j)
                        REQUIRE(sums[static_cast<size_t>(i * width + j)] ==
                                (j < columns ? problem.needed[static_cast<size_t>(i * columns + j)] : 7));
            }
    });
}

TEST_CASE("the longest sum of extremes does not overflow") {
    constexpr int64_t k = 131071;
    const std::vector<int8_t> lowest(k, -128);
    for_each_table([&](const QgemmKernels& kernels) {
        int32_t sum = 0;
        kernels.row(lowest.data(), 1, k, 1, lowest.data(), &sum);
        CHECK(sum == k * 128 * 128);
        // Packed in two blocks.
        sum = 0;
        std::vector<int32_t> sums(static_cast<size_t>(kernels.nr));
        for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 65536}, {65536, k}}) {
            std::vector<unsigned char> row(static_cast<size_t>(kernels.row_size(end - begin)));
            std::vector<unsigned char> panel(static_cast<size_t>(kernels.panel_size(end - begin)));
            kernels.pack_row(lowest.data(), end - begin, row.data());
            kernels.pack(lowest.data(), 1, end - begin, 1, panel.data());
            kernels.tile(1, end - begin, row.data(), panel.data(), sums.data(), kernels.nr);
        }
        CHECK(sums[0] == k * 128 * 128);
    });
}

TEST_CASE("dequantisation rounds the exact sum once, then the product") {
    const std::vector<int32_t> sums{0, 1, -1, 16777217, INT32_MAX, INT32_MIN, 33554433, -7};
    const std::vector<int32_t> bias{0, 2, -16777216, 16777217, INT32_MAX, INT32_MIN, 1, 7};
    const std::vector<float> scale{1.0f, 0.1f, 3.0f, 0.3f, 1e-5f, 7.7f, 1.0f, NAN};
    for_each_table([&](const QgemmKernels& kernels) {
        for (const int64_t n : {0, 1, 3, 8}) {
            float out[8];
            for (const int32_t* b : {static_cast<const int32_t*>(nullptr), bias.data()}) {
                kernels.dequantise(sums.data(), b, scale.data(), out, n);
                for (int64_t j = 0; j < n; ++j) {
                    const auto at = static_cast<size_t>(j);
                    const int64_t sum = int64_t{sums[at]} + (b == nullptr ? 0 : bias[at]);
                    const float needed = static_cast<float>(sum) * scale[at];
                    CHECK((out[j] == needed || (std::isnan(out[j]) && std::isnan(needed))));
                }
            }
        }
    });
}
