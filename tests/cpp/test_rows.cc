// The row kernels: conversions against their definition, exp and erf against libm, every instruction set
// against the first bit for bit, at sizes around a vector's.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/numeric.h"
#include "kernels/rows/rows_list.h"

using namespace moe;

namespace {

const RowKernels& first = *row_kernel_list[0].table;
constexpr int64_t sizes[] = {0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 101, 1024};

// Finite, subnormal, huge, infinite and NaN values.
std::vector<float> values(int64_t n, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal(0.0f, 4.0f);
    const float special[] = {0.0f,
                             -0.0f,
                             INFINITY,
                             -INFINITY,
                             NAN,
                             1e-40f,
                             -1e-45f,
                             65519.0f,
                             65520.0f,
                             1e38f,
                             -1e38f,
                             6e-8f,
                             2.98e-8f,
                             2.99e-8f,
                             6.1e-5f,
                             0.5f,
                             1.5f,
                             127.5f,
                             float_of(0xFFC12345)};
    std::vector<float> out(static_cast<size_t>(n));
    for (float& value : out) value = engine() % 5 == 0 ? special[engine() % std::size(special)] : normal(engine);
    return out;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// Calls check(row) for every kernel table that this processor can run.
template <class Check>
void for_each_table(Check&& check) {
    for (const auto& row : row_kernel_list) {
        if (row.isa > isa_limit()) continue;
        CAPTURE(row.name);
        check(*row.table);
    }
}

double half_value(uint16_t bits) {
    const int exponent = (bits >> 10) & 31;
    const int fraction = bits & 1023;
    const double sign = bits & 0x8000 ? -1.0 : 1.0;
    return exponent == 0 ? sign * std::ldexp(fraction, -24) : sign * std::ldexp(1024 + fraction, exponent - 25);
}

// Distance in units in the last place of the result.
double ulps(float seen, double exact) {
    int exponent;
    std::frexp(exact, &exponent);
    return std::abs(seen - exact) / std::ldexp(1.0, std::max(exponent, -125) - 24);
}

}  // namespace

TEST_CASE("float16 widens exactly") {
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
        const float seen = widen_f16(static_cast<uint16_t>(bits));
        if ((bits & 0x7C00) != 0x7C00) {
            REQUIRE(seen == half_value(static_cast<uint16_t>(bits)));
            REQUIRE(std::signbit(seen) == ((bits & 0x8000) != 0));
        } else if ((bits & 0x3FF) == 0) {
            REQUIRE(std::isinf(seen));
        } else {
            REQUIRE(std::isnan(seen));
        }
    }
}

TEST_CASE("float16 rounds to nearest even") {
    // Between two neighbours: a little below the middle, the middle, a little above.
    for (uint16_t bits = 0; bits < 0x7BFF; ++bits) {
        const auto middle = static_cast<float>((half_value(bits) + half_value(bits + 1)) / 2);
        REQUIRE(narrow_f16(static_cast<float>(half_value(bits))) == bits);
        REQUIRE(narrow_f16(std::nextafter(middle, 0.0f)) == bits);
        REQUIRE(narrow_f16(middle) == bits + (bits & 1));
        REQUIRE(narrow_f16(std::nextafter(middle, 1e9f)) == bits + 1);
        REQUIRE(narrow_f16(-middle) == (0x8000 | (bits + (bits & 1))));
    }
    CHECK(narrow_f16(65519.996f) == 0x7BFF);
    CHECK(narrow_f16(65520.0f) == 0x7C00);
    CHECK(narrow_f16(-INFINITY) == 0xFC00);
    CHECK(narrow_f16(NAN) == 0x7E00);
    CHECK(narrow_f16(float_of(0xFF800001)) == 0x7E00);
}

TEST_CASE("bfloat16 rounds to nearest even") {
    for (uint32_t bits = 0; bits < 0x7F7F; ++bits) {
        const float low = float_of(bits << 16);
        const float middle = float_of((bits << 16) | 0x8000);
        REQUIRE(widen_bf16(static_cast<uint16_t>(bits)) == low);
        REQUIRE(narrow_bf16(low) == bits);
        REQUIRE(narrow_bf16(float_of((bits << 16) | 0x7FFF)) == bits);
        REQUIRE(narrow_bf16(middle) == bits + (bits & 1));
        REQUIRE(narrow_bf16(float_of((bits << 16) | 0x8001)) == bits + 1);
    }
    CHECK(narrow_bf16(3.4e38f) == 0x7F80);
    CHECK(narrow_bf16(-INFINITY) == 0xFF80);
    CHECK(narrow_bf16(float_of(0xFF800001)) == 0x7FC0);
    CHECK(narrow_bf16(float_of(0x7FFFFFFF)) == 0x7FC0);
}

