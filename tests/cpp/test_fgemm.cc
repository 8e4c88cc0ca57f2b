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

// Rows of a in the words that the kernels take.
std::vector<uint32_t> words_of(const FgemmKernels& kernels, const std::vector<float>& a, int64_t rows, int64_t k) {
    REQUIRE(k <= fgemm_max_words * (kernels.pairs ? 2 : 1));
    std::vector<uint32_t> words(static_cast<size_t>(rows * fgemm_row_stride));
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t p = 0; p < k; ++p) {
            const float value = a[static_cast<size_t>(i * k + p)];
            const uint16_t half = narrow_bf16(value);
            auto* row = reinterpret_cast<unsigned char*>(&words[static_cast<size_t>(i * fgemm_row_stride)]);
            if (kernels.pairs)
                std::memcpy(row + 2 * p, &half, 2);
            else
                std::memcpy(row + 4 * p, &value, 4);
        }
    return words;
}

// The panel of columns that packing makes, and that of weights as they are stored: rows filled up with zeros, side by
// side, two by two with pairs.
std::vector<float> packed_panel(const FgemmKernels& kernels, WeightKind kind, const WeightBlock& block) {
    std::vector<float> panel(static_cast<size_t>((block.k + 1) * kernels.nr), NAN);
    kernels.pack[static_cast<int>(kind)](block, panel.data());
    return panel;
}
std::vector<float> stored_panel(const FgemmKernels& kernels, WeightKind kind, const WeightBlock& block) {
    const int64_t width = (block.columns + kernels.unit - 1) / kernels.unit * kernels.unit;
    const auto item = static_cast<int64_t>(item_size(kind));
    const int64_t step = kernels.pairs ? 2 : 1;
    std::vector<float> panel(static_cast<size_t>((block.k + 1) * kernels.nr), 0.0f);
    for (int64_t p = 0; p < block.k; ++p)
        for (int64_t j = 0; j < block.columns; ++j)
            std::memcpy(
                reinterpret_cast<unsigned char*>(panel.data()) + ((p / step * width + j) * step + p % step) * item,
                static_cast<const unsigned char*>(block.data) + (p * block.stride + j) * item,
                static_cast<size_t>(item));
    return panel;
}

