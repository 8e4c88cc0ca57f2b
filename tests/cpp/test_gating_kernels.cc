// The gating kernels: their definition, and every instruction set against it bit for bit, at sizes around a block's.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/gating/gating_list.h"
#include "kernels/numeric.h"

using namespace moe;

namespace {

constexpr int64_t sizes[] = {1, 2, 15, 16, 17, 31, 33, 255, 256, 257, 1000, 4096, 4097};
// More rows than take turns, and no multiple of those.
constexpr int64_t several = 7;

// Few different values, so that there are ties; zeros of both signs; with `special` values that are not finite.
std::vector<float> values(int64_t n, unsigned seed, bool special) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal(0.0f, 4.0f);
    const float specials[] = {INFINITY, -INFINITY, NAN, -NAN, 1e-40f, 3e38f};
    std::vector<float> out(static_cast<size_t>(n));
    for (float& value : out) {
        value = engine() % 2 == 0 ? std::round(normal(engine)) : normal(engine);
        if (engine() % 8 == 0) value = -0.0f;
        if (special && engine() % 8 == 0) value = specials[engine() % std::size(specials)];
    }
    return out;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// Calls check(table) for every kernel table that this processor can run.
template <class Check>
void for_each_table(Check&& check) {
    for (const auto& row : gating_kernel_list) {
        if (row.isa > isa_limit()) continue;
        CAPTURE(row.name);
        check(*row.table);
    }
}

float quiet(float value) {
    return std::isnan(value) ? float_of(0x7FC00000u) : value;
}

// NaN after everything.
bool before(float a, float b) {
    return !std::isnan(a) && (std::isnan(b) || a > b);
}

std::vector<int32_t> order_of(const std::vector<float>& scores) {
    std::vector<int32_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return before(scores[a], scores[b]); });
    return order;
}

}  // namespace

TEST_CASE("softmax adds in sixteen partial sums, row by row") {
    for_each_table([](const GatingKernels& kernels) {
        for (const int64_t n : sizes) {
            for (const bool special : {false, true}) {
                CAPTURE(n);
                std::vector<float> seen = values(several * n, 1, special);
                std::vector<float> needed = seen;
                for (auto row = needed.begin(); row != needed.end(); row += n) {
                    float top = -INFINITY;
                    for (auto v = row; v != row + n; ++v) top = *v > top ? *v : top;
                    std::vector<float> partial(16);
                    for (int64_t i = 0; i < n; ++i) {
                        row[i] = exp_f32(row[i] - top);
                        partial[i % 16] += row[i];
                    }
                    for (size_t half = 8; half > 0; half /= 2)
                        for (size_t j = 0; j < half; ++j) partial[j] += partial[j + half];
                    for (auto v = row; v != row + n; ++v) *v = quiet(std::isnan(partial[0]) ? NAN : *v / partial[0]);
                }
                kernels.softmax(seen.data(), several, n);
                CHECK(same_bits(seen, needed));
            }
        }
    });
}

TEST_CASE("sigmoid") {
    for_each_table([](const GatingKernels& kernels) {
        for (const int64_t n : sizes) {
            CAPTURE(n);
            std::vector<float> seen = values(n, 2, true);
            std::vector<float> needed = seen;
            for (float& v : needed) v = quiet(sigmoid_f32(v));
            kernels.sigmoid(seen.data(), n);
            CHECK(same_bits(seen, needed));
        }
    });
}