TEST_CASE("double rounds once") {
    // To 8 bits, by scaling the last of them to one: exact in double.
    const auto rounded = [](double value) {
        int exponent;
        std::frexp(value, &exponent);
        const int last = std::max(exponent - 1, -126) - 7;
        return std::ldexp(std::nearbyint(std::ldexp(value, -last)), last);
    };
    for (uint32_t bits = 0; bits < 0x7F7F; ++bits) {
        const double low = float_of(bits << 16);
        const double middle = float_of((bits << 16) | 0x8000);
        const double little = std::ldexp(low, -40) + 0x1p-170;  // far below what float keeps
        for (const double value : {low, low + little, middle - little, middle, middle + little}) {
            for (const double signed_value : {value, -value}) {
                const float seen = widen_bf16(narrow_bf16(narrow_double_to_odd(signed_value)));
                REQUIRE(seen == rounded(signed_value));
                REQUIRE(std::signbit(seen) == std::signbit(signed_value));
            }
        }
    }
    CHECK(narrow_bf16(narrow_double_to_odd(1e300)) == 0x7F80);
    CHECK(narrow_bf16(narrow_double_to_odd(-INFINITY)) == 0xFF80);
    CHECK(std::isnan(narrow_double_to_odd(NAN)));
    CHECK(narrow_f16(narrow_double_to_odd(1.0 + 0x1p-11 + 0x1p-50)) == 0x3C01);
    CHECK(narrow_f16(narrow_double_to_odd(1.0 + 0x1p-11)) == 0x3C00);
    CHECK(narrow_f16(narrow_double_to_odd(0x1p-25 + 0x1p-70)) == 1);
    CHECK(narrow_f16(narrow_double_to_odd(65520.0 - 0x1p-30)) == 0x7BFF);
}

TEST_CASE("exp is within one unit in the last place") {
    double worst = 0.0;
    for (float x = -104.5f; x < 88.7f; x += 0.000817f) worst = std::max(worst, ulps(exp_f32(x), std::exp(double(x))));
    CHECK(worst < 1.0);
    CHECK(exp_f32(0.0f) == 1.0f);
    CHECK(exp_f32(-0.0f) == 1.0f);
    CHECK(exp_f32(88.73f) == INFINITY);
    CHECK(exp_f32(INFINITY) == INFINITY);
    CHECK(exp_f32(-INFINITY) == 0.0f);
    CHECK(exp_f32(-1e30f) == 0.0f);
    int64_t numbers = 0;
    for (uint32_t payload = 1; payload < 0x800000u; payload += 37)
        for (const uint32_t infinity : {0x7F800000u, 0xFF800000u})
            numbers += std::isnan(exp_f32(float_of(infinity | payload))) ? 0 : 1;
    CHECK(numbers == 0);
}

TEST_CASE("erf is within three units in the last place") {
    double worst = 0.0;
    for (float x = -5.0f; x < 5.0f; x += 0.0000917f) worst = std::max(worst, ulps(erf_f32(x), std::erf(double(x))));
    CHECK(worst < 3.0);
    CHECK(erf_f32(INFINITY) == 1.0f);
    CHECK(erf_f32(-INFINITY) == -1.0f);
    CHECK(std::isnan(erf_f32(NAN)));
}

TEST_CASE("activations match their formulas") {
    const auto near = [](float seen, double exact) { return std::abs(seen - exact) <= 4e-7 * (1.0 + std::abs(exact)); };
    for (float x = -30.0f; x < 30.0f; x += 0.00317f) {
        const double v = x;
        REQUIRE(near(silu_f32(x), v / (1 + std::exp(-v))));
        REQUIRE(near(sigmoid_f32(x), 1 / (1 + std::exp(-v))));
        REQUIRE(near(fastgelu_f32(x), v / (1 + std::exp(-1.702 * v))));
        REQUIRE(near(gelu_erf_f32(x), 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)))));
        REQUIRE(near(gelu_tanh_f32(x), 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)))));
    }
    CHECK(silu_f32(-200.0f) == 0.0f);
    CHECK(std::signbit(silu_f32(-200.0f)));
    CHECK(std::isnan(relu_f32(NAN)));
}

TEST_CASE("quantisation rounds half to even and saturates") {
    const float source[] = {0.5f, 1.5f, 2.5f, -0.5f, -2.5f, 126.5f, 127.5f, 1e30f, -1e30f, INFINITY, -INFINITY, NAN};
    const int8_t needed[] = {0, 2, 2, 0, -2, 126, 127, 127, -128, 127, -128, 0};
    for_each_table([&](const RowKernels& kernels) {
        int8_t codes[std::size(source)];
        kernels.quantise(source, 1.0f, codes, std::size(source));
        CHECK(std::memcmp(codes, needed, sizeof needed) == 0);
        kernels.quantise_static(source, 1.0f, 0.0f, codes, std::size(source));
        CHECK(std::memcmp(codes, needed, sizeof needed) == 0);
    });
}