// Multiplies by tiles; c has one row per row of a, `columns` wide.
template <class MakePanel>
std::vector<float> tiled_product(const FgemmKernels& kernels, const Problem& problem, const std::vector<float>& a,
                                 int64_t rows, std::vector<float> c, FgemmTile tile, MakePanel&& make_panel) {
    const int64_t panels = (problem.columns + kernels.nr - 1) / kernels.nr;
    const int64_t width = panels * kernels.nr + 3;
    const int64_t words = kernels.pairs ? (problem.k + 1) / 2 : problem.k;
    const std::vector<uint32_t> a_words = words_of(kernels, a, rows, problem.k);
    std::vector<float> sums(static_cast<size_t>(rows * width), 7.0f);
    for (int64_t i = 0; i < rows; ++i)
        std::memcpy(&sums[static_cast<size_t>(i * width)], &c[static_cast<size_t>(i * problem.columns)],
                    static_cast<size_t>(problem.columns) * sizeof(float));
    for (int64_t p = 0; p < panels; ++p) {
        WeightBlock block = problem.block;
        block.data = problem.weights.data() + static_cast<size_t>(p * kernels.nr) * item_size(problem.kind);
        block.columns = std::min<int64_t>(kernels.nr, problem.columns - p * kernels.nr);
        if (block.scale != nullptr) {
            block.scale += p * kernels.nr;
            block.offset += p * kernels.nr;
        }
        const std::vector<float> panel = make_panel(kernels, problem.kind, block);
        // Prefetching reads no memory.
        FgemmAhead ahead{nullptr, 100, words, 2, 9};
        for (int64_t i = 0; i < rows; i += kernels.mr)
            tile(std::min<int64_t>(kernels.mr, rows - i), block.columns, words, a_words.data() + i * fgemm_row_stride,
                 panel.data(), sums.data() + i * width + p * kernels.nr, width, false, &ahead);
    }
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

std::vector<float> packed_product(const FgemmKernels& kernels, const Problem& problem, const std::vector<float>& a,
                                  int64_t rows, std::vector<float> c) {
    return tiled_product(kernels, problem, a, rows, std::move(c), kernels.tile, packed_panel);
}

// From panels as packed weights have them; those of integers have none.
std::vector<float> stored_product(const FgemmKernels& kernels, const Problem& problem, const std::vector<float>& a,
                                  int64_t rows, std::vector<float> c) {
    const FgemmTile tile = kernels.stored_tile[static_cast<int>(problem.kind)];
    if (tile == nullptr) return packed_product(kernels, problem, a, rows, std::move(c));
    return tiled_product(kernels, problem, a, rows, std::move(c), tile, stored_panel);
}

// Through `stream`, with a gap between the rows of sums that stays as it is.
std::vector<float> streamed_product(const FgemmKernels& kernels, const Problem& problem, const std::vector<float>& a,
                                    int64_t rows, std::vector<float> c) {
    const std::vector<uint32_t> a_words = words_of(kernels, a, rows, problem.k);
    const int64_t stride = problem.columns + 3;
    std::vector<float> sums(static_cast<size_t>(rows * stride), 7.0f);
    for (int64_t i = 0; i < rows; ++i)
        std::copy_n(c.begin() + i * problem.columns, problem.columns, sums.begin() + i * stride);
    kernels.stream[static_cast<int>(problem.kind)](problem.block, rows, a_words.data(), sums.data(), stride);
    for (int64_t i = 0; i < rows; ++i) {
        std::copy_n(sums.begin() + i * stride, problem.columns, c.begin() + i * problem.columns);
        for (int64_t j = problem.columns; j < stride; ++j) CHECK(sums[static_cast<size_t>(i * stride + j)] == 7.0f);
    }
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
    CHECK(streamed_product(fgemm_ref, problem, a, 1, {0.5f})[0] == plain);
    CHECK(streamed_product(fgemm_ref_fused, problem, a, 1, {0.5f})[0] == fused);
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
                kernels.stream[static_cast<int>(kind)]({weights + 2 * p, 2, 1, 2, scale, offset}, 1, &one, c, 2);
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
                    const std::vector<float> needed = streamed_product(reference, problem, a, rows, c);
                    CHECK(same_bits(packed_product(kernels, problem, a, rows, c), needed));
                    CHECK(same_bits(stored_product(kernels, problem, a, rows, c), needed));
                    CHECK(same_bits(streamed_product(kernels, problem, a, rows, c), needed));
                }
    });
}

TEST_CASE("any number of rows is streamed") {
    for_each_table([&](const FgemmKernels& kernels, const FgemmKernels& reference) {
        for (const int rows : kernels.stream_rows) CHECK((1 <= rows && rows <= fgemm_max_stream_rows));
        constexpr int64_t most = 2 * fgemm_max_stream_rows + 1;
        for (const WeightKind kind : kinds) {
            const Problem problem(kind, 20, 70);
            const std::vector<float> a = normal(most * 20, 5);
            const std::vector<float> c = normal(most * 70, 6);
            const std::vector<float> needed = streamed_product(reference, problem, a, most, c);
            for (int64_t rows = 1; rows <= most; ++rows) {
                CAPTURE(static_cast<int>(kind));
                CAPTURE(rows);
                const std::vector<float> own_c(c.begin(), c.begin() + rows * 70);
                const std::vector<float> own(needed.begin(), needed.begin() + rows * 70);
                CHECK(same_bits(streamed_product(kernels, problem, a, rows, own_c), own));
            }
        }
    });
}

