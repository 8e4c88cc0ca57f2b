// The integer products: every kernel against 64-bit sums, at every number of rows and around every step of k, with the
// extreme values; and their floating-point loops against the first kernel, bit for bit.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/igemm/igemm_list.h"

using namespace moe;

namespace {

constexpr int64_t columns = igemm::columns;
constexpr int64_t lengths[] = {1, 2, 3, 4, 5, 15, 16, 17, 31, 64, 250, 1023};

// Calls check(row) for every kernel table that this processor can run.
template <class Check>
void for_each_table(Check&& check) {
    for (const auto& row : igemm_kernel_list) {
        if (row.isa > isa_limit()) continue;
        CAPTURE(row.name);
        check(*row.table);
    }
}

std::vector<int8_t> random_bytes(int64_t n, unsigned seed) {
    std::mt19937 engine(seed);
    std::vector<int8_t> bytes(static_cast<size_t>(n));
    for (int8_t& byte : bytes) byte = engine() % 4 == 0 ? int8_t{-128} : static_cast<int8_t>(engine());
    return bytes;
}

int8_t int4_at(const int8_t* row, int64_t column) {
    const int byte = static_cast<uint8_t>(row[column / 2]);
    const int nibble = column % 2 == 0 ? byte & 15 : byte >> 4;
    return static_cast<int8_t>(nibble < 8 ? nibble : nibble - 16);
}

// Memory for a packed operand, exactly as large as promised, between guard bytes.
struct Packed {
    static constexpr size_t guard = 64;
    std::vector<unsigned char> memory;
    explicit Packed(int64_t bytes) : memory(static_cast<size_t>(bytes) + 2 * guard, 0x5A) {}
    void* data() { return memory.data() + guard; }
    bool guarded() const {
        for (size_t i = 0; i < guard; ++i)
            if (memory[i] != 0x5A || memory[memory.size() - 1 - i] != 0x5A) return false;
        return true;
    }
};

std::vector<int32_t> multiply(const IgemmKernels& kernels, const std::vector<int8_t>& x, int64_t rows,
                              const std::vector<int8_t>& w, int64_t k, int64_t x_stride, int64_t w_stride,
                              const std::vector<int32_t>* start = nullptr) {
    Packed tile(rows * igemm::row_bytes(kernels, k));
    Packed panel(igemm::panel_bytes(kernels, k));
    kernels.pack_tile(x.data(), x_stride, rows, k, tile.data());
    kernels.pack_panel(w.data(), w_stride, k, panel.data());
    CHECK(tile.guarded());
    CHECK(panel.guarded());
    std::vector<int32_t> sums(static_cast<size_t>(rows * columns), 77);
    if (start != nullptr) sums = *start;
    kernels.multiply(tile.data(), panel.data(), rows, k, start != nullptr, sums.data(), {});
    return sums;
}

}  // namespace

TEST_CASE("sums are exact for every number of rows and every length") {
    for_each_table([&](const IgemmKernels& kernels) {
        CHECK(kernels.rows % 2 == 0);
        CHECK(16 % kernels.k_step == 0);
        for (int64_t rows = 1; rows <= kernels.rows; ++rows) {
            for (const int64_t k : lengths) {
                CAPTURE(rows);
                CAPTURE(k);
                const int64_t x_stride = k + 3;
                const int64_t w_stride = columns + 5;
                const std::vector<int8_t> x = random_bytes(rows * x_stride, 1);
                const std::vector<int8_t> w = random_bytes(k * w_stride, 2);
                const std::vector<int32_t> seen = multiply(kernels, x, rows, w, k, x_stride, w_stride);
                const std::vector<int32_t> again = multiply(kernels, x, rows, w, k, x_stride, w_stride, &seen);
                for (int64_t r = 0; r < rows; ++r) {
                    for (int64_t j = 0; j < columns; ++j) {
                        int64_t sum = 0;
                        for (int64_t t = 0; t < k; ++t) sum += int64_t{x[r * x_stride + t]} * w[t * w_stride + j];
                        REQUIRE(seen[r * columns + j] == sum);
                        REQUIRE(again[r * columns + j] == 2 * sum);
                    }
                }
            }
        }
    });
}

