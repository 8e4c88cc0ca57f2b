// The definition of the family: one accumulator per element, ascending k, a loop per index.
#include <cmath>

#include "kernels/fgemm/fgemm.h"
#include "kernels/numeric.h"

namespace moe {
namespace {

// Small and odd, so that tests meet the edges of tiles and panels early.
constexpr int ref_rows = 3;
constexpr int ref_columns = 5;

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
void pack(const WeightBlock& block, float* packed, int64_t panel_stride) {
    for (int64_t begin = 0; begin < block.columns; begin += ref_columns, packed += panel_stride)
        for (int64_t p = 0; p < block.k; ++p)
            for (int64_t j = 0; j < ref_columns; ++j)
                packed[p * ref_columns + j] = begin + j < block.columns ? weight<kind>(block, p, begin + j) : 0.0f;
}

template <WeightKind kind, bool fused>
void row(const WeightBlock& block, const float* a, float* c) {
    for (int64_t j = 0; j < block.columns; ++j)
        for (int64_t p = 0; p < block.k; ++p) c[j] = multiply_add<fused>(a[p], weight<kind>(block, p, j), c[j]);
}

template <bool fused>
void tile(int64_t rows, int64_t k, const float* a, int64_t a_stride, const float* panel, float* c, int64_t c_stride) {
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < ref_columns; ++j)
            for (int64_t p = 0; p < k; ++p)
                c[i * c_stride + j] =
                    multiply_add<fused>(a[i * a_stride + p], panel[p * ref_columns + j], c[i * c_stride + j]);
}

template <bool fused>
constexpr FgemmKernels table() {
    return {fused,
            ref_rows,
            ref_columns,
            {pack<WeightKind::f32>, pack<WeightKind::f16>, pack<WeightKind::bf16>, pack<WeightKind::s8_f16>,
             pack<WeightKind::s8_bf16>},
            {row<WeightKind::f32, fused>, row<WeightKind::f16, fused>, row<WeightKind::bf16, fused>,
             row<WeightKind::s8_f16, fused>, row<WeightKind::s8_bf16, fused>},
            tile<fused>};
}

}  // namespace

extern const FgemmKernels fgemm_ref;
extern const FgemmKernels fgemm_ref_fused;
const FgemmKernels fgemm_ref = table<false>();
const FgemmKernels fgemm_ref_fused = table<true>();

}  // namespace moe
