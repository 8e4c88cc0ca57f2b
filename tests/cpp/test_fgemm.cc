// The float matrix products: every kernel table against the plain loops, bit for bit, at sizes around tiles.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/fgemm/fgemm_list.h"
#include "kernels/numeric.h"

using namespace moe;

namespace {

constexpr WeightKind kinds[] = {WeightKind::f32, WeightKind::f16, WeightKind::bf16, WeightKind::s8_f16,
                                WeightKind::s8_bf16};
constexpr int64_t column_counts[] = {1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 101};

bool is_integer(WeightKind kind) {
    return kind == WeightKind::s8_f16 || kind == WeightKind::s8_bf16;
}

size_t item_size(WeightKind kind) {
    return is_integer(kind) ? 1 : kind == WeightKind::f32 ? 4 : 2;
}

std::vector<float> normal(int64_t n, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> distribution(0.0f, 1.0f);
    std::vector<float> out(static_cast<size_t>(n));
    for (float& value : out) value = distribution(engine);
    return out;
}

// Weights in their stored form, with subnormal numbers among them.
std::vector<unsigned char> stored(WeightKind kind, int64_t n, unsigned seed) {
    const std::vector<float> values = normal(n, seed);
    std::vector<unsigned char> out(values.size() * item_size(kind));
    for (size_t i = 0; i < values.size(); ++i) {
        const float value = i % 11 == 0 ? values[i] * 1e-6f : values[i];
        const auto code = static_cast<int8_t>(static_cast<int>(values[i] * 50.0f) % 128);
        const uint16_t half = kind == WeightKind::f16 ? narrow_f16(value) : narrow_bf16(value);
        unsigned char* target = out.data() + i * item_size(kind);
        if (is_integer(kind))
            std::memcpy(target, &code, 1);
        else if (kind == WeightKind::f32)
            std::memcpy(target, &value, 4);
        else
            std::memcpy(target, &half, 2);
    }
    return out;
}

// Scales and offsets as they come from stored float16 or bfloat16.
std::vector<float> stored_scales(WeightKind kind, int64_t n, unsigned seed) {
    std::vector<float> out = normal(n, seed);
    for (float& value : out)
        value = kind == WeightKind::s8_f16 ? widen_f16(narrow_f16(value)) : widen_bf16(narrow_bf16(value));
    return out;
}

struct Problem {
    WeightKind kind;
    int64_t k;
    int64_t columns;
    int64_t stride;
    std::vector<unsigned char> weights;
    std::vector<float> scale, offset;
    WeightBlock block;

