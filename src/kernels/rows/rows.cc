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

namespace {

template <class T, class Kernel>
float quantise_by_largest(float largest, Kernel quantise, const T* values, int8_t* codes, int64_t n) {
    const float scale = largest / 127.0f;
    if (scale == 0.0f || !std::isfinite(scale))
        std::fill_n(codes, n, int8_t{0});
    else
        quantise(values, scale, codes, n);
    return scale;
}

}  // namespace

float quantise_row(const RowKernels& kernels, const float* values, int8_t* codes, int64_t n) {
    return quantise_by_largest(kernels.largest_magnitude(values, n), kernels.quantise, values, codes, n);
}

float quantise_row(const RowKernels& kernels, Dtype dtype, const void* values, int8_t* codes, int64_t n) {
    if (dtype == MOE_FLOAT32) return quantise_row(kernels, static_cast<const float*>(values), codes, n);
    const auto* halves = static_cast<const uint16_t*>(values);
    if (dtype == MOE_FLOAT16)
        return quantise_by_largest(kernels.largest_magnitude_f16(halves, n), kernels.quantise_f16, halves, codes, n);
    return quantise_by_largest(kernels.largest_magnitude_bf16(halves, n), kernels.quantise_bf16, halves, codes, n);
}

}  // namespace moe