TEST_CASE("rows of less and of more than a page are streamed") {
    for_each_table([&](const FgemmKernels& kernels, const FgemmKernels& reference) {
        for (const int64_t columns : {300, 700, 2200}) {
            CAPTURE(columns);
            Problem problem(WeightKind::f16, 200, columns);
            // The other rows follow, and are prefetched.
            problem.k = problem.block.k = fgemm_max_words;
            problem.block.rows_behind = 200 - problem.k;
            const std::vector<float> a = normal(9 * problem.k, 5);
            const std::vector<float> c = normal(9 * columns, 6);
            CHECK(
                same_bits(streamed_product(kernels, problem, a, 9, c), streamed_product(reference, problem, a, 9, c)));
        }
    });
}

TEST_CASE("a sum may be continued at any k") {
    for_each_table([&](const FgemmKernels& kernels, const FgemmKernels&) {
        const Problem problem(WeightKind::f16, 37, 21);
        const std::vector<float> a = normal(37, 7);
        const std::vector<float> needed = streamed_product(kernels, problem, a, 1, std::vector<float>(21));
        std::vector<float> c(21);
        for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 11}, {11, 12}, {12, 37}}) {
            WeightBlock part = problem.block;
            part.data = problem.weights.data() + begin * problem.stride * 2;
            part.k = end - begin;
            kernels.stream[static_cast<int>(WeightKind::f16)](part, 1, a.data() + begin, c.data(), 21);
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
        for (const auto product : {packed_product, stored_product, streamed_product}) {
            const std::vector<float> c = product(kernels, problem, a, 5, std::vector<float>(5 * 40));
            for (size_t i = 0; i < 5; ++i)
                for (size_t j = 0; j < 40; ++j) {
                    if (j == 17) CHECK(std::isnan(c[i * 40 + j]));
                    CHECK(std::isfinite(c[i * 40 + j]) == (i != 1 && j != 17 && j != 18));
                }
        }
    });
}

TEST_CASE("a fresh tile does not look at its sums") {
    for (const auto& row : fgemm_kernel_list) {
        if (row.isa > isa_limit()) continue;
        CAPTURE(row.name);
        const FgemmKernels& kernels = *row.table;
        const Problem problem(WeightKind::f32, 20, kernels.nr);
        std::vector<float> panel(static_cast<size_t>(20 * kernels.nr));
        kernels.pack[static_cast<int>(WeightKind::f32)](problem.block, panel.data());
        const std::vector<float> a = normal(fgemm_row_stride * kernels.mr, 8);
        FgemmAhead none{};
        for (int64_t rows = 1; rows <= kernels.mr; ++rows) {
            std::vector<float> zeros(static_cast<size_t>(rows * kernels.nr));
            std::vector<float> unknown(zeros.size(), NAN);
            kernels.tile(rows, kernels.nr, 20, a.data(), panel.data(), zeros.data(), kernels.nr, false, &none);
            kernels.tile(rows, kernels.nr, 20, a.data(), panel.data(), unknown.data(), kernels.nr, true, &none);
            CHECK(same_bits(unknown, zeros));
        }
    }
}

// --- Pairs of bfloat16 ---

namespace {

template <class Check>
void for_each_table_of_pairs(Check&& check) {
    for (const auto& row : fgemm_pairs_kernel_list) {
        if (row.isa > isa_limit()) continue;
        CAPTURE(row.name);
        check(*row.table);
    }
}

std::vector<float> rounded_to_bf16(std::vector<float> values) {
    for (float& value : values) value = widen_bf16(narrow_bf16(value));
    return values;
}

}  // namespace