TEST_CASE("a panel of int4 is the panel of its values") {
    for_each_table([&](const IgemmKernels& kernels) {
        for (const int64_t k : lengths) {
            CAPTURE(k);
            const int64_t stride = columns / 2 + 3;
            const std::vector<int8_t> bytes = random_bytes(k * stride, 5);
            std::vector<int8_t> values;
            for (int64_t t = 0; t < k; ++t)
                for (int64_t j = 0; j < columns; ++j) values.push_back(int4_at(bytes.data() + t * stride, j));
            Packed seen(igemm::panel_bytes(kernels, k));
            Packed needed(igemm::panel_bytes(kernels, k));
            kernels.pack_panel_int4(bytes.data(), stride, k, seen.data());
            kernels.pack_panel(values.data(), columns, k, needed.data());
            CHECK(seen.memory == needed.memory);
        }
    });
}

TEST_CASE("streamed sums are exact, and reading ahead changes nothing") {
    for_each_table([&](const IgemmKernels& kernels) {
        CHECK(kernels.stream_rows % 2 == 0);
        CHECK(kernels.stream_rows <= kernels.rows);
        CHECK((kernels.stream_rows > 0) == (kernels.stream != nullptr));
        CHECK((kernels.stream_rows > 0) == (kernels.stream_int4 != nullptr));
        CHECK((kernels.in_turn_rows > 0) == (kernels.multiply_in_turn != nullptr));
        CHECK((kernels.in_turn_rows == kernels.rows || kernels.in_turn_rows <= kernels.stream_rows));
        for (int64_t rows = 1; rows <= kernels.rows; ++rows) {
            for (const int64_t k : lengths) {
                CAPTURE(rows);
                CAPTURE(k);
                const int64_t stride = columns + 5;
                const std::vector<int8_t> x = random_bytes(rows * k, 6);
                const std::vector<int8_t> w = random_bytes(k * stride, 7);
                const auto value = [&](int64_t t, int64_t j, bool int4) {
                    return int4 ? int4_at(w.data() + t * stride, j) : w[t * stride + j];
                };
                Packed tile(rows * igemm::row_bytes(kernels, k));
                Packed panel(igemm::panel_bytes(kernels, k));
                kernels.pack_tile(x.data(), k, rows, k, tile.data());
                kernels.pack_panel(w.data(), stride, k, panel.data());
                const Ahead ahead = {reinterpret_cast<const char*>(w.data()), 48, 2 * k + 1, 3};
                std::vector<int32_t> sums(static_cast<size_t>(rows * columns), 77);
                const auto check = [&](bool int4, int64_t times) {
                    for (int64_t r = 0; r < rows; ++r)
                        for (int64_t j = 0; j < columns; ++j) {
                            int64_t sum = 0;
                            for (int64_t t = 0; t < k; ++t) sum += int64_t{x[r * k + t]} * value(t, j, int4);
                            REQUIRE(sums[r * columns + j] == times * sum);
                        }
                };
                kernels.multiply(tile.data(), panel.data(), rows, k, false, sums.data(), ahead);
                check(false, 1);
                if (kernels.multiply_folded != nullptr) {
                    kernels.multiply_folded(tile.data(), panel.data(), rows, k, true, sums.data(), ahead);
                    check(false, 2);
                    kernels.multiply_folded(tile.data(), panel.data(), rows, k, false, sums.data(), ahead);
                    check(false, 1);
                }
                if (rows > kernels.stream_rows) continue;
                kernels.stream(tile.data(), w.data(), stride, rows, k, true, sums.data(), ahead);
                check(false, 2);
                kernels.stream_int4(tile.data(), w.data(), stride, rows, k, false, sums.data(), ahead);
                check(true, 1);
                kernels.stream_int4(tile.data(), w.data(), stride, rows, k, true, sums.data(), ahead);
                check(true, 2);
                kernels.stream(tile.data(), w.data(), stride, rows, k, false, sums.data(), ahead);
                check(false, 1);
            }
        }
    });
}

