// The gating kernels as loops for the compiler's vectoriser. Included by one file per instruction set, which defines
// MOE_GATING_TABLE first.
#include <cstring>
#include <type_traits>

#include "kernels/gating/gating.h"
#include "kernels/numeric.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace moe {
namespace {

// Sums run in so many lanes whatever the width of the processor's vectors; it is also the fan-out of the selection
// tree.
constexpr int64_t lanes = 16;

constexpr int32_t key_of_nan = key_of_nothing + 1;

inline int32_t larger(int32_t a, int32_t b) {
    return a > b ? a : b;
}

inline int32_t smaller(int32_t a, int32_t b) {
    return a < b ? a : b;
}

// Sixteen keys. The compiler does not see the reductions as what they are.
#if defined(__AVX512F__)
struct Block {
    __m512i keys;

    static Block of(const int32_t* source) { return {_mm512_loadu_si512(source)}; }
    static Block all(int32_t key) { return {_mm512_set1_epi32(key)}; }
    void store(int32_t* target) const { _mm512_storeu_si512(target, keys); }
    Block larger_of(Block b) const { return {_mm512_max_epi32(keys, b.keys)}; }
    Block smaller_of(Block b) const { return {_mm512_min_epi32(keys, b.keys)}; }
    int32_t largest() const { return _mm512_reduce_max_epi32(keys); }
    // The first place of a key that is here.
    int place_of(int32_t key) const { return __builtin_ctz(_mm512_cmpeq_epi32_mask(keys, _mm512_set1_epi32(key))); }
    Block with(int place, int32_t key) const {
        return {_mm512_mask_set1_epi32(keys, static_cast<__mmask16>(1u << place), key)};
    }
};
#elif defined(__AVX2__)
struct Block {
    __m256i low, high;

    static Block of(const int32_t* source) {
        const auto* parts = reinterpret_cast<const __m256i*>(source);
        return {_mm256_loadu_si256(parts), _mm256_loadu_si256(parts + 1)};
    }
    static Block all(int32_t key) { return {_mm256_set1_epi32(key), _mm256_set1_epi32(key)}; }
    void store(int32_t* target) const {
        auto* parts = reinterpret_cast<__m256i*>(target);
        _mm256_storeu_si256(parts, low);
        _mm256_storeu_si256(parts + 1, high);
    }
    Block larger_of(Block b) const { return {_mm256_max_epi32(low, b.low), _mm256_max_epi32(high, b.high)}; }
    Block smaller_of(Block b) const { return {_mm256_min_epi32(low, b.low), _mm256_min_epi32(high, b.high)}; }
    int32_t largest() const {
        const __m256i eight = _mm256_max_epi32(low, high);
        const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
        const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4E));
        return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xB1)));
    }
    int place_of(int32_t key) const {
        const __m256i all_key = _mm256_set1_epi32(key);
        const auto places = [&](__m256i part) {
            return static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(part, all_key))));
        };
        return __builtin_ctz(places(low) | places(high) << 8);
    }
    Block with(int place, int32_t key) const {
        const __m256i all_key = _mm256_set1_epi32(key);
        const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        const auto put = [&](__m256i part, int offset) {
            return _mm256_blendv_epi8(part, all_key, _mm256_cmpeq_epi32(places, _mm256_set1_epi32(place - offset)));
        };
        return {put(low, 0), put(high, 8)};
    }
};
#elif defined(__aarch64__)
struct Block {
    int32x4_t part[4];

    static Block of(const int32_t* source) {
        return {{vld1q_s32(source), vld1q_s32(source + 4), vld1q_s32(source + 8), vld1q_s32(source + 12)}};
    }
    static Block all(int32_t key) {
        const int32x4_t keys = vdupq_n_s32(key);
        return {{keys, keys, keys, keys}};
    }
    void store(int32_t* target) const {
        for (int i = 0; i < 4; ++i) vst1q_s32(target + 4 * i, part[i]);
    }
    Block larger_of(const Block& b) const {
        Block block;
        for (int i = 0; i < 4; ++i) block.part[i] = vmaxq_s32(part[i], b.part[i]);
        return block;
    }
    Block smaller_of(const Block& b) const {
        Block block;
        for (int i = 0; i < 4; ++i) block.part[i] = vminq_s32(part[i], b.part[i]);
        return block;
    }
    int32_t largest() const { return vmaxvq_s32(vmaxq_s32(vmaxq_s32(part[0], part[1]), vmaxq_s32(part[2], part[3]))); }
    int place_of(int32_t key) const {
        uint16x4_t equal[4];
        for (int i = 0; i < 4; ++i) equal[i] = vmovn_u32(vceqq_s32(part[i], vdupq_n_s32(key)));
        const uint8x8_t low = vmovn_u16(vcombine_u16(equal[0], equal[1]));
        const uint8x8_t high = vmovn_u16(vcombine_u16(equal[2], equal[3]));
        // Four bits of each byte of the sixteen.
        const uint8x8_t nibbles = vshrn_n_u16(vreinterpretq_u16_u8(vcombine_u8(low, high)), 4);
        return __builtin_ctzll(vget_lane_u64(vreinterpret_u64_u8(nibbles), 0)) / 4;
    }
    Block with(int place, int32_t key) const {
        static constexpr int32_t numbers[lanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        Block block;
        for (int i = 0; i < 4; ++i)
            block.part[i] =
                vbslq_s32(vceqq_s32(vld1q_s32(numbers + 4 * i), vdupq_n_s32(place)), vdupq_n_s32(key), part[i]);
        return block;
    }
};
#else
struct Block {
    int32_t keys[lanes];

