#include <arm_neon.h>

#include <cstring>

#include "kernels/fgemm/fgemm.h"

namespace moe {
namespace {

struct Vector {
    using Type = float32x4_t;
    static constexpr int lanes = 4;
    // 24 accumulators, 4 vectors of weights, a factor: 29 of the 32 registers.
    static constexpr int tile_rows = 6;
    static constexpr int tile_vectors = 4;
    static constexpr bool fused = true;

    static Type load(const float* source) { return vld1q_f32(source); }
    static void store(float* target, Type value) { vst1q_f32(target, value); }
    static Type broadcast(const float* source) { return vld1q_dup_f32(source); }
    static Type multiply_add(Type a, Type w, Type c) { return vfmaq_f32(c, a, w); }
    static Type add(Type a, Type b) { return vaddq_f32(a, b); }
    static Type multiply(Type a, Type b) { return vmulq_f32(a, b); }

    static Type round_f16(Type value) { return vcvt_f32_f16(vcvt_f16_f32(value)); }
    static Type round_bf16(Type value) {
        const uint32x4_t bits = vreinterpretq_u32_f32(value);
        const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
        const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7FFF)));
        const Type upper = vreinterpretq_f32_u32(vandq_u32(rounded, vdupq_n_u32(0xFFFF0000)));
        // Adding could carry a NaN into another number: NaNs stay as they are.
        return vbslq_f32(vceqq_f32(value, value), upper, value);
    }
    static Type from_f16(const uint16_t* source) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(source))); }
    static Type from_bf16(const uint16_t* source) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(source), 16)); }
    static Type from_s8(const int8_t* source) {
        int32_t bytes;
        std::memcpy(&bytes, source, sizeof bytes);
        return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(bytes))))));
    }
};

}  // namespace
}  // namespace moe

#define MOE_FGEMM_TABLE fgemm_neon
#include "kernels/fgemm/fgemm_body.h"