TEST_CASE("sums of pairs of panels of int4 in turn are exact") {
    for_each_table([&](const IgemmKernels& kernels) {
        if (kernels.stream_int4_in_turn == nullptr) return;
        for (int64_t rows = 1; rows <= kernels.stream_rows; ++rows) {
            for (const int64_t k : lengths) {
                for (const int64_t count : {1, 2, 5}) {
                    CAPTURE(rows);
                    CAPTURE(k);
                    CAPTURE(count);
                    const int64_t stride = columns + 3;
                    const std::vector<int8_t> x = random_bytes(rows * k, 21);
                    std::vector<std::vector<int8_t>> w;
                    for (int64_t p = 0; p < count; ++p)
                        w.push_back(random_bytes((k - 1) * stride + columns, 22 + static_cast<unsigned>(p)));
                    std::vector<const int8_t*> pairs;
                    std::vector<int64_t> panels;
                    for (const std::vector<int8_t>& pair : w) {
                        panels.push_back(3 * static_cast<int64_t>(pairs.size()) + 1);
                        pairs.push_back(pair.data());
                    }
                    Packed tile(rows * igemm::row_bytes(kernels, k));
                    kernels.pack_tile(x.data(), k, rows, k, tile.data());
                    const int64_t sums_stride = rows * columns + 16;
                    std::vector<int32_t> sums(static_cast<size_t>(3 * count * sums_stride), 77);
                    const PairsInTurn all = {pairs.data(), pairs.data(), panels.data(), count, stride, sums_stride};
                    for (const int64_t times : {1, 2}) {
                        kernels.stream_int4_in_turn(tile.data(), all, rows, k, times == 2, sums.data());
                        for (int64_t panel = 0; panel < 3 * count; ++panel) {
                            // The first of every three is none of a pair's.
                            const bool summed = panel % 3 > 0;
                            const int8_t* const first = pairs[panel / 3] + (panel % 3 - 1) * (columns / 2);
                            for (int64_t i = 0; summed && i < rows * columns; ++i) {
                                int64_t sum = 0;
                                for (int64_t t = 0; t < k; ++t)
                                    sum += int64_t{x[i / columns * k + t]} * int4_at(first + t * stride, i % columns);
                                REQUIRE(sums[panel * sums_stride + i] == times * sum);
                            }
                            for (int64_t i = summed ? rows * columns : 0; i < sums_stride; ++i)
                                REQUIRE(sums[panel * sums_stride + i] == 77);
                        }
                    }
                }
            }
        }
    });
}