TEST_CASE("pairs: the plain loops add the upper of two products first and flush subnormal numbers") {
    const uint16_t w[] = {narrow_bf16(1.0f), narrow_bf16(0x1p-30f), narrow_bf16(-1.0f)};
    const WeightBlock block{w, 1, 3, 1, nullptr, nullptr};
    const uint16_t a[] = {narrow_bf16(1.0f), narrow_bf16(1.0f), narrow_bf16(1.0f)};
    float c = -1.0f;
    // -1 + 2^-30 is -1 already; in the other order 2^-30 would stay.
    fgemm_ref_pairs.stream[static_cast<int>(WeightKind::bf16)](block, 1, a, &c, 1);
    CHECK(c == -1.0f);
    const uint16_t tiny[] = {1, narrow_bf16(0x1p-70f), 0};
    const uint16_t factors[] = {narrow_bf16(0x1p100f), narrow_bf16(0x1p-60f), 0};
    c = 0.0f;
    fgemm_ref_pairs.stream[static_cast<int>(WeightKind::bf16)]({tiny, 1, 3, 1, nullptr, nullptr}, 1, factors, &c, 1);
    CHECK(c == 0.0f);
}

TEST_CASE("pairs: sums of integers are exact") {
    for_each_table_of_pairs([&](const FgemmKernels& kernels) {
        for (const int64_t columns : column_counts)
            for (const int64_t k : {1, 2, 3, 7, 8, 9, 50}) {
                CAPTURE(columns);
                CAPTURE(k);
                Problem problem(WeightKind::bf16, k, columns);
                std::vector<float> w = normal(k * problem.stride, 1);
                for (float& value : w) value = std::nearbyint(value * 40.0f);
                for (size_t i = 0; i < w.size(); ++i) {
                    const uint16_t half = narrow_bf16(w[i]);
                    std::memcpy(problem.weights.data() + 2 * i, &half, 2);
                }
                const int64_t rows = 1 + (columns + k) % (kernels.mr + 3);
                std::vector<float> a = normal(rows * k, 5);
                for (float& value : a) value = std::nearbyint(value * 40.0f);
                std::vector<float> c = normal(rows * columns, 6);
                for (float& value : c) value = std::nearbyint(value * 1000.0f);
                const std::vector<float> needed = streamed_product(fgemm_ref, problem, a, rows, c);
                CHECK(same_bits(packed_product(kernels, problem, a, rows, c), needed));
                CHECK(same_bits(stored_product(kernels, problem, a, rows, c), needed));
                CHECK(same_bits(streamed_product(kernels, problem, a, rows, c), needed));
            }
    });
}

TEST_CASE("pairs: every table is within the bound of the sums, packed as streamed") {
    for_each_table_of_pairs([&](const FgemmKernels& kernels) {
        for (const int64_t columns : {5, 32, 101})
            for (const int64_t k : {int64_t{1}, int64_t{2}, int64_t{9}, int64_t{50}, 2 * fgemm_max_words - 1}) {
                CAPTURE(columns);
                CAPTURE(k);
                const Problem problem(WeightKind::bf16, k, columns);
                const int64_t rows = 1 + (columns + k) % (kernels.mr + 3);
                const std::vector<float> a = rounded_to_bf16(normal(rows * k, 5));
                const std::vector<float> c = normal(rows * columns, 6);
                const std::vector<float> packed = packed_product(kernels, problem, a, rows, c);
                CHECK(same_bits(stored_product(kernels, problem, a, rows, c), packed));
                CHECK(same_bits(streamed_product(kernels, problem, a, rows, c), packed));
                const auto* w = reinterpret_cast<const uint16_t*>(problem.weights.data());
                for (int64_t i = 0; i < rows; ++i)
                    for (int64_t j = 0; j < columns; ++j) {
                        const auto at = static_cast<size_t>(i * columns + j);
                        double sum = c[at], magnitude = std::fabs(sum);
                        for (int64_t p = 0; p < k; ++p) {
                            const double product = static_cast<double>(a[static_cast<size_t>(i * k + p)]) *
                                                   widen_bf16(w[p * problem.stride + j]);
                            sum += product;
                            magnitude += std::fabs(product);
                        }
                        // Products of bfloat16 are exact; k additions round by 2^-24 of a partial sum, or flush 2^-126.
                        const double bound = static_cast<double>(k) * (0x1p-24 * 1.0001 * magnitude + 0x1p-126);
                        REQUIRE(std::fabs(packed[at] - sum) <= bound);
                    }
            }
    });
}
