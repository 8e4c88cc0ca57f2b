// What the other kernels compute, in plain loops: panels are (k, 32) and tiles (rows, k).
#include <cstring>

#include "kernels/igemm/igemm_float.h"
#include "kernels/igemm/igemm_int4.h"

namespace moe {
namespace {

void pack_panel(const int8_t* weight, int64_t stride, int64_t k, void* panel) {
    for (int64_t t = 0; t < k; ++t)
        std::memcpy(static_cast<int8_t*>(panel) + t * igemm::columns, weight + t * stride, igemm::columns);
}

void pack_tile(const int8_t* x, int64_t stride, int64_t rows, int64_t k, void* tile) {
    for (int64_t r = 0; r < rows; ++r)
        std::memcpy(static_cast<int8_t*>(tile) + r * k, x + r * stride, static_cast<size_t>(k));
}

void multiply(const void* tile, const void* panel, int64_t rows, int64_t k, bool accumulate, int32_t* sums,
              const Ahead&) {
    const int8_t* x = static_cast<const int8_t*>(tile);
    const int8_t* w = static_cast<const int8_t*>(panel);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t j = 0; j < igemm::columns; ++j) {
            int32_t sum = accumulate ? sums[r * igemm::columns + j] : 0;
            for (int64_t t = 0; t < k; ++t) sum += x[r * k + t] * w[t * igemm::columns + j];
            sums[r * igemm::columns + j] = sum;
        }
}

}  // namespace

extern const IgemmKernels igemm_ref;
const IgemmKernels igemm_ref = {
    4,
    0,
    0,
    1,
    1,
    0,
    pack_panel,
    pack_widened_panel<pack_panel, igemm::columns>,
    pack_tile,
    multiply,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    to_float_values,
    add_scaled_sums,
    dequantise_rows,
    combine_rows,
    PanelLayout::rows,
};

}  // namespace moe