TEST_CASE("sums of panels in turn are exact") {
    for_each_table([&](const IgemmKernels& kernels) {
        if (kernels.multiply_in_turn == nullptr) return;
        for (int64_t rows = 1; rows <= kernels.in_turn_rows; ++rows) {
            for (const int64_t k : lengths) {
                for (const int64_t count : {1, 2, 3, 8, 11}) {
                    CAPTURE(rows);
                    CAPTURE(k);
                    CAPTURE(count);
                    // The rows that the last step lacks hold anything.
                    const int64_t panel_rows = (k + kernels.k_step - 1) / kernels.k_step * kernels.k_step;
                    const std::vector<int8_t> x = random_bytes(rows * k, 8);
                    std::vector<std::vector<int8_t>> w;
                    std::vector<Packed> packed;
                    std::vector<const int8_t*> panels, packed_panels;
                    for (int64_t p = 0; p < count; ++p) {
                        w.push_back(random_bytes(panel_rows * columns, 9 + static_cast<unsigned>(p)));
                        packed.emplace_back(igemm::panel_bytes(kernels, k));
                        kernels.pack_panel(w.back().data(), columns, k, packed.back().data());
                    }
                    for (int64_t p = 0; p < count; ++p) {
                        panels.push_back(w[static_cast<size_t>(p)].data());
                        packed_panels.push_back(static_cast<const int8_t*>(packed[static_cast<size_t>(p)].data()));
                    }
                    Packed tile(rows * igemm::row_bytes(kernels, k));
                    kernels.pack_tile(x.data(), k, rows, k, tile.data());
                    const int64_t stride = rows * columns + 16;
                    for (const bool ready : {false, true}) {
                        CAPTURE(ready);
                        if (ready && kernels.item_size != 1) continue;
                        std::vector<int32_t> sums(static_cast<size_t>(count * stride), 77);
                        const PanelsInTurn all = {(ready ? packed_panels : panels).data(), panels.data(), count, ready,
                                                  stride};
                        kernels.multiply_in_turn(tile.data(), all, rows, k, sums.data());
                        for (int64_t p = 0; p < count; ++p) {
                            for (int64_t i = 0; i < rows * columns; ++i) {
                                int64_t sum = 0;
                                for (int64_t t = 0; t < k; ++t)
                                    sum += int64_t{x[i / columns * k + t]} * panels[p][t * columns + i % columns];
                                REQUIRE(sums[p * stride + i] == sum);
                            }
                            for (int64_t i = rows * columns; i < stride; ++i) REQUIRE(sums[p * stride + i] == 77);
                        }
                    }
                }
            }
        }
    });
}

TEST_CASE("the longest sums that cannot leave int32") {
    for_each_table([&](const IgemmKernels& kernels) {
        const int64_t k = igemm::exact_k;
        for (const int8_t value : {int8_t{-128}, int8_t{127}}) {
            const std::vector<int8_t> x(static_cast<size_t>(k), int8_t{-128});
            const std::vector<int8_t> w(static_cast<size_t>(k * columns), value);
            for (const int32_t sum : multiply(kernels, x, 1, w, k, k, columns)) REQUIRE(sum == -128 * value * k);
            if (kernels.stream_rows == 0) continue;
            Packed tile(igemm::row_bytes(kernels, k));
            kernels.pack_tile(x.data(), k, 1, k, tile.data());
            std::vector<int32_t> sums(columns);
            kernels.stream(tile.data(), w.data(), columns, 1, k, false, sums.data(), {});
            for (const int32_t sum : sums) REQUIRE(sum == -128 * value * k);
        }
    });
}

TEST_CASE("panels of bytes have the layout that the table names") {
    for_each_table([&](const IgemmKernels& kernels) {
        if (kernels.item_size != 1) {
            CHECK(kernels.layout == PanelLayout::rows);
            return;
        }
        const PanelOrder order = panel_order(kernels.layout);
        CHECK(order.step == kernels.k_step);
        const int64_t k = 19;
        const std::vector<int8_t> w = random_bytes(k * columns, 9);
        Packed panel(igemm::panel_bytes(kernels, k));
        REQUIRE(order.size(k) == igemm::panel_bytes(kernels, k));
        kernels.pack_panel(w.data(), columns, k, panel.data());
        for (int64_t t = 0; t < order.size(k) / columns; ++t)
            for (int64_t j = 0; j < columns; ++j) {
                int value = static_cast<const int8_t*>(panel.data())[order.place(t, j)];
                if (order.flipped) value = static_cast<uint8_t>(value) - 128;
                REQUIRE(value == (t < k ? w[t * columns + j] : 0));
            }
    });
}

TEST_CASE("a panel may be packed in pieces of 16 rows") {
    for_each_table([&](const IgemmKernels& kernels) {
        const int64_t k = 43;
        const std::vector<int8_t> w = random_bytes(k * columns, 3);
        Packed whole(igemm::panel_bytes(kernels, k));
        Packed pieces(igemm::panel_bytes(kernels, k));
        kernels.pack_panel(w.data(), columns, k, whole.data());
        for (int64_t t = 0; t < k; t += 16)
            kernels.pack_panel(w.data() + t * columns, columns, std::min<int64_t>(16, k - t),
                               static_cast<char*>(pieces.data()) + igemm::panel_bytes(kernels, t));
        CHECK(whole.memory == pieces.memory);
    });
}

