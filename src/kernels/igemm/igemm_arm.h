// The products on aarch64: panels are (k / k_step, 32, k_step) bytes, tiles (k / k_step, rows, k_step). Included by one
// file per instruction set, which defines MOE_IGEMM_TABLE first.
#include "kernels/igemm/igemm_float.h"
#include "kernels/int8_arm.h"

namespace moe {
namespace {

static_assert(panel_columns == igemm::columns && tile_rows % 2 == 0 && 16 % k_step == 0);

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
void multiply_tile(const int8_t* tile, const int8_t* panel, int64_t steps, bool accumulate, int32_t* sums) {
    const auto at = [tile](int64_t step, int row) { return tile + (step * rows + row) * k_step; };
    multiply_rows<rows>(at, panel, steps, accumulate, sums, igemm::columns);
}

template <int most = tile_rows>
void multiply_up_to(int64_t rows, const int8_t* tile, const int8_t* panel, int64_t steps, bool accumulate,
                    int32_t* sums) {
    if (rows == most) return multiply_tile<most>(tile, panel, steps, accumulate, sums);
    if constexpr (most > 1) multiply_up_to<most - 1>(rows, tile, panel, steps, accumulate, sums);
}

void multiply(const void* tile, const void* panel, int64_t rows, int64_t k, bool accumulate, int32_t* sums) {
    multiply_up_to(rows, static_cast<const int8_t*>(tile), static_cast<const int8_t*>(panel), steps_of(k), accumulate,
                   sums);
}

}  // namespace

extern const IgemmKernels MOE_IGEMM_TABLE;
const IgemmKernels MOE_IGEMM_TABLE = {
    tile_rows, k_step, 1, 0, pack_panel, pack_tile, multiply, to_float_values, dequantise_rows, combine_rows,
};

}  // namespace moe
