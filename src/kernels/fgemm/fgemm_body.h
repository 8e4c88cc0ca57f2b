// The float matrix products in terms of vectors. Included by one file per instruction set, which defines before, in
// an anonymous namespace of moe, a struct Vector with: Type, lanes, tile_rows, tile_vectors, fused; load, store,
// broadcast(const float*), multiply_add(a, w, c); add, multiply, round_f16, round_bf16; from_f16, from_bf16, from_s8
// (pointers to `lanes` values). And MOE_FGEMM_TABLE.
#include <cstring>

namespace moe {
namespace {

using Lanes = Vector::Type;
constexpr int lanes = Vector::lanes;
constexpr int tile_vectors = Vector::tile_vectors;
constexpr int tile_columns = lanes * tile_vectors;
// Rows of weights that are added to an accumulator while it is in a register.
constexpr int rows_at_once = 8;

// Stored weights to float32 vectors. `j` is the column.
struct F32 {
    using Stored = float;
    static Lanes load(const Stored* w, const WeightBlock&, int64_t) { return Vector::load(w); }
};
struct F16 {
    using Stored = uint16_t;
    static Lanes load(const Stored* w, const WeightBlock&, int64_t) { return Vector::from_f16(w); }
};
struct Bf16 {
    using Stored = uint16_t;
    static Lanes load(const Stored* w, const WeightBlock&, int64_t) { return Vector::from_bf16(w); }
};
struct S8F16 {
    using Stored = int8_t;
    static Lanes load(const Stored* w, const WeightBlock& block, int64_t j) {
        const Lanes sum = Vector::round_f16(Vector::add(Vector::from_s8(w), Vector::load(block.offset + j)));
        return Vector::round_f16(Vector::multiply(sum, Vector::load(block.scale + j)));
    }
};
struct S8Bf16 {
    using Stored = int8_t;
    static Lanes load(const Stored* w, const WeightBlock& block, int64_t j) {
        const Lanes sum = Vector::add(Vector::from_s8(w), Vector::load(block.offset + j));
        return Vector::round_bf16(Vector::multiply(sum, Vector::load(block.scale + j)));
    }
};

// The last columns of a block, fewer than a vector holds: the weights, scales and offsets of one row, padded.
template <class Kind>
struct Rest {
    typename Kind::Stored weights[lanes] = {};
    float scale[lanes] = {};
    float offset[lanes] = {};
    WeightBlock block;
    int64_t columns;