    static Block of(const int32_t* source) {
        Block block;
        std::memcpy(block.keys, source, sizeof block.keys);
        return block;
    }
    static Block all(int32_t key) {
        Block block;
        for (int32_t& k : block.keys) k = key;
        return block;
    }
    void store(int32_t* target) const { std::memcpy(target, keys, sizeof keys); }
    Block larger_of(const Block& b) const {
        Block block;
        for (int j = 0; j < lanes; ++j) block.keys[j] = larger(keys[j], b.keys[j]);
        return block;
    }
    Block smaller_of(const Block& b) const {
        Block block;
        for (int j = 0; j < lanes; ++j) block.keys[j] = smaller(keys[j], b.keys[j]);
        return block;
    }
    int32_t largest() const {
        int32_t top = keys[0];
        for (const int32_t key : keys) top = larger(top, key);
        return top;
    }
    int place_of(int32_t key) const {
        int place = 0;
        while (keys[place] != key) ++place;
        return place;
    }
    Block with(int place, int32_t key) const {
        Block block = *this;
        block.keys[place] = key;
        return block;
    }
};
#endif

// Positive floats order as their bits do, negative ones the other way round. Its own inverse.
inline int32_t ordered(int32_t bits) {
    return bits ^ ((bits >> 31) & 0x7FFFFFFF);
}

// Adding 0 turns -0 into 0.
inline int32_t key_of(float value) {
    const int32_t key = ordered(static_cast<int32_t>(bits_of(value + 0.0f)));
    return value == value ? key : key_of_nan;
}

inline float value_of(int32_t key) {
    return float_of(static_cast<uint32_t>(ordered(key)));
}

// In the order of keys, which needs no order of evaluation. NaNs may win or lose: the sum of the row is NaN anyway.
float largest(const float* values, int64_t n) {
    int32_t top = key_of_minus_infinity;
    for (int64_t i = 0; i < n; ++i) top = larger(top, ordered(static_cast<int32_t>(bits_of(values[i]))));
    return value_of(top);
}

float sum(const float* values, int64_t n) {
    float total[lanes] = {};
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes)
        for (int64_t j = 0; j < lanes; ++j) total[j] = total[j] + values[i + j];
    for (int64_t j = 0; i + j < n; ++j) total[j] = total[j] + values[i + j];
    for (int64_t half = lanes / 2; half > 0; half /= 2)
        for (int64_t j = 0; j < half; ++j) total[j] = total[j] + total[j + half];
    return total[0];
}

void softmax_rows(float* values, int64_t rows, int64_t n) {
    for (float* row = values; row < values + rows * n; row += n) {
        const float top = largest(row, n);
        for (int64_t i = 0; i < n; ++i) row[i] = row[i] - top;
    }
    // The operations on one value wait for one another: vectors take turns.
#pragma GCC unroll 4
    for (int64_t i = 0; i < rows * n; ++i) values[i] = exp_f32(values[i]);
    for (float* row = values; row < values + rows * n; row += n) {
        const float total = sum(row, n);
        if (total == total)
            for (int64_t i = 0; i < n; ++i) row[i] = row[i] / total;
        else
            for (int64_t i = 0; i < n; ++i) row[i] = float_of(quiet_nan);
    }
}

void sigmoid_values(float* values, int64_t n) {
#pragma GCC unroll 4
    for (int64_t i = 0; i < n; ++i) values[i] = with_one_nan(sigmoid_f32(values[i]));
}

void keys_rows(const float* values, const float* bias, int32_t* keys, int64_t rows, int64_t n) {
    const int64_t apart = selection_size(n);
    for (int64_t r = 0; r < rows; ++r, values += n, keys += apart) {
        if (bias == nullptr)
            for (int64_t i = 0; i < n; ++i) keys[i] = key_of(values[i]);
        else
            for (int64_t i = 0; i < n; ++i) keys[i] = key_of(values[i] + bias[i]);
    }
}

// The last `count` < 16 keys, and nothing behind them.
inline Block block_of_rest(const int32_t* keys, int64_t count) {
    int32_t rest[lanes];
    for (int64_t j = 0; j < lanes; ++j) rest[j] = j < count ? keys[j] : key_of_nothing;
    return Block::of(rest);
}

