// The products on aarch64: panels are (k / k_step, 32, k_step) bytes, tiles (k / k_step, rows, k_step). Included by one
// file per instruction set, which defines MOE_IGEMM_TABLE first.
#include "kernels/igemm/igemm_float.h"
#include "kernels/igemm/igemm_int4.h"
#include "kernels/igemm/igemm_prefetch.h"
#include "kernels/int8_arm.h"

namespace moe {
namespace {

static_assert(panel_columns == igemm::columns && tile_rows % 2 == 0 && 16 % k_step == 0);

constexpr PanelLayout panel_layout = k_step == 8   ? PanelLayout::octets
                                     : k_step == 4 ? PanelLayout::quads
                                                   : PanelLayout::pairs;

void pack_panel(const int8_t* weight, int64_t stride, int64_t k, void* panel) {
    pack_rows(weight, stride, k, static_cast<int8_t*>(panel));
}

void pack_tile(const int8_t* x, int64_t stride, int64_t rows, int64_t k, void* tile) {
    for (int64_t r = 0; r < rows; ++r) {
        const int8_t* row = x + r * stride;
        int8_t* target = static_cast<int8_t*>(tile) + k_step * r;
        int64_t t = 0;
        for (; t + k_step <= k; t += k_step, target += k_step * rows) std::memcpy(target, row + t, k_step);
        if (t == k) continue;
        std::memset(target, 0, k_step);
        std::memcpy(target, row + t, static_cast<size_t>(k - t));
    }
}

template <int rows>
void multiply_tile(const int8_t* tile, const int8_t* panel, int64_t steps, bool accumulate, int32_t* sums,
                   const Ahead& ahead) {
    const auto at = [tile](int64_t step, int row) { return tile + (step * rows + row) * k_step; };
    multiply_rows<rows>(at, panel, steps, accumulate, sums, igemm::columns,
                        Prefetcher<stretch>(ahead, steps * passes_of(rows)));
}

template <int most = tile_rows>
void multiply_up_to(int64_t rows, const int8_t* tile, const int8_t* panel, int64_t steps, bool accumulate,
                    int32_t* sums, const Ahead& ahead) {
    if (rows == most) return multiply_tile<most>(tile, panel, steps, accumulate, sums, ahead);
    if constexpr (most > 1) multiply_up_to<most - 1>(rows, tile, panel, steps, accumulate, sums, ahead);
}

void multiply(const void* tile, const void* panel, int64_t rows, int64_t k, bool accumulate, int32_t* sums,
              const Ahead& ahead) {
    multiply_up_to(rows, static_cast<const int8_t*>(tile), static_cast<const int8_t*>(panel), steps_of(k), accumulate,
                   sums, ahead);
}

// Sixteen columns of a row of weights, of int8 and of int4.
struct Bytes {
    static constexpr int64_t row_half = 16;
    static int8x16_t load(const int8_t* row) { return vld1q_s8(row); }
};
struct Nibbles {
    static constexpr int64_t row_half = 8;
    static int8x16_t load(const int8_t* row) {
        const int8x8_t bytes = vld1_s8(row);
        const int8x8_t even = vshr_n_s8(vshl_n_s8(bytes, 4), 4);
        const int8x8_t odd = vshr_n_s8(bytes, 4);
        return vcombine_s8(vzip1_s8(even, odd), vzip2_s8(even, odd));
    }
};

// The 16 sums of two rows, eight vectors of weights before they are interleaved and after, of 32 registers.
constexpr int most_streamed_rows = 2;

template <int rows, class Weight>
void stream_rows(const int8_t* tile, const int8_t* weight, int64_t stride, int64_t k, bool accumulate, int32_t* sums,
                 const Ahead& ahead) {
    constexpr int vectors = 4;
    int32x4_t sum[rows][2][vectors];
#pragma GCC unroll 2
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; ++v)
                sum[r][half][v] =
                    accumulate ? vld1q_s32(sums + r * igemm::columns + 16 * half + 4 * v) : vdupq_n_s32(0);
    const auto add_step = [&](int64_t t, int present) {
        const int8_t* x = tile + t / k_step * k_step * rows + t % k_step;
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            int8x16_t w[dot_step];
#pragma GCC unroll 4
            for (int i = 0; i < dot_step; ++i)
                w[i] = i < present ? Weight::load(weight + (t + i) * stride + half * Weight::row_half) : vdupq_n_s8(0);
            interleave<dot_step>(w);
#pragma GCC unroll 2
            for (int r = 0; r < rows; ++r) {
                const Weights repeated = repeat(x + r * k_step);
#pragma GCC unroll 4
                for (int v = 0; v < vectors; ++v)
                    sum[r][half][v] = add_products(sum[r][half][v], repeated, weights_of(w, v));
            }
        }
    };
    Prefetcher<stretch> prefetch(ahead, (k + dot_step - 1) / dot_step);
    const int64_t whole = k / dot_step * dot_step;
    for (int64_t begin = 0; begin < whole; begin += stretch * dot_step) {
        prefetch();
        const int64_t end = begin + stretch * dot_step < whole ? begin + stretch * dot_step : whole;
        for (int64_t t = begin; t < end; t += dot_step) add_step(t, dot_step);
    }
    if (whole < k) add_step(whole, static_cast<int>(k - whole));
#pragma GCC unroll 2
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; ++v) vst1q_s32(sums + r * igemm::columns + 16 * half + 4 * v, sum[r][half][v]);
}

template <class Weight>
void stream_any(const void* tile, const int8_t* weight, int64_t stride, int64_t rows, int64_t k, bool accumulate,
                int32_t* sums, const Ahead& ahead) {
    static_assert(most_streamed_rows == 2);
    const auto* x = static_cast<const int8_t*>(tile);
    if (rows == 1)
        stream_rows<1, Weight>(x, weight, stride, k, accumulate, sums, ahead);
    else
        stream_rows<2, Weight>(x, weight, stride, k, accumulate, sums, ahead);
}

}  // namespace

extern const IgemmKernels MOE_IGEMM_TABLE;
const IgemmKernels MOE_IGEMM_TABLE = {
    tile_rows,
    most_streamed_rows,
    0,
    k_step,
    1,
    0,
    pack_panel,
    pack_widened_panel<pack_panel, igemm::columns>,
    pack_tile,
    multiply,
    nullptr,
    stream_any<Bytes>,
    stream_any<Nibbles>,
    nullptr,
    nullptr,
    to_float_values,
    add_scaled_sums,
    dequantise_rows,
    combine_rows,
    panel_layout,
};

}  // namespace moe
