// Scalar building blocks that kernels compile once per instruction set: conversions, exp, erf, activations.
//
// Everything here is static on purpose: an inline function with external linkage that two files compile for
// different instruction sets would be merged by the linker into either one, and could run where its
// instructions do not exist. Every function is branch-free, so that loops over it vectorise, and rounds each
// operation on its own (the build disables contraction), so that its result is the same on every instruction
// set and in any vector position.
#pragma once

#include <cstdint>
#include <cstring>

namespace moe {
namespace {

[[maybe_unused]] inline uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

[[maybe_unused]] inline float float_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Which NaN comes out of an operation on two of them, and with which sign out of one on none, depends on the order of
// the operands in the instruction: results hold this one instead.
constexpr uint32_t quiet_nan = 0x7FC00000u;

[[maybe_unused]] inline float with_one_nan(float value) {
    return value == value ? value : float_of(quiet_nan);
}

[[maybe_unused]] inline float widen_bf16(uint16_t value) {
    return float_of(static_cast<uint32_t>(value) << 16);
}

// Round to nearest even; a NaN becomes the positive quiet one without payload.
[[maybe_unused]] inline uint16_t narrow_bf16(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    return static_cast<uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet_nan >> 16 : rounded);
}

// Exponent and fraction move to their place by a shift; a multiplication by 2^112 corrects the bias and
// normalises subnormals in one step, and numbers above the finite range get the exponent of inf and NaN.
[[maybe_unused]] inline float widen_f16(uint16_t value) {
    const uint32_t sign = static_cast<uint32_t>(value & 0x8000u) << 16;
    const uint32_t shifted = static_cast<uint32_t>(value & 0x7FFFu) << 13;
    const uint32_t finite = bits_of(float_of(shifted) * 0x1p112f);
    const uint32_t quiet = (value & 0x3FFu) != 0 ? 0x400000u : 0u;
    const uint32_t special = shifted | 0x7F800000u | quiet;
    return float_of(sign | (shifted >= (0x7C00u << 13) ? special : finite));
}

// Round to nearest even, to inf from 65520 on. Normal results round by an integer addition; subnormal ones by
// adding 0.5, whose unit in the last place is the smallest float16. A NaN becomes the positive quiet one without
// payload.
[[maybe_unused]] inline uint16_t narrow_f16(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t magnitude = bits & 0x7FFFFFFFu;
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t normal = (magnitude - (112u << 23) + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
    const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    uint32_t half = magnitude < (113u << 23) ? subnormal : normal;
    half = magnitude >= 0x477FF000u ? 0x7C00u : half;
    return static_cast<uint16_t>(magnitude > 0x7F800000u ? 0x7E00u : sign | half);
}

// An inexact result becomes whichever of its two neighbours has an odd last bit. That keeps it off every midpoint of a
// type with at least two bits less, so a later rounding to nearest goes the way it would have gone from the double.
// A result that rounded to inf becomes the largest float, one that rounded to zero the smallest.
[[maybe_unused]] inline float narrow_double_to_odd(double value) {
    const float nearest = static_cast<float>(value);
    const double back = nearest;
    const double distance = __builtin_fabs(back) - __builtin_fabs(value);
    const uint32_t bits = bits_of(nearest);
    const uint32_t step = distance > 0.0 ? 0xFFFFFFFFu : distance < 0.0 ? 1u : 0u;
    return float_of((bits & 1u) != 0 ? bits : bits + step);
}

// Nearest even for |value| <= 2^22.
[[maybe_unused]] inline float round_even(float value) {
    constexpr float shift = 0x1.8p23f;
    return (value + shift) - shift;
}

// Within one unit in the last place. x = n ln 2 + r with |r| <= ln 2 / 2; the product n * ln2_high is exact.
// 2^n is applied as two factors, so that results overflow to inf and run through the subnormals as they
// should.
[[maybe_unused]] inline float exp_f32(float x) {
    constexpr float shift = 0x1.8p23f;
    constexpr float ln2_high = 0.693145751953125f;
    constexpr float ln2_low = 1.428606765330187e-06f;
    float c = x < -104.0f ? -104.0f : x;
    c = c > 89.0f ? 89.0f : c;
    const float shifted = c * 1.44269504f + shift;
    const float n = shifted - shift;
    const float r = (c - n * ln2_high) - n * ln2_low;
    float p = 0.0001989933371078223f;
    p = p * r + 0.001393368816934526f;
    p = p * r + 0.0083332983776927f;
    p = p * r + 0.041666463017463684f;
    p = p * r + 0.1666666716337204f;
    p = p * r + 0.5f;
    const float e = 1.0f + (r + (r * r) * p);
    // n in the place of the exponent, and half of it, rounded down: a shift leaves its fraction in lower bits.
    const uint32_t power = bits_of(shifted) << 23;
    const uint32_t half = static_cast<uint32_t>(static_cast<int32_t>(power) >> 1) & 0xFF800000u;
    return (e * float_of(half + bits_of(1.0f))) * float_of(power - half + bits_of(1.0f));
}

// Within 3 units in the last place: an odd polynomial below 1, 1 - exp(-p(x)) above, 1 from 4 on.
[[maybe_unused]] inline float erf_f32(float x) {
    const float z = float_of(bits_of(x) & 0x7FFFFFFFu);
    const float s = z * z;
    float a = 7.882497448008507e-05f;
    a = a * s - 0.0008018855005502701f;
    a = a * s + 0.005189312156289816f;
    a = a * s - 0.02685432881116867f;
    a = a * s + 0.11283597350120544f;
    a = a * s - 0.3761262595653534f;
    a = a * s + 0.12837916612625122f;
    const float small = z + z * a;
    const float u = (z > 4.0f ? 4.0f : z) - 2.5f;
    float b = -1.6140616025950294e-06f;
    b = b * u + 1.3309389942151029e-05f;
    b = b * u - 7.739442662568763e-05f;
    b = b * u + 0.0004201445553917438f;
    b = b * u - 0.0021651603747159243f;
    b = b * u + 0.01085851714015007f;
    b = b * u + 0.9438936114311218f;
    b = b * u + 5.352680683135986f;
    b = b * u + 7.806815147399902f;
    const float large = 1.0f - exp_f32(-b);
    return float_of(bits_of(z < 1.0f ? small : large) | (bits_of(x) & 0x80000000u));
}

[[maybe_unused]] inline float sigmoid_f32(float x) {
    return 1.0f / (1.0f + exp_f32(-x));
}

// x / (1 + exp(-x)): an overflowing exp gives -0, not NaN.
[[maybe_unused]] inline float silu_f32(float x) {
    return x / (1.0f + exp_f32(-x));
}

[[maybe_unused]] inline float fastgelu_f32(float x) {
    return x / (1.0f + exp_f32(-1.702f * x));
}

[[maybe_unused]] inline float gelu_erf_f32(float x) {
    return 0.5f * x * (1.0f + erf_f32(x * 0.70710678f));
}

[[maybe_unused]] inline float gelu_tanh_f32(float x) {
    return x / (1.0f + exp_f32(-1.5957691216f * (x + 0.044715f * ((x * x) * x))));
}

// max(x, 0) that keeps NaN.
[[maybe_unused]] inline float relu_f32(float x) {
    return x < 0.0f ? 0.0f : x;
}

}  // namespace
}  // namespace moe