TEST_CASE("int32 becomes float32 rounded to nearest even") {
    const int32_t source[] = {0,         1, -1, 16777217, 16777219, -16777217, 33554434, 33554438, INT32_MAX,
                              INT32_MIN, 7, 8,  9,        10,       11,        12,       13};
    for_each_table([&](const IgemmKernels& kernels) {
        float target[std::size(source)];
        kernels.to_float(source, target, std::size(source));
        for (size_t i = 0; i < std::size(source); ++i)
            CHECK(target[i] == static_cast<float>(static_cast<double>(source[i])));
        CHECK(target[3] == 16777216.0f);
        CHECK(target[4] == 16777220.0f);
    });
}

TEST_CASE("scaled sums round the conversion, the product and the sum") {
    constexpr int64_t rows = 3;
    std::mt19937 engine(8);
    std::normal_distribution<float> normal;
    std::vector<int32_t> sums(rows * columns);
    std::vector<float> scale(columns), start(rows * columns);
    for (int32_t& sum : sums) sum = static_cast<int32_t>(engine());
    for (float& value : scale) value = normal(engine);
    for (float& value : start) value = normal(engine) * 1e9f;
    for_each_table([&](const IgemmKernels& kernels) {
        for (const bool accumulate : {false, true}) {
            std::vector<float> totals = start;
            kernels.add_scaled(sums.data(), rows, scale.data(), accumulate, totals.data());
            for (size_t i = 0; i < totals.size(); ++i) {
                const volatile float product = static_cast<float>(sums[i]) * scale[i % columns];
                CHECK(totals[i] == (accumulate ? start[i] + product : product));
            }
        }
    });
}

TEST_CASE("floating-point loops round every operation, in order") {
    std::mt19937 engine(4);
    std::normal_distribution<float> normal;
    const auto random = [&](size_t n) {
        std::vector<float> values(n);
        for (float& value : values) value = normal(engine);
        return values;
    };
    constexpr int64_t rows = 5;
    constexpr int64_t stride = 70;
    const std::vector<float> values = random(rows * columns);
    const std::vector<float> scale = random(columns), bias = random(columns), factor = random(rows),
                             weight = random(rows);
    const std::vector<float> start = random(4 * stride);
    const int64_t target[rows] = {2, 0, -1, 2, 3};
    for_each_table([&](const IgemmKernels& kernels) {
        std::vector<float> dequantised = values;
        kernels.dequantise(dequantised.data(), rows, scale.data(), factor.data());
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t j = 0; j < columns; ++j) {
                const volatile float product = values[r * columns + j] * scale[j];
                CHECK(dequantised[r * columns + j] == product * factor[r]);
            }
        for (const int64_t width : {int64_t{1}, int64_t{31}, columns}) {
            for (int given = 0; given < 8; ++given) {
                std::vector<float> seen = start;
                std::vector<float> needed = start;
                kernels.combine(values.data(), rows, width, scale.data(), given & 1 ? bias.data() : nullptr,
                                given & 2 ? factor.data() : nullptr, given & 4 ? weight.data() : nullptr, target,
                                seen.data() + 3, stride);
                for (int64_t r = 0; r < rows; ++r) {
                    if (target[r] < 0) continue;
                    for (int64_t j = 0; j < width; ++j) {
                        volatile float v = values[r * columns + j] * scale[j];
                        v = v * (given & 2 ? factor[r] : 1.0f);
                        if (given & 1) v = v + bias[j];
                        v = v * (given & 4 ? weight[r] : 1.0f);
                        needed[target[r] * stride + 3 + j] += v;
                    }
                }
                CHECK(std::memcmp(seen.data(), needed.data(), seen.size() * sizeof(float)) == 0);
            }
        }
    });
}
