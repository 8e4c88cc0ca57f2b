#include "kernels/rows/rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/rows/rows_list.h"

namespace moe {

const RowKernels& row_kernels() {
    return choose(row_kernel_list);
}

void widen_row(const RowKernels& kernels, Dtype dtype, const void* source, float* target, int64_t n) {
    switch (dtype) {
        case MOE_FLOAT16:
            return kernels.widen_f16(static_cast<const uint16_t*>(source), target, n);
        case MOE_BFLOAT16:
            return kernels.widen_bf16(static_cast<const uint16_t*>(source), target, n);
        default:
            std::memcpy(target, source, static_cast<size_t>(n) * sizeof(float));
    }
}

void narrow_row(const RowKernels& kernels, Dtype dtype, const float* source, void* target, int64_t n) {
    switch (dtype) {
        case MOE_FLOAT16:
            return kernels.narrow_f16(source, static_cast<uint16_t*>(target), n);
        case MOE_BFLOAT16:
            return kernels.narrow_bf16(source, static_cast<uint16_t*>(target), n);
        default:
            kernels.narrow_f32(source, static_cast<float*>(target), n);
    }
}

void narrow_double_row(const RowKernels& kernels, Dtype dtype, const double* source, float* scratch, void* target,
                       int64_t n) {
    if (dtype == MOE_FLOAT32) return kernels.narrow_double(source, static_cast<float*>(target), n);
    kernels.narrow_double_to_odd(source, scratch, n);
    narrow_row(kernels, dtype, scratch, target, n);
}

float largest_magnitude(const RowKernels& kernels, Dtype dtype, const void* values, int64_t n) {
    switch (dtype) {
        case MOE_FLOAT16:
            return kernels.largest_magnitude_f16(static_cast<const uint16_t*>(values), n);
        case MOE_BFLOAT16:
            return kernels.largest_magnitude_bf16(static_cast<const uint16_t*>(values), n);
        default:
            return kernels.largest_magnitude(static_cast<const float*>(values), n);
    }
}

float scale_of_largest(float largest) {
    return largest / 127.0f;
}

void quantise_by_scale(const RowKernels& kernels, Dtype dtype, const void* values, float scale, int8_t* codes,
                       int64_t n) {
    if (scale == 0.0f || !std::isfinite(scale)) {
        std::fill_n(codes, n, int8_t{0});
        return;
    }
    switch (dtype) {
        case MOE_FLOAT16:
            return kernels.quantise_f16(static_cast<const uint16_t*>(values), scale, codes, n);
        case MOE_BFLOAT16:
            return kernels.quantise_bf16(static_cast<const uint16_t*>(values), scale, codes, n);
        default:
            return kernels.quantise(static_cast<const float*>(values), scale, codes, n);
    }
}

float quantise_row(const RowKernels& kernels, const float* values, int8_t* codes, int64_t n) {
    const float scale = scale_of_largest(kernels.largest_magnitude(values, n));
    quantise_by_scale(kernels, MOE_FLOAT32, values, scale, codes, n);
    return scale;
}

}  // namespace moe