    Problem(WeightKind kind_, int64_t k_, int64_t columns_)
        : kind(kind_),
          k(k_),
          columns(columns_),
          stride(columns_ + 3),
          weights(stored(kind_, k_ * (columns_ + 3), 1)),
          scale(stored_scales(kind_, columns_, 2)),
          offset(stored_scales(kind_, columns_, 3)),
          block{weights.data(),
                stride,
                k_,
                columns_,
                is_integer(kind_) ? scale.data() : nullptr,
                is_integer(kind_) ? offset.data() : nullptr} {}
};

// Packs and multiplies; c has one row per row of a, `columns` wide.
std::vector<float> packed_product(const FgemmKernels& kernels, const Problem& problem, const std::vector<float>& a,
                                  int64_t rows, std::vector<float> c) {
    const int64_t panels = (problem.columns + kernels.nr - 1) / kernels.nr;
    const int64_t panel_stride = problem.k * kernels.nr + 5;
    const int64_t width = panels * kernels.nr;
    std::vector<float> packed(static_cast<size_t>(panels * panel_stride), NAN);
    std::vector<float> sums(static_cast<size_t>(rows * width), 7.0f);
    for (int64_t i = 0; i < rows; ++i)
        std::memcpy(&sums[static_cast<size_t>(i * width)], &c[static_cast<size_t>(i * problem.columns)],
                    static_cast<size_t>(problem.columns) * sizeof(float));
    kernels.pack[static_cast<int>(problem.kind)](problem.block, packed.data(), panel_stride);
    for (int64_t i = 0; i < rows; i += kernels.mr)
        for (int64_t p = 0; p < panels; ++p)
            kernels.tile(std::min<int64_t>(kernels.mr, rows - i), problem.k, a.data() + i * problem.k, problem.k,
                         packed.data() + p * panel_stride, sums.data() + i * width + p * kernels.nr, width);
    for (int64_t i = 0; i < rows; ++i) {
        std::memcpy(&c[static_cast<size_t>(i * problem.columns)], &sums[static_cast<size_t>(i * width)],
                    static_cast<size_t>(problem.columns) * sizeof(float));
        const auto row = a.begin() + static_cast<std::ptrdiff_t>(i * problem.k);
        const bool finite = std::all_of(row, row + static_cast<std::ptrdiff_t>(problem.k),
                                        [](float value) { return std::isfinite(value); });
        for (int64_t j = problem.columns; j < width && finite; ++j)  // zero weights fill the last panel
            CHECK(sums[static_cast<size_t>(i * width + j)] == 7.0f);
    }
    return c;
}

std::vector<float> row_product(const FgemmKernels& kernels, const Problem& problem, const std::vector<float>& a,
                               int64_t rows, std::vector<float> c) {
    for (int64_t i = 0; i < rows; ++i)
        kernels.row[static_cast<int>(problem.kind)](problem.block, a.data() + i * problem.k,
                                                    c.data() + i * problem.columns);
    return c;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

template <class Check>
void for_each_table(Check&& check) {
    for (const auto& row : fgemm_kernel_list) {
        if (row.isa > isa_limit()) continue;
        CAPTURE(row.name);
        check(*row.table, row.table->fused ? fgemm_ref_fused : fgemm_ref);
    }
}

}  // namespace

TEST_CASE("the plain loops add float32 products in ascending k") {
    const std::vector<float> a = normal(40, 4);
    const Problem problem(WeightKind::f32, 40, 1);
    const auto* w = reinterpret_cast<const float*>(problem.weights.data());
    float plain = 0.5f;
    float fused = 0.5f;
    for (int64_t p = 0; p < 40; ++p) {
        plain = plain + a[static_cast<size_t>(p)] * w[p * problem.stride];
        fused = std::fma(a[static_cast<size_t>(p)], w[p * problem.stride], fused);
    }
    CHECK(row_product(fgemm_ref, problem, a, 1, {0.5f})[0] == plain);
    CHECK(row_product(fgemm_ref_fused, problem, a, 1, {0.5f})[0] == fused);
    CHECK(plain != fused);
}

TEST_CASE("integer weights are dequantised with the roundings of their type") {
    const int8_t weights[] = {3, -5, 7, 2};
    const float one = 1.0f;
    for (const auto& [kind, needed] :
         {std::pair{WeightKind::s8_f16, std::vector<float>{0.330078125f, -1.5f, 0.72998046875f, 0.25f}},
          std::pair{WeightKind::s8_bf16, std::vector<float>{0.330078125f, -1.5f, 0.73046875f, 0.25f}}}) {
        const bool f16 = kind == WeightKind::s8_f16;
        const auto round = [&](float v) { return f16 ? widen_f16(narrow_f16(v)) : widen_bf16(narrow_bf16(v)); };
        const float scale[] = {round(0.1f), 0.25f};
        const float offset[] = {round(0.3f), -1.0f};
        for_each_table([&, kind = kind, needed = needed](const FgemmKernels& kernels, const FgemmKernels&) {
            for (int64_t p = 0; p < 2; ++p) {
                float c[2] = {};
                kernels.row[static_cast<int>(kind)]({weights + 2 * p, 2, 1, 2, scale, offset}, &one, c);
                CHECK(c[0] == needed[static_cast<size_t>(2 * p)]);
                CHECK(c[1] == needed[static_cast<size_t>(2 * p + 1)]);
            }
        });
    }
}

TEST_CASE("every table gives the bits of the plain loops, packed and streamed") {
    for_each_table([&](const FgemmKernels& kernels, const FgemmKernels& reference) {
        for (const WeightKind kind : kinds)
            for (const int64_t columns : column_counts)
                for (const int64_t k : {1, 2, 7, 8, 9, 50}) {
                    CAPTURE(static_cast<int>(kind));
                    CAPTURE(columns);
                    CAPTURE(k);
                    const Problem problem(kind, k, columns);
                    const int64_t rows = 1 + (columns + k) % (kernels.mr + 3);
                    const std::vector<float> a = normal(rows * k, 5);
                    const std::vector<float> c = normal(rows * columns, 6);
                    const std::vector<float> needed = row_product(reference, problem, a, rows, c);
                    CHECK(same_bits(packed_product(kernels, problem, a, rows, c), needed));
                    CHECK(same_bits(row_product(kernels, problem, a, rows, c), needed));
                }
    });
}

TEST_CASE("a sum may be continued at any k") {
    for_each_table([&](const FgemmKernels& kernels, const FgemmKernels&) {
        const Problem problem(WeightKind::f16, 37, 21);
        const std::vector<float> a = normal(37, 7);
        const std::vector<float> needed = row_product(kernels, problem, a, 1, std::vector<float>(21));
        std::vector<float> c(21);
        for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 11}, {11, 12}, {12, 37}}) {
            WeightBlock part = problem.block;
            part.data = problem.weights.data() + begin * problem.stride * 2;
            part.k = end - begin;
            kernels.row[static_cast<int>(WeightKind::f16)](part, a.data() + begin, c.data());
        }
        CHECK(same_bits(c, needed));
    });
}

TEST_CASE("inf and NaN stay in their row and column") {
    for_each_table([&](const FgemmKernels& kernels, const FgemmKernels&) {
        Problem problem(WeightKind::f32, 9, 40);
        auto* w = reinterpret_cast<float*>(problem.weights.data());
        w[2 * problem.stride + 17] = NAN;
        w[3 * problem.stride + 18] = INFINITY;
        std::vector<float> a(9 * 5, 1.0f);
        a[9 + 4] = INFINITY;
        for (const auto product : {packed_product, row_product}) {
            const std::vector<float> c = product(kernels, problem, a, 5, std::vector<float>(5 * 40));
            for (size_t i = 0; i < 5; ++i)
                for (size_t j = 0; j < 40; ++j) {
                    if (j == 17) CHECK(std::isnan(c[i * 40 + j]));
                    CHECK(std::isfinite(c[i * 40 + j]) == (i != 1 && j != 17 && j != 18));
                }
        }
    });
}