// What the quantisation kernels replace by products where that changes nothing.
int8_t divided(float value, float divisor) {
    const float quotient = value / divisor;
    if (std::isnan(quotient)) return 0;
    return static_cast<int8_t>(std::nearbyint(std::min(127.0f, std::max(-128.0f, quotient))));
}

TEST_CASE("quantisation gives the codes of the quotients, however close they are to a half") {
    constexpr int64_t n = 320;
    std::mt19937 engine(5);
    std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
    for_each_table([&](const RowKernels& kernels) {
        for (int round = 0; round < 200; ++round) {
            const float divisor = std::ldexp(1.0f + (uniform(engine) + 1.0f) / 2, round % 8 == 0 ? round - 150 : -7);
            CAPTURE(divisor);
            std::vector<float> source(n);
            std::vector<int8_t> codes(n);
            for (float& value : source) {
                value = (std::floor(uniform(engine) * 127.0f) + 0.5f) * divisor;
                for (unsigned step = engine() % 4; step > 0; --step)
                    value = std::nextafter(value, engine() % 2 ? 1e30f : -1e30f);
                if (engine() % 4 == 0) value = uniform(engine) * 130.0f * divisor;
                if (round % 4 == 0 && engine() % 16 == 0) value = values(1, static_cast<unsigned>(engine()))[0];
            }
            kernels.quantise(source.data(), divisor, codes.data(), n);
            for (size_t i = 0; i < n; ++i) {
                CAPTURE(source[i]);
                REQUIRE(codes[i] == divided(source[i], divisor));
            }
        }
    });
}

TEST_CASE("quantisation of 16-bit floats gives the codes of the float32 ones") {
    for_each_table([&](const RowKernels& kernels) {
        for (const int64_t n : {0, 1, 63, 64, 65, 128, 1000})
            for (unsigned seed = 0; seed < 8; ++seed) {
                CAPTURE(n);
                std::mt19937 engine(seed);
                const auto size = static_cast<size_t>(n);
                std::vector<uint16_t> halves(size);
                // The same exponent everywhere is what makes many quotients halves.
                for (uint16_t& half : halves)
                    half = static_cast<uint16_t>(0x3C00 + engine() % (seed < 4 ? 0x80 : 0x400) + engine() % 2 * 0x8000);
                std::vector<float> source(size);
                std::vector<int8_t> codes(size), needed(size);
                const auto check = [&](auto widen, auto largest_magnitude, auto quantise) {
                    (kernels.*widen)(halves.data(), source.data(), n);
                    const float largest = first.largest_magnitude(source.data(), n);
                    CHECK(bits_of((kernels.*largest_magnitude)(halves.data(), n)) == bits_of(largest));
                    const float scale = n == 0 ? 1.0f : largest / 127.0f;
                    for (size_t i = 0; i < size; ++i) needed[i] = divided(source[i], scale);
                    (kernels.*quantise)(halves.data(), scale, codes.data(), n);
                    CHECK(codes == needed);
                };
                check(&RowKernels::widen_f16, &RowKernels::largest_magnitude_f16, &RowKernels::quantise_f16);
                check(&RowKernels::widen_bf16, &RowKernels::largest_magnitude_bf16, &RowKernels::quantise_bf16);
                if (n == 0) continue;
                for (const uint16_t special : {0x7FFF, 0xFC01, 0x7C00, 0xFF80, 0x7F81, 0x8001}) {
                    halves[size / 2] = special;
                    kernels.widen_f16(halves.data(), source.data(), n);
                    CHECK(bits_of(kernels.largest_magnitude_f16(halves.data(), n)) ==
                          bits_of(first.largest_magnitude(source.data(), n)));
                    kernels.widen_bf16(halves.data(), source.data(), n);
                    CHECK(bits_of(kernels.largest_magnitude_bf16(halves.data(), n)) ==
                          bits_of(first.largest_magnitude(source.data(), n)));
                }
            }
    });
}

TEST_CASE("a row whose scale is zero or not finite quantises to zeros") {
    for (const float bad : {0.0f, INFINITY, -INFINITY, NAN, 1e-45f}) {
        const float row[] = {0.0f, bad, 0.0f};
        int8_t codes[] = {1, 1, 1};
        const float scale = quantise_row(first, row, codes, 3);
        CHECK((std::isnan(bad) ? std::isnan(scale) : scale == std::abs(bad) / 127.0f));
        CHECK(codes[0] == 0);
        CHECK(codes[1] == 0);
        CHECK(codes[2] == 0);
    }
}

