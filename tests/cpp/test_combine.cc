// The combine kernels against sums written down element by element, bit for bit.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/combine/combine_list.h"
#include "kernels/numeric.h"

using namespace moe;

namespace {

// Finite, subnormal, huge, infinite and NaN values; every bit pattern of 16 bits is one of them.
template <class T>
std::vector<T> values(int64_t n, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    std::vector<T> out(static_cast<size_t>(n));
    for (T& value : out) {
        const bool any = engine() % 8 == 0;
        if constexpr (sizeof(T) == 2)
            value = any ? static_cast<T>(engine()) : static_cast<T>(0x3C00 + engine() % 0x400 + engine() % 2 * 0x8000);
        else
            value = any ? float_of(static_cast<uint32_t>(engine())) : normal(engine);
    }
    return out;
}

float identity(float value) {
    return value;
}

// A whole problem: K rows, each with a bias, and two skips.
template <class T, float (*widen)(T), T (*narrow)(float)>
void check(CombineKernel CombineKernels::*member, int64_t n, int64_t count, int skips, bool has_bias, float start) {
    CAPTURE(n);
    CAPTURE(count);
    CAPTURE(skips);
    CAPTURE(has_bias);
    const std::vector<T> rows = values<T>(n * count, 1);
    const std::vector<T> bias = values<T>(n * count, 2);
    const std::vector<T> skip = values<T>(n * 2, 3);
    const std::vector<float> scales = values<float>(count, 4);
    std::vector<CombineTerm> terms;
    for (int64_t i = 0; i < count; ++i)
        terms.push_back({reinterpret_cast<const char*>(rows.data() + i * n),
                         has_bias ? reinterpret_cast<const char*>(bias.data() + i * n) : nullptr,
                         scales[static_cast<size_t>(i)]});
    std::vector<T> needed(static_cast<size_t>(n));
    for (int64_t c = 0; c < n; ++c) {
        const auto at = [&](const std::vector<T>& matrix, int64_t row) {
            return widen(matrix[static_cast<size_t>(row * n + c)]);
        };
        float sum = skips > 0 ? at(skip, 0) : start;
        if (skips > 1) sum = sum + at(skip, 1);
        for (int64_t i = 0; i < count; ++i) {
            const float row = has_bias ? at(rows, i) + at(bias, i) : at(rows, i);
            sum = sum + scales[static_cast<size_t>(i)] * row;
        }
        needed[static_cast<size_t>(c)] = narrow(sum);
    }
    constexpr int64_t margin = 64;
    for (const auto& table : combine_kernel_list) {
        if (table.isa > isa_limit()) continue;
        CAPTURE(table.name);
        for (const bool streams : {false, true})
            for (const int64_t place : {0, 1, 8, 31}) {
                CAPTURE(place);
                std::vector<T> out(static_cast<size_t>(n + 2 * margin), narrow(7.0f));
                const std::vector<T> around = out;
                T* const target = out.data() + margin + place;
                const CombineSum sum = {start,
                                        {skips > 0 ? reinterpret_cast<const char*>(skip.data()) : nullptr,
                                         skips > 1 ? reinterpret_cast<const char*>(skip.data() + n) : nullptr},
                                        terms.data(),
                                        count,
                                        reinterpret_cast<char*>(target)};
                (table.table->*member)(sum, count % 2 == 0 ? sum : CombineSum{}, n, streams);
                CHECK(std::memcmp(target, needed.data(), needed.size() * sizeof(T)) == 0);
                std::copy_n(around.begin(), n, out.begin() + margin + place);
                CHECK(std::memcmp(out.data(), around.data(), out.size() * sizeof(T)) == 0);
            }
    }
}

template <class T, float (*widen)(T), T (*narrow)(float)>
void check_all(CombineKernel CombineKernels::*member) {
    for (const int64_t n : {1, 15, 16, 17, 63, 64, 65, 96, 127, 128, 129, 200, 1001})
        for (const int64_t count : {0, 1, 2, 3, 8, 16})
            for (const int skips : {0, 1, 2})
                for (const bool has_bias : {false, true})
                    check<T, widen, narrow>(member, n, count, skips, has_bias, skips == 0 ? -0.0f : 0.0f);
}

}  // namespace

TEST_CASE("combine: every instruction set gives the bits of the definition") {
    check_all<uint16_t, widen_f16, narrow_f16>(&CombineKernels::f16);
    check_all<uint16_t, widen_bf16, narrow_bf16>(&CombineKernels::bf16);
    check_all<float, identity, with_one_nan>(&CombineKernels::f32);
}
