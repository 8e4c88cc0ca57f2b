// Operations on one row (or a piece of one): conversions, elementwise arithmetic, quantisation, activations.
//
// Ranges do not overlap unless they are the same. Every operation rounds on its own; results are identical on
// every instruction set, except that arithmetic on NaN gives any NaN: the conversions to the dtype of a result make
// them one. `n` may be 0.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace moe {

struct RowKernels {
    void (*widen_f16)(const uint16_t* source, float* target, int64_t n);
    void (*widen_bf16)(const uint16_t* source, float* target, int64_t n);
    // Round to nearest even. A NaN becomes the positive quiet one without payload; float32 is copied but for that.
    void (*narrow_f16)(const float* source, uint16_t* target, int64_t n);
    void (*narrow_bf16)(const float* source, uint16_t* target, int64_t n);
    void (*narrow_f32)(const float* source, float* target, int64_t n);

    // target = target + source; target = target * factor; target = target * scalar
    void (*add)(float* target, const float* source, int64_t n);
    void (*multiply)(float* target, const float* factor, int64_t n);
    void (*scale)(float* target, float scalar, int64_t n);
    // target = target + scalar * source, rounded after the product and after the sum
    void (*add_scaled)(float* target, const float* source, float scalar, int64_t n);

    // sum = sum + source, in double
    void (*add_to_double)(double* sum, const float* source, int64_t n);
    // Round to nearest even, NaN as above; round to odd, after which a rounding to float16 or bfloat16 is as good as a single one.
    void (*narrow_double)(const double* source, float* target, int64_t n);
    void (*narrow_double_to_odd)(const double* source, float* target, int64_t n);

    // The largest magnitude; NaN if there is one; 0 for n = 0.
    float (*largest_magnitude)(const float* source, int64_t n);
    float (*largest_magnitude_f16)(const uint16_t* source, int64_t n);
    float (*largest_magnitude_bf16)(const uint16_t* source, int64_t n);
    // codes = clamp(round_half_even(source / divisor), -128, 127), NaN gives 0.
    void (*quantise)(const float* source, float divisor, int8_t* codes, int64_t n);
    // The same for values without NaN whose quotients are within +-127.5: those of a row by its own scale.
    void (*quantise_f16)(const uint16_t* source, float divisor, int8_t* codes, int64_t n);
    void (*quantise_bf16)(const uint16_t* source, float divisor, int8_t* codes, int64_t n);
    // codes = clamp(round_half_even(source * scale + offset), -128, 127), NaN gives 0.
    void (*quantise_static)(const float* source, float scale, float offset, int8_t* codes, int64_t n);

    // In place: exp and the activations of kernels/numeric.h.
    void (*exp)(float* values, int64_t n);
    void (*sigmoid)(float* values, int64_t n);
    void (*silu)(float* values, int64_t n);
    void (*fastgelu)(float* values, int64_t n);
    void (*gelu_erf)(float* values, int64_t n);
    void (*gelu_tanh)(float* values, int64_t n);
    void (*relu)(float* values, int64_t n);
};

// The kernels to use now.
const RowKernels& row_kernels();

// Widens a row of a floating dtype (float16, bfloat16, float32). For float32 it is a copy.
void widen_row(const RowKernels& kernels, Dtype dtype, const void* source, float* target, int64_t n);
// Rounds a row to a floating dtype, as the narrow kernels do.
void narrow_row(const RowKernels& kernels, Dtype dtype, const float* source, void* target, int64_t n);

// Rounds a row of double once, to nearest even, to a floating dtype. `scratch` holds n values and is overwritten.
void narrow_double_row(const RowKernels& kernels, Dtype dtype, const double* source, float* scratch, void* target,
                       int64_t n);

// The per-row int8 quantisation of the library: the scale is max|values| / 127. A row whose scale is zero or
// not finite becomes zeros. Returns the scale.
float quantise_row(const RowKernels& kernels, const float* values, int8_t* codes, int64_t n);

// Its parts, for values of a floating dtype.
float largest_magnitude(const RowKernels& kernels, Dtype dtype, const void* values, int64_t n);
float scale_of_largest(float largest);
void quantise_by_scale(const RowKernels& kernels, Dtype dtype, const void* values, float scale, int8_t* codes,
                       int64_t n);

}  // namespace moe