TEST_CASE("every instruction set gives the same bits") {
    for_each_table([&](const RowKernels& kernels) {
        for (const int64_t n : sizes) {
            CAPTURE(n);
            const std::vector<float> a = values(n, 1);
            const std::vector<float> b = values(n, 2);
            const auto size = static_cast<size_t>(n);

            std::vector<uint16_t> half(size), half_needed(size);
            for (const auto narrow : {&RowKernels::narrow_f16, &RowKernels::narrow_bf16}) {
                (first.*narrow)(a.data(), half_needed.data(), n);
                (kernels.*narrow)(a.data(), half.data(), n);
                CHECK(same_bits(half, half_needed));
            }
            std::vector<float> seen(size), needed(size);
            kernels.narrow_f32(a.data(), seen.data(), n);
            for (size_t i = 0; i < size; ++i)
                CHECK(bits_of(seen[i]) == (std::isnan(a[i]) ? 0x7FC00000u : bits_of(a[i])));
            std::mt19937 engine(3);
            for (uint16_t& bits : half) bits = static_cast<uint16_t>(engine());
            for (const auto widen : {&RowKernels::widen_f16, &RowKernels::widen_bf16}) {
                (first.*widen)(half.data(), needed.data(), n);
                (kernels.*widen)(half.data(), seen.data(), n);
                CHECK(same_bits(seen, needed));
            }
            for (const auto combine : {&RowKernels::add, &RowKernels::multiply}) {
                needed = seen = a;
                (first.*combine)(needed.data(), b.data(), n);
                (kernels.*combine)(seen.data(), b.data(), n);
                for (size_t i = 0; i < size; ++i)  // which of two NaNs survives is the processor's choice
                    CHECK((std::isnan(needed[i]) ? std::isnan(seen[i]) : bits_of(seen[i]) == bits_of(needed[i])));
            }
            needed = seen = a;
            first.add_scaled(needed.data(), b.data(), 0.3f, n);
            kernels.add_scaled(seen.data(), b.data(), 0.3f, n);
            for (size_t i = 0; i < size; ++i)
                CHECK((std::isnan(needed[i]) ? std::isnan(seen[i]) : bits_of(seen[i]) == bits_of(needed[i])));
            needed = seen = a;
            first.scale(needed.data(), 0.3f, n);
            kernels.scale(seen.data(), 0.3f, n);
            CHECK(same_bits(seen, needed));

            std::vector<double> wide(size), wide_needed(size);
            for (size_t i = 0; i < size; ++i) wide[i] = wide_needed[i] = std::ldexp(double(b[i]), 3) + 1e-9 * a[i];
            first.add_to_double(wide_needed.data(), a.data(), n);
            kernels.add_to_double(wide.data(), a.data(), n);
            for (size_t i = 0; i < size; ++i)
                CHECK((std::isnan(wide_needed[i]) ? std::isnan(wide[i]) : wide[i] == wide_needed[i]));
            for (const auto narrow : {&RowKernels::narrow_double, &RowKernels::narrow_double_to_odd}) {
                (first.*narrow)(wide_needed.data(), needed.data(), n);
                (kernels.*narrow)(wide_needed.data(), seen.data(), n);
                CHECK(same_bits(seen, needed));
            }

            CHECK(bits_of(kernels.largest_magnitude(a.data(), n)) == bits_of(first.largest_magnitude(a.data(), n)));
            std::vector<int8_t> codes(size), codes_needed(size);
            first.quantise(a.data(), 0.07f, codes_needed.data(), n);
            kernels.quantise(a.data(), 0.07f, codes.data(), n);
            CHECK(same_bits(codes, codes_needed));
            first.quantise_static(a.data(), 3.7f, -0.4f, codes_needed.data(), n);
            kernels.quantise_static(a.data(), 3.7f, -0.4f, codes.data(), n);
            CHECK(same_bits(codes, codes_needed));

            for (const auto map : {&RowKernels::exp, &RowKernels::sigmoid, &RowKernels::silu, &RowKernels::fastgelu,
                                   &RowKernels::gelu_erf, &RowKernels::gelu_tanh, &RowKernels::relu}) {
                needed = seen = a;
                (first.*map)(needed.data(), n);
                (kernels.*map)(seen.data(), n);
                for (size_t i = 0; i < size; ++i)
                    CHECK((std::isnan(needed[i]) ? std::isnan(seen[i]) : bits_of(seen[i]) == bits_of(needed[i])));
            }
        }
    });
}
