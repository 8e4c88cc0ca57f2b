// Panels of int4 weights for the kernels that pack them as int8. Included by one file per instruction set.
#include <algorithm>

#include "kernels/igemm/igemm.h"

namespace moe {
namespace {

// `row_bytes`: of a row of the weight in a packed panel.
template <void (*pack_panel)(const int8_t*, int64_t, int64_t, void*), int64_t row_bytes>
void pack_widened_panel(const int8_t* weight, int64_t stride, int64_t k, void* panel) {
    constexpr int64_t stage_rows = 16;
    int8_t stage[stage_rows * igemm::columns];
    for (int64_t t = 0; t < k; t += stage_rows) {
        const int64_t rows = std::min(stage_rows, k - t);
        for (int64_t r = 0; r < rows; ++r) {
            const int8_t* source = weight + (t + r) * stride;
            int8_t* target = stage + r * igemm::columns;
            for (int64_t j = 0; j < igemm::columns / 2; ++j) {
                target[2 * j] = static_cast<int8_t>(((source[j] & 15) ^ 8) - 8);
                target[2 * j + 1] = static_cast<int8_t>(source[j] >> 4);
            }
        }
        pack_panel(stage, igemm::columns, rows, static_cast<char*>(panel) + t * row_bytes);
    }
}

}  // namespace
}  // namespace moe