TEST_CASE("keys order as the values do") {
    const float ascending[] = {-INFINITY, -3e38f, -1.0f, -1e-40f, 0.0f, 1e-40f, 1.0f, 3e38f, INFINITY};
    for_each_table([&](const GatingKernels& kernels) {
        int32_t keys[std::size(ascending)];
        kernels.keys(ascending, nullptr, keys, 1, std::size(ascending));
        CHECK(keys[0] == key_of_minus_infinity);
        for (size_t i = 1; i < std::size(ascending); ++i) CHECK(keys[i - 1] < keys[i]);
        const float equal[] = {0.0f, -0.0f, NAN, -NAN, float_of(0x7F800001u)};
        int32_t equal_keys[std::size(equal)];
        kernels.keys(equal, nullptr, equal_keys, 1, std::size(equal));
        CHECK(equal_keys[0] == equal_keys[1]);
        CHECK(equal_keys[2] == equal_keys[3]);
        CHECK(equal_keys[2] == equal_keys[4]);
        CHECK(equal_keys[2] < key_of_minus_infinity);
        CHECK(equal_keys[2] > key_of_nothing);
        // inf - inf is NaN, 1 - 1 is 0.
        const float scores[] = {INFINITY, 1.0f, 2.0f};
        const float bias[] = {-INFINITY, -1.0f, 0.5f};
        int32_t biased[3];
        kernels.keys(scores, bias, biased, 1, 3);
        const float sums[] = {NAN, 0.0f, 2.5f};
        int32_t needed[3];
        kernels.keys(sums, nullptr, needed, 1, 3);
        CHECK(std::memcmp(biased, needed, sizeof needed) == 0);
    });
}

TEST_CASE("the largest in descending order, equal ones in ascending position") {
    for_each_table([](const GatingKernels& kernels) {
        for (const int64_t n : sizes) {
            CAPTURE(n);
            const std::vector<float> scores = values(several * n, 3, true);
            for (const int64_t k : {int64_t{0}, int64_t{1}, std::min<int64_t>(n, 9), n}) {
                std::vector<int32_t> keys(static_cast<size_t>(several * selection_size(n)));
                std::vector<int32_t> positions(static_cast<size_t>(several * k));
                kernels.keys(scores.data(), nullptr, keys.data(), several, n);
                kernels.select(keys.data(), several, n, k, positions.data());
                for (int64_t r = 0; r < several; ++r) {
                    const auto row = scores.begin() + r * n;
                    const std::vector<int32_t> order = order_of(std::vector<float>(row, row + n));
                    CHECK(std::equal(order.begin(), order.begin() + k, positions.begin() + r * k));
                }
            }
        }
    });
}

TEST_CASE("room for the selection") {
    CHECK(selection_size(0) == 0);
    CHECK(selection_size(1) == 16);
    CHECK(selection_size(16) == 16);
    CHECK(selection_size(17) == 48);
    CHECK(selection_size(256) == 272);
    CHECK(selection_size(257) == 272 + 32 + 16);
    CHECK(selection_size(2048) == 2048 + 128 + 16);
    CHECK(selection_size(INT32_MAX) > INT32_MAX);
}

TEST_CASE("groups") {
    for_each_table([](const GatingKernels& kernels) {
        for (const int64_t group_size : {1, 2, 3, 15, 16, 17, 32, 33, 48}) {
            CAPTURE(group_size);
            const int64_t groups = 11;
            const std::vector<float> scores = values(groups * group_size, 4, true);
            std::vector<float> largest, sums;
            for (auto group = scores.begin(); group != scores.end(); group += group_size) {
                const std::vector<float> members(group, group + group_size);
                const std::vector<int32_t> order = order_of(members);
                largest.push_back(members[order[0]]);
                if (group_size > 1) sums.push_back(members[order[0]] + members[order[1]]);
            }
            std::vector<int32_t> keys(scores.size());
            kernels.keys(scores.data(), nullptr, keys.data(), 1, groups * group_size);
            std::vector<int32_t> seen(groups), needed(groups);
            kernels.keys(largest.data(), nullptr, needed.data(), 1, groups);
            kernels.largest_of_groups(keys.data(), groups, group_size, seen.data());
            CHECK(same_bits(seen, needed));
            if (group_size == 1) continue;
            kernels.keys(sums.data(), nullptr, needed.data(), 1, groups);
            kernels.sums_of_two_largest(keys.data(), groups, group_size, seen.data());
            CHECK(same_bits(seen, needed));
        }
    });
}
