// The floating-point loops of the igemm kernels, for the compiler's vectoriser. Included by one file per instruction
// set.
#include "kernels/igemm/igemm.h"

namespace moe {
namespace {

void to_float_values(const int32_t* source, float* target, int64_t n) {
    for (int64_t i = 0; i < n; ++i) target[i] = static_cast<float>(source[i]);
}

void add_scaled_sums(const int32_t* sums, int64_t rows, const float* scale, bool accumulate, float* totals) {
    for (int64_t r = 0; r < rows; ++r, sums += igemm::columns, totals += igemm::columns) {
        if (accumulate)
            for (int64_t j = 0; j < igemm::columns; ++j) totals[j] = totals[j] + static_cast<float>(sums[j]) * scale[j];
        else
            for (int64_t j = 0; j < igemm::columns; ++j) totals[j] = static_cast<float>(sums[j]) * scale[j];
    }
}

void dequantise_rows(float* values, int64_t rows, const float* scale, const float* factor) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t j = 0; j < igemm::columns; ++j)
            values[r * igemm::columns + j] = (values[r * igemm::columns + j] * scale[j]) * factor[r];
}

[[gnu::always_inline]] inline void combine_row(const float* values, int64_t columns, const float* scale,
                                               const float* bias, float factor, float weight, float* out) {
    if (bias == nullptr)
        for (int64_t j = 0; j < columns; ++j) out[j] = out[j] + ((values[j] * scale[j]) * factor) * weight;
    else
        for (int64_t j = 0; j < columns; ++j) out[j] = out[j] + ((values[j] * scale[j]) * factor + bias[j]) * weight;
}

void combine_rows(const float* values, int64_t rows, int64_t columns, const float* scale, const float* bias,
                  const float* factor, const float* weight, const int64_t* target, float* out, int64_t stride) {
    for (int64_t r = 0; r < rows; ++r) {
        if (target[r] < 0) continue;
        const float f = factor == nullptr ? 1.0f : factor[r];
        const float w = weight == nullptr ? 1.0f : weight[r];
        float* row = out + target[r] * stride;
        // The full width gets a loop of known length.
        if (columns == igemm::columns)
            combine_row(values + r * igemm::columns, igemm::columns, scale, bias, f, w, row);
        else
            combine_row(values + r * igemm::columns, columns, scale, bias, f, w, row);
    }
}

}  // namespace
}  // namespace moe
