// The definition of the family: a loop per index.
#include <cstring>

#include "kernels/qgemm/qgemm.h"

namespace moe {
namespace {

// Small and odd, so that tests meet the edges of tiles and panels early.
constexpr int ref_rows = 3;
constexpr int ref_columns = 5;

int64_t row_size(int64_t k) {
    return (k + 63) / 64 * 64;
}

int64_t panel_size(int64_t k) {
    return (k * ref_columns + 63) / 64 * 64;
}

void pack_row(const int8_t* a, int64_t k, void* packed) {
    std::memcpy(packed, a, static_cast<size_t>(k));
}

void pack(const int8_t* w, int64_t stride, int64_t k, int64_t columns, void* panels) {
    auto* panel = static_cast<int8_t*>(panels);
    for (int64_t begin = 0; begin < columns; begin += ref_columns, panel += panel_size(k))
        for (int64_t p = 0; p < k; ++p)
            for (int64_t j = 0; j < ref_columns; ++j)
                panel[p * ref_columns + j] = begin + j < columns ? w[p * stride + begin + j] : static_cast<int8_t>(0);
}

void tile(int64_t rows, int64_t k, const void* packed_rows, const void* panel, int32_t* c, int64_t c_stride) {
    const auto* a = static_cast<const int8_t*>(packed_rows);
    const auto* w = static_cast<const int8_t*>(panel);
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < ref_columns; ++j)
            for (int64_t p = 0; p < k; ++p)
                c[i * c_stride + j] += int32_t{a[i * row_size(k) + p]} * w[p * ref_columns + j];
}

void row(const int8_t* w, int64_t stride, int64_t k, int64_t columns, const int8_t* a, int32_t* c) {
    for (int64_t j = 0; j < columns; ++j)
        for (int64_t p = 0; p < k; ++p) c[j] += int32_t{a[p]} * w[p * stride + j];
}

void dequantise(const int32_t* c, const int32_t* bias, const float* scale, float* out, int64_t n) {
    for (int64_t j = 0; j < n; ++j) {
        const int64_t sum = int64_t{c[j]} + (bias == nullptr ? 0 : bias[j]);
        out[j] = static_cast<float>(sum) * scale[j];
    }
}

}  // namespace

extern const QgemmKernels qgemm_ref;
const QgemmKernels qgemm_ref = {ref_rows, ref_columns, row_size, panel_size, pack_row, pack, tile, row, dequantise};

}  // namespace moe
