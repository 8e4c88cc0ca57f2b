// What the sets of aarch64 have in common. Included by one file per instruction set.
#include <arm_neon.h>

#include "kernels/probe/probe.h"

namespace moe {
namespace {

struct Float32 {
    using Type = float32x4_t;
    static constexpr int64_t operations = 8;
    static Type start(int chain) { return vdupq_n_f32(static_cast<float>(chain)); }
    static Type step(Type value) { return vfmaq_f32(vdupq_n_f32(0.7f), value, vdupq_n_f32(-0.999f)); }
};
using Bfloat16 = Float32;

struct Bytes {
    using Type = uint8x16_t;
    static Type load(const char* source) { return vld1q_u8(reinterpret_cast<const uint8_t*>(source)); }
    static void stream(char* target, Type value) { vst1q_u8(reinterpret_cast<uint8_t*>(target), value); }
    static Type merge(Type a, Type b) { return veorq_u8(a, b); }
    static void finish() {}
};

struct Int8 {
    using Type = int32x4_t;
#if defined(__ARM_FEATURE_MATMUL_INT8)
    static constexpr int64_t operations = 64;
#elif defined(__ARM_FEATURE_DOTPROD)
    static constexpr int64_t operations = 32;
#else
    static constexpr int64_t operations = 8;
#endif
    static Type start(int chain) {
        return vdupq_n_s32(chain);
    }
    static Type step(Type value) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
        return vmmlaq_s32(value, vdupq_n_s8(77), vdupq_n_s8(-55));
#elif defined(__ARM_FEATURE_DOTPROD)
        return vdotq_s32(value, vdupq_n_s8(77), vdupq_n_s8(-55));
#else
        return vmlal_n_s16(value, vmovn_s32(value), 77);
#endif
    }
};

}  // namespace
}  // namespace moe
