// The definition of the family: one accumulator per element, ascending k, a loop per index.
#include <cmath>

#include "kernels/fgemm/fgemm.h"
#include "kernels/numeric.h"

namespace moe {
namespace {

// Small and odd, so that tests meet the edges of tiles and panels early.
constexpr int ref_rows = 3;
constexpr int ref_columns = 5;
constexpr int ref_unit = 1;
constexpr int ref_stream_rows = 2;

float round_f16(float value) {
    return widen_f16(narrow_f16(value));
}

template <WeightKind kind>
float weight(const WeightBlock& block, int64_t p, int64_t j) {
    const int64_t at = p * block.stride + j;
    switch (kind) {
        case WeightKind::f32:
            return static_cast<const float*>(block.data)[at];
        case WeightKind::f16:
            return widen_f16(static_cast<const uint16_t*>(block.data)[at]);
        case WeightKind::bf16:
            return widen_bf16(static_cast<const uint16_t*>(block.data)[at]);
        default:
            break;
    }
    const float sum = static_cast<float>(static_cast<const int8_t*>(block.data)[at]) + block.offset[j];
    if (kind == WeightKind::s8_f16) return round_f16(round_f16(sum) * block.scale[j]);
    return widen_bf16(narrow_bf16(sum * block.scale[j]));
}

template <bool fused>
float multiply_add(float a, float w, float c) {
    return fused ? std::fma(a, w, c) : c + a * w;
}

template <WeightKind kind>
void pack(const WeightBlock& block, void* panel) {
    auto* packed = static_cast<float*>(panel);
    for (int64_t p = 0; p < block.k; ++p)
        for (int64_t j = 0; j < block.columns; ++j) *packed++ = weight<kind>(block, p, j);
}

template <WeightKind kind, bool fused>
void stream(const WeightBlock& block, int64_t rows, const void* rows_of_a, float* c, int64_t c_stride) {
    const auto* a = static_cast<const float*>(rows_of_a);
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < block.columns; ++j)
            for (int64_t p = 0; p < block.k; ++p)
                c[i * c_stride + j] =
                    multiply_add<fused>(a[i * fgemm_row_stride + p], weight<kind>(block, p, j), c[i * c_stride + j]);
}

template <WeightKind kind, bool fused>
void tile(int64_t rows, int64_t columns, int64_t words, const void* rows_of_a, const void* panel, float* c,
          int64_t c_stride, bool fresh, FgemmAhead*) {
    const auto* a = static_cast<const float*>(rows_of_a);
    const WeightBlock block{panel, columns, words, columns, nullptr, nullptr};
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) {
            float& sum = c[i * c_stride + j];
            if (fresh) sum = 0.0f;
            for (int64_t p = 0; p < words; ++p)
                sum = multiply_add<fused>(a[i * fgemm_row_stride + p], weight<kind>(block, p, j), sum);
        }
}

template <bool fused>
constexpr FgemmKernels table() {
    return {
        fused,
        false,
        ref_rows,
        ref_columns,
        ref_unit,
        PanelLayout{},
        {ref_stream_rows, ref_stream_rows, ref_stream_rows, ref_stream_rows, ref_stream_rows},
        {pack<WeightKind::f32>, pack<WeightKind::f16>, pack<WeightKind::bf16>, pack<WeightKind::s8_f16>,
         pack<WeightKind::s8_bf16>},
        {stream<WeightKind::f32, fused>, stream<WeightKind::f16, fused>, stream<WeightKind::bf16, fused>,
         stream<WeightKind::s8_f16, fused>, stream<WeightKind::s8_bf16, fused>},
        tile<WeightKind::f32, fused>,
        {tile<WeightKind::f32, fused>, tile<WeightKind::f16, fused>, tile<WeightKind::bf16, fused>, nullptr, nullptr}};
}

// --- Pairs of bfloat16 ---

float without_subnormals(float value) {
    return std::fabs(value) < 0x1p-126f ? std::copysign(0.0f, value) : value;
}

float add_product(float a, float w, float c) {
    return without_subnormals(std::fma(without_subnormals(a), without_subnormals(w), without_subnormals(c)));
}

float add_pair(const uint16_t* a, const uint16_t* w, float c) {
    return add_product(widen_bf16(a[0]), widen_bf16(w[0]), add_product(widen_bf16(a[1]), widen_bf16(w[1]), c));
}

void pack_pairs(const WeightBlock& block, void* panel) {
    const auto* w = static_cast<const uint16_t*>(block.data);
    auto* packed = static_cast<uint16_t*>(panel);
    for (int64_t p = 0; p < block.k; p += 2)
        for (int64_t j = 0; j < block.columns; ++j)
            for (int64_t q = p; q < p + 2; ++q) *packed++ = q < block.k ? w[q * block.stride + j] : uint16_t{0};
}

void stream_pairs(const WeightBlock& block, int64_t rows, const void* rows_of_a, float* c, int64_t c_stride) {
    const auto* a = static_cast<const uint16_t*>(rows_of_a);
    const auto* w = static_cast<const uint16_t*>(block.data);
    for (int64_t i = 0; i < rows; ++i, a += 2 * fgemm_row_stride, c += c_stride)
        for (int64_t j = 0; j < block.columns; ++j)
            for (int64_t p = 0; p < block.k; p += 2) {
                const bool both = p + 1 < block.k;
                const uint16_t factors[2] = {a[p], both ? a[p + 1] : uint16_t{0}};
                const uint16_t weights[2] = {w[p * block.stride + j],
                                             both ? w[(p + 1) * block.stride + j] : uint16_t{0}};
                c[j] = add_pair(factors, weights, c[j]);
            }
}

void tile_of_pairs(int64_t rows, int64_t columns, int64_t words, const void* rows_of_a, const void* panel, float* c,
                   int64_t c_stride, bool fresh, FgemmAhead*) {
    const auto* a = static_cast<const uint16_t*>(rows_of_a);
    const auto* w = static_cast<const uint16_t*>(panel);
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) {
            float& sum = c[i * c_stride + j];
            if (fresh) sum = 0.0f;
            for (int64_t p = 0; p < words; ++p)
                sum = add_pair(a + 2 * (i * fgemm_row_stride + p), w + 2 * (p * columns + j), sum);
        }
}

}  // namespace

extern const FgemmKernels fgemm_ref;
extern const FgemmKernels fgemm_ref_fused;
extern const FgemmKernels fgemm_ref_pairs;
const FgemmKernels fgemm_ref = table<false>();
const FgemmKernels fgemm_ref_fused = table<true>();
const FgemmKernels fgemm_ref_pairs = {
    true,
    true,
    ref_rows,
    ref_columns,
    ref_unit,
    PanelLayout{},
    {ref_stream_rows, ref_stream_rows, ref_stream_rows, ref_stream_rows, ref_stream_rows},
    {nullptr, nullptr, pack_pairs, nullptr, nullptr},
    {nullptr, nullptr, stream_pairs, nullptr, nullptr},
    tile_of_pairs,
    {nullptr, nullptr, tile_of_pairs, nullptr, nullptr}};

}  // namespace moe