void largest_of_groups_row(const int32_t* keys, int64_t groups, int64_t group_size, int32_t* scores) {
    for (int64_t g = 0; g < groups; ++g, keys += group_size) {
        int32_t top = key_of_nothing;
        for (int64_t i = 0; i < group_size; ++i) top = larger(top, keys[i]);
        scores[g] = top;
    }
}

void sums_of_two_largest_row(const int32_t* keys, int64_t groups, int64_t group_size, int32_t* scores) {
    for (int64_t g = 0; g < groups; ++g, keys += group_size) {
        // The two largest of every lane.
        Block first = Block::all(key_of_nothing);
        Block second = first;
        const auto enter = [&](const Block& block) {
            second = second.larger_of(first.smaller_of(block));
            first = first.larger_of(block);
        };
        int64_t i = 0;
        for (; i + lanes <= group_size; i += lanes) enter(Block::of(keys + i));
        if (i < group_size) enter(block_of_rest(keys + i, group_size - i));
        const int32_t top = first.largest();
        const int32_t next = first.with(first.place_of(top), key_of_nothing).larger_of(second).largest();
        scores[g] = key_of(value_of(top) + value_of(next));
    }
}

// A tournament above n keys: every level holds the largest keys of the blocks of the level below, the top level is one
// block.
struct Levels {
    int64_t begin[8];
    int height = 0;

    explicit Levels(int64_t n) {
        begin[0] = 0;
        for (int64_t blocks = blocks_of(n); blocks > 1; blocks = blocks_of(blocks), ++height)
            begin[height + 1] = begin[height] + blocks * lanes;
    }

    static int64_t blocks_of(int64_t n) { return (n + lanes - 1) / lanes; }
};

// Fills the levels and returns the largest key.
int32_t build(const Levels& levels, int32_t* keys, int64_t n) {
    for (int h = 0;; ++h) {
        int32_t* level = keys + levels.begin[h];
        const int64_t blocks = Levels::blocks_of(n);
        for (int64_t i = n; i < blocks * lanes; ++i) level[i] = key_of_nothing;
        if (h == levels.height) return Block::of(level).largest();
        int32_t* above = keys + levels.begin[h + 1];
        for (int64_t b = 0; b < blocks; ++b) above[b] = Block::of(level + b * lanes).largest();
        n = blocks;
    }
}

// Follows the largest key down, the first of equal ones, takes it out and renews the levels on the way back up. Puts the
// next largest into `top` and returns the place. `height` is that of the levels.
template <class Height>
inline int64_t take(const Levels& levels, Height height, int32_t* keys, int32_t& top) {
    int64_t place = 0;
    for (int h = height; h >= 0; --h)
        place = place * lanes + Block::of(keys + levels.begin[h] + place * lanes).place_of(top);
    const int64_t taken = place;
    // Blocks are rewritten as a whole: reading one right after the store of a single key waits for that store.
    top = key_of_nothing;
    for (int h = 0; h <= height; ++h) {
        int32_t* keys_of_block = keys + levels.begin[h] + place / lanes * lanes;
        const Block block = Block::of(keys_of_block).with(static_cast<int>(place % lanes), top);
        block.store(keys_of_block);
        top = block.largest();
        place /= lanes;
    }
    return taken;
}

// Every step of a selection waits for the one before: rows take turns.
template <class Height>
void select_in_turn(const Levels& levels, Height height, int32_t* keys, int64_t rows, int64_t n, int64_t k,
                    int32_t* positions) {
    constexpr int64_t in_turn = 4;
    const int64_t apart = selection_size(n);
    for (; rows > 0; rows -= in_turn, keys += in_turn * apart, positions += in_turn * k) {
        const int64_t count = rows < in_turn ? rows : in_turn;
        int32_t top[in_turn];
        for (int64_t r = 0; r < count; ++r) top[r] = build(levels, keys + r * apart, n);
        for (int64_t c = 0; c < k; ++c)
            for (int64_t r = 0; r < count; ++r)
                positions[r * k + c] = static_cast<int32_t>(take(levels, height, keys + r * apart, top[r]));
    }
}

void select_rows(int32_t* keys, int64_t rows, int64_t n, int64_t k, int32_t* positions) {
    if (k == 0) return;
    const Levels levels(n);
    // Up to 16 keys, and up to 256: the compiler knows the way.
    switch (levels.height) {
        case 0:
            return select_in_turn(levels, std::integral_constant<int, 0>(), keys, rows, n, k, positions);
        case 1:
            return select_in_turn(levels, std::integral_constant<int, 1>(), keys, rows, n, k, positions);
        default:
            return select_in_turn(levels, levels.height, keys, rows, n, k, positions);
    }
}

}  // namespace

extern const GatingKernels MOE_GATING_TABLE;
const GatingKernels MOE_GATING_TABLE = {
    softmax_rows, sigmoid_values, keys_rows, largest_of_groups_row, sums_of_two_largest_row, select_rows,
};

}  // namespace moe
