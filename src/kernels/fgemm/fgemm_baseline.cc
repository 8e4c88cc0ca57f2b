// What every processor has: vectors of four floats in the compiler's notation, a multiplication and an addition.
#include "kernels/fgemm/fgemm.h"
#include "kernels/numeric.h"

namespace moe {
namespace {

struct Vector {
    typedef float Type __attribute__((vector_size(16)));
    static constexpr int lanes = 4;
    static constexpr int tile_rows = 4;
    static constexpr int tile_vectors = 2;
    static constexpr bool fused = false;

    static Type load(const float* source) {
        Type value;
        std::memcpy(&value, source, sizeof value);
        return value;
    }
    static void store(float* target, Type value) { std::memcpy(target, &value, sizeof value); }
    static Type broadcast(const float* source) { return Type{*source, *source, *source, *source}; }
    static Type multiply_add(Type a, Type w, Type c) { return c + a * w; }
    static Type add(Type a, Type b) { return a + b; }
    static Type multiply(Type a, Type b) { return a * b; }

    template <class Convert>
    static Type each(Convert&& convert) {
        float values[lanes];
        for (int i = 0; i < lanes; ++i) values[i] = convert(i);
        return load(values);
    }
    static Type round_f16(Type value) {
        return each([&](int i) { return widen_f16(narrow_f16(value[i])); });
    }
    static Type round_bf16(Type value) {
        return each([&](int i) { return widen_bf16(narrow_bf16(value[i])); });
    }
    static Type from_f16(const uint16_t* source) {
        return each([&](int i) { return widen_f16(source[i]); });
    }
    static Type from_bf16(const uint16_t* source) {
        return each([&](int i) { return widen_bf16(source[i]); });
    }
    static Type from_s8(const int8_t* source) {
        return each([&](int i) { return static_cast<float>(source[i]); });
    }
};

}  // namespace
}  // namespace moe

#define MOE_FGEMM_TABLE fgemm_baseline
#include "kernels/fgemm/fgemm_body.h"