    Rest(const WeightBlock& whole, int64_t begin) : block(whole), columns(whole.columns - begin) {
        block.scale = scale;
        block.offset = offset;
        if (whole.scale == nullptr) return;
        std::memcpy(scale, whole.scale + begin, static_cast<size_t>(columns) * sizeof(float));
        std::memcpy(offset, whole.offset + begin, static_cast<size_t>(columns) * sizeof(float));
    }
    Lanes load(const typename Kind::Stored* w) {
        std::memcpy(weights, w, static_cast<size_t>(columns) * sizeof *weights);
        return Kind::load(weights, block, 0);
    }
};

template <class Kind>
void pack(const WeightBlock& block, float* packed, int64_t panel_stride) {
    const int64_t whole = block.columns / lanes * lanes;
    const int64_t padded = (block.columns + tile_columns - 1) / tile_columns * tile_columns;
    const auto place = [&](int64_t p, int64_t j) {
        return packed + j / tile_columns * panel_stride + p * tile_columns + j % tile_columns;
    };
    const auto* weights = static_cast<const typename Kind::Stored*>(block.data);
    // Along a row first: the weights come from memory, the panels go to the cache.
    for (int64_t p = 0; p < block.k; ++p)
        for (int64_t j = 0; j < whole; j += lanes)
            Vector::store(place(p, j), Kind::load(weights + p * block.stride + j, block, j));
    if (whole == padded) return;
    for (int64_t p = 0; p < block.k; ++p)
        for (int64_t j = whole; j < padded; ++j) *place(p, j) = 0.0f;
    if (whole == block.columns) return;
    Rest<Kind> rest(block, whole);
    float values[lanes];
    for (int64_t p = 0; p < block.k; ++p) {
        Vector::store(values, rest.load(weights + p * block.stride + whole));
        std::memcpy(place(p, whole), values, static_cast<size_t>(rest.columns) * sizeof(float));
    }
}

// c[0 .. vectors) += a * w over `rows` rows; `load(p, v)` yields a vector of weights.
template <int vectors, class Load>
inline void add_rows(int64_t rows, const float* a, float* c, Load&& load) {
    Lanes sum[vectors];
    for (int v = 0; v < vectors; ++v) sum[v] = Vector::load(c + v * lanes);
    for (int64_t p = 0; p < rows; ++p) {
        const Lanes factor = Vector::broadcast(a + p);
        for (int v = 0; v < vectors; ++v) sum[v] = Vector::multiply_add(factor, load(p, v), sum[v]);
    }
    for (int v = 0; v < vectors; ++v) Vector::store(c + v * lanes, sum[v]);
}

template <class Kind, int rows>
inline void add_whole_vectors(const WeightBlock& block, const typename Kind::Stored* w, const float* a, float* c) {
    int64_t j = 0;
    for (; j + tile_columns <= block.columns; j += tile_columns)
        add_rows<tile_vectors>(rows, a, c + j, [&](int64_t p, int v) {
            return Kind::load(w + p * block.stride + j + v * lanes, block, j + v * lanes);
        });
    for (; j + lanes <= block.columns; j += lanes)
        add_rows<1>(rows, a, c + j, [&](int64_t p, int) { return Kind::load(w + p * block.stride + j, block, j); });
}

template <class Kind>
void row(const WeightBlock& block, const float* a, float* c) {
    const auto* weights = static_cast<const typename Kind::Stored*>(block.data);
    int64_t p = 0;
    for (; p + rows_at_once <= block.k; p += rows_at_once)
        add_whole_vectors<Kind, rows_at_once>(block, weights + p * block.stride, a + p, c);
    for (; p < block.k; ++p) add_whole_vectors<Kind, 1>(block, weights + p * block.stride, a + p, c);

    const int64_t whole = block.columns / lanes * lanes;
    if (whole == block.columns) return;
    Rest<Kind> rest(block, whole);
    float sum[lanes] = {};
    std::memcpy(sum, c + whole, static_cast<size_t>(rest.columns) * sizeof(float));
    add_rows<1>(block.k, a, sum, [&](int64_t q, int) { return rest.load(weights + q * block.stride + whole); });
    std::memcpy(c + whole, sum, static_cast<size_t>(rest.columns) * sizeof(float));
}

template <int rows>
void tile_of(int64_t k, const float* a, int64_t a_stride, const float* panel, float* c, int64_t c_stride) {
    Lanes sum[rows][tile_vectors];
    for (int i = 0; i < rows; ++i)
        for (int v = 0; v < tile_vectors; ++v) sum[i][v] = Vector::load(c + i * c_stride + v * lanes);
    for (int64_t p = 0; p < k; ++p) {
        Lanes w[tile_vectors];
        for (int v = 0; v < tile_vectors; ++v) w[v] = Vector::load(panel + p * tile_columns + v * lanes);
        for (int i = 0; i < rows; ++i) {
            const Lanes factor = Vector::broadcast(a + i * a_stride + p);
            for (int v = 0; v < tile_vectors; ++v) sum[i][v] = Vector::multiply_add(factor, w[v], sum[i][v]);
        }
    }
    for (int i = 0; i < rows; ++i)
        for (int v = 0; v < tile_vectors; ++v) Vector::store(c + i * c_stride + v * lanes, sum[i][v]);
}

template <int rows>
void tile_up_to(int64_t wanted, int64_t k, const float* a, int64_t a_stride, const float* panel, float* c,
                int64_t c_stride) {
    if (wanted == rows) return tile_of<rows>(k, a, a_stride, panel, c, c_stride);
    if constexpr (rows > 1) tile_up_to<rows - 1>(wanted, k, a, a_stride, panel, c, c_stride);
}

void tile(int64_t rows, int64_t k, const float* a, int64_t a_stride, const float* panel, float* c, int64_t c_stride) {
    tile_up_to<Vector::tile_rows>(rows, k, a, a_stride, panel, c, c_stride);
}

static_assert(Vector::tile_rows <= fgemm_max_rows && tile_columns <= fgemm_max_columns);

}  // namespace

extern const FgemmKernels MOE_FGEMM_TABLE;
const FgemmKernels MOE_FGEMM_TABLE = {Vector::fused,
                                      Vector::tile_rows,
                                      tile_columns,
                                      {pack<F32>, pack<F16>, pack<Bf16>, pack<S8F16>, pack<S8Bf16>},
                                      {row<F32>, row<F16>, row<Bf16>, row<S8F16>, row<S8Bf16>},
                                      tile};

}  // namespace moe
