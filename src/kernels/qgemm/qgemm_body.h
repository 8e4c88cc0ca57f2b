// The int8 matrix products in terms of vectors of int32 sums. Included by one file per instruction set, which defines
// before, in an anonymous namespace of moe, a struct Vector with: Type, lanes, tile_rows, tile_vectors; load, store;
// pair(const int16_t*), two values in every lane; dot(c, a, w), which adds to each lane the two products of its int16
// pairs. And MOE_QGEMM_TABLE.
//
// Packed operands are int16, with the values of an even and the following odd p side by side: what such a dot product
// wants. The sum of two products of int8 values always fits int32.
#include <cstring>

namespace moe {
namespace {

using Lanes = Vector::Type;
constexpr int lanes = Vector::lanes;
constexpr int tile_vectors = Vector::tile_vectors;
constexpr int tile_columns = lanes * tile_vectors;

int64_t pairs_of(int64_t k) {
    return (k + 1) / 2;
}

int64_t row_size(int64_t k) {
    return (pairs_of(k) * 4 + 63) / 64 * 64;
}

int64_t panel_size(int64_t k) {
    return (pairs_of(k) * tile_columns * 4 + 63) / 64 * 64;
}

void pack_row(const int8_t* a, int64_t k, void* packed) {
    auto* target = static_cast<int16_t*>(packed);
    for (int64_t p = 0; p < k; ++p) target[p] = a[p];
    if (k % 2 != 0) target[k] = 0;
}

void interleave(const int8_t* even, const int8_t* odd, int16_t* target) {
    for (int j = 0; j < tile_columns; ++j) {
        target[2 * j] = even[j];
        target[2 * j + 1] = odd[j];
    }
}

void pack(const int8_t* w, int64_t stride, int64_t k, int64_t columns, void* panels) {
    static constexpr int8_t zeros[tile_columns] = {};
    // Along a row first: the weights come from memory, the panels go to the cache.
    for (int64_t p = 0; p < k; p += 2) {
        auto* target = reinterpret_cast<int16_t*>(static_cast<char*>(panels) + p * tile_columns * 2);
        for (int64_t j = 0; j < columns; j += tile_columns, target += panel_size(k) / 2) {
            const int8_t* even = w + p * stride + j;
            const int8_t* odd = p + 1 < k ? even + stride : zeros;
            if (columns - j >= tile_columns) {
                interleave(even, odd, target);
                continue;
            }
            const auto rest = static_cast<size_t>(columns - j);
            int8_t even_rest[tile_columns] = {};
            int8_t odd_rest[tile_columns] = {};
            std::memcpy(even_rest, even, rest);
            std::memcpy(odd_rest, odd, rest);
            interleave(even_rest, odd_rest, target);
        }
    }
}

template <int rows>
void tile_of(int64_t k, const int16_t* a, const int16_t* panel, int32_t* c, int64_t c_stride) {
    const int64_t a_stride = row_size(k) / 2;
    Lanes sum[rows][tile_vectors];
    for (int i = 0; i < rows; ++i)
        for (int v = 0; v < tile_vectors; ++v) sum[i][v] = Vector::load(c + i * c_stride + v * lanes);
    for (int64_t p = 0; p < pairs_of(k); ++p) {
        Lanes w[tile_vectors];
        for (int v = 0; v < tile_vectors; ++v)
            w[v] = Vector::load(reinterpret_cast<const int32_t*>(panel) + p * tile_columns + v * lanes);
        for (int i = 0; i < rows; ++i) {
            const Lanes pair = Vector::pair(a + i * a_stride + 2 * p);
            for (int v = 0; v < tile_vectors; ++v) sum[i][v] = Vector::dot(sum[i][v], pair, w[v]);
        }
    }
    for (int i = 0; i < rows; ++i)
        for (int v = 0; v < tile_vectors; ++v) Vector::store(c + i * c_stride + v * lanes, sum[i][v]);
}

template <int rows>
void tile_up_to(int64_t wanted, int64_t k, const int16_t* a, const int16_t* panel, int32_t* c, int64_t c_stride) {
    if (wanted == rows) return tile_of<rows>(k, a, panel, c, c_stride);
    if constexpr (rows > 1) tile_up_to<rows - 1>(wanted, k, a, panel, c, c_stride);
}

void tile(int64_t rows, int64_t k, const void* packed_rows, const void* panel, int32_t* c, int64_t c_stride) {
    tile_up_to<Vector::tile_rows>(rows, k, static_cast<const int16_t*>(packed_rows), static_cast<const int16_t*>(panel),
                                  c, c_stride);
}

void row(const int8_t* w, int64_t stride, int64_t k, int64_t columns, const int8_t* a, int32_t* c) {
    int64_t p = 0;
    for (; p + 4 <= k; p += 4) {
        const int8_t* w0 = w + p * stride;
        const int8_t* w1 = w0 + stride;
        const int8_t* w2 = w1 + stride;
        const int8_t* w3 = w2 + stride;
        const int32_t a0 = a[p], a1 = a[p + 1], a2 = a[p + 2], a3 = a[p + 3];
        for (int64_t j = 0; j < columns; ++j) c[j] += a0 * w0[j] + a1 * w1[j] + a2 * w2[j] + a3 * w3[j];
    }
    for (; p < k; ++p)
        for (int64_t j = 0; j < columns; ++j) c[j] += int32_t{a[p]} * w[p * stride + j];
}

// The sum of two int32 is exact in float64, so that float32 rounds it once.
void dequantise(const int32_t* c, const int32_t* bias, const float* scale, float* out, int64_t n) {
    if (bias == nullptr) {
        for (int64_t j = 0; j < n; ++j) out[j] = static_cast<float>(c[j]) * scale[j];
        return;
    }
    for (int64_t j = 0; j < n; ++j)
        out[j] = static_cast<float>(static_cast<double>(c[j]) + static_cast<double>(bias[j])) * scale[j];
}

static_assert(Vector::tile_rows <= qgemm_max_rows && tile_columns <= qgemm_max_columns);

}  // namespace

extern const QgemmKernels MOE_QGEMM_TABLE;
const QgemmKernels MOE_QGEMM_TABLE = {
    Vector::tile_rows, tile_columns, row_size, panel_size, pack_row, pack, tile, row, dequantise,
};

}  // namespace moe
