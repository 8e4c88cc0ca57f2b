// The float matrix products in terms of vectors. Included by one file per instruction set, which defines before, in
// an anonymous namespace of moe, a struct Vector with: Type, lanes, tile_rows, tile_vectors, fused; load, store,
// broadcast(const float*), multiply_add(a, w, c); add, multiply, round_f16, round_bf16; from_f16, from_bf16, from_s8
// (pointers to `lanes` values). And MOE_FGEMM_TABLE.
#include <algorithm>
#include <cstring>

#include "kernels/fgemm/fgemm_tile.h"

namespace moe {
namespace {

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

// `width`: of the panel, in vectors. They are `vectors` when that is not 0, known to the compiler.
template <class Kind, int vectors>
inline void pack_whole_vectors(const WeightBlock& block, int64_t width, float* packed) {
    const auto* weights = static_cast<const typename Kind::Stored*>(block.data);
    const int64_t whole = vectors > 0 ? vectors : block.columns / lanes;
    for (int64_t p = 0; p < block.k; ++p)
        for (int64_t v = 0; v < whole; ++v)
            Vector::store(packed + (p * width + v) * lanes,
                          Kind::load(weights + p * block.stride + v * lanes, block, v * lanes));
}

template <class Kind>
void pack(const WeightBlock& block, void* panel) {
    auto* packed = static_cast<float*>(panel);
    if (block.columns == tile_columns) return pack_whole_vectors<Kind, tile_vectors>(block, tile_vectors, packed);
    const int64_t width = (block.columns + lanes - 1) / lanes;
    pack_whole_vectors<Kind, 0>(block, width, packed);
    const int64_t whole = block.columns / lanes * lanes;
    if (whole == block.columns) return;
    const auto* weights = static_cast<const typename Kind::Stored*>(block.data) + whole;
    Rest<Kind> rest(block, whole);
    for (int64_t p = 0; p < block.k; ++p) {
        float values[lanes];
        Vector::store(values, rest.load(weights + p * block.stride));
        // Not what dequantisation makes of the columns that are not there.
        std::fill(values + rest.columns, values + lanes, 0.0f);
        std::memcpy(packed + p * width * lanes + whole, values, sizeof values);
    }
}

// c[i][0 .. vectors) += a[i] * w over `count` rows of weights from column j on, i < rows; `fetch(p)` prefetches some.
template <class Kind, int rows, int vectors, class Fetch>
inline void add_columns(const WeightBlock& block, const typename Kind::Stored* w, int64_t j, int64_t count,
                        const float* a, float* c, int64_t c_stride, Fetch&& fetch) {
    Lanes sum[rows][vectors];
    for (int i = 0; i < rows; ++i)
        for (int v = 0; v < vectors; ++v) sum[i][v] = Vector::load(c + i * c_stride + j + v * lanes);
    for (int64_t p = 0; p < count; ++p) {
        fetch(p);
        for (int v = 0; v < vectors; ++v) {
            const Lanes weights = Kind::load(w + p * block.stride + j + v * lanes, block, j + v * lanes);
            for (int i = 0; i < rows; ++i)
                sum[i][v] = Vector::multiply_add(Vector::broadcast(a + i * fgemm_row_stride + p), weights, sum[i][v]);
        }
    }
    for (int i = 0; i < rows; ++i)
        for (int v = 0; v < vectors; ++v) Vector::store(c + i * c_stride + j + v * lanes, sum[i][v]);
}

constexpr auto fetch_nothing = [](int64_t) {};

template <class Kind>
constexpr int line_vectors = line_bytes / (lanes * static_cast<int>(sizeof(typename Kind::Stored)));

template <class Kind, int rows>
inline void add_eight_rows(const WeightBlock& block, const typename Kind::Stored* w, const RowsAhead& ahead,
                           const float* a, float* c, int64_t c_stride) {
    constexpr int vectors = line_vectors<Kind>;
    constexpr int64_t step = vectors * lanes;
    const int64_t whole = block.columns / step * step;
    for_each_stretch(w, block.stride, ahead, whole, [&](int64_t j, int64_t end, const auto* fetched, int64_t apart) {
        for (; j < end; j += step)
            add_columns<Kind, rows, vectors>(block, w, j, rows_at_once, a, c, c_stride,
                                             [&](int64_t p) { fetch_line(fetched + p * apart + j); });
    });
    for (int64_t j = whole; j + lanes <= block.columns; j += lanes)
        add_columns<Kind, rows, 1>(block, w, j, rows_at_once, a, c, c_stride, fetch_nothing);
}

template <class Kind>
void stream(const WeightBlock& block, int64_t rows, const void* rows_of_a, float* c, int64_t c_stride) {
    const auto* weights = static_cast<const typename Kind::Stored*>(block.data);
    const auto* a = static_cast<const float*>(rows_of_a);
    const int64_t row_bytes = block.stride * static_cast<int64_t>(sizeof *weights);
    const int64_t whole = block.columns / lanes * lanes;
    for_each_group<rows_together(line_vectors<Kind>)>(rows, [&](int64_t first, auto count) {
        const float* own = a + first * fgemm_row_stride;
        float* sums = c + first * c_stride;
        const int64_t eights = for_each_eight_rows(block, row_bytes, [&](int64_t p, const RowsAhead& ahead) {
            add_eight_rows<Kind, count>(block, weights + p * block.stride, ahead, own + p, sums, c_stride);
        });
        for (int64_t j = 0; j < whole && eights < block.k; j += lanes)
            add_columns<Kind, count, 1>(block, weights + eights * block.stride, j, block.k - eights, own + eights, sums,
                                        c_stride, fetch_nothing);
    });
    if (whole == block.columns) return;
    Rest<Kind> rest(block, whole);
    for (int64_t i = 0; i < rows; ++i, a += fgemm_row_stride, c += c_stride) {
        float last[lanes] = {};
        std::memcpy(last, c + whole, static_cast<size_t>(rest.columns) * sizeof(float));
        Lanes sum = Vector::load(last);
        for (int64_t p = 0; p < block.k; ++p)
            sum = Vector::multiply_add(Vector::broadcast(a + p), rest.load(weights + p * block.stride + whole), sum);
        Vector::store(last, sum);
        std::memcpy(c + whole, last, static_cast<size_t>(rest.columns) * sizeof(float));
    }
}

}  // namespace

extern const FgemmKernels MOE_FGEMM_TABLE;
const FgemmKernels MOE_FGEMM_TABLE = {
    Vector::fused,
    false,
    Vector::tile_rows,
    tile_columns,
    lanes,
    float_layout<tile_columns>(),
    {rows_together(line_vectors<F32>), rows_together(line_vectors<F16>), rows_together(line_vectors<Bf16>),
     rows_together(line_vectors<S8F16>), rows_together(line_vectors<S8Bf16>)},
    {pack<F32>, pack<F16>, pack<Bf16>, pack<S8F16>, pack<S8Bf16>},
    {stream<F32>, stream<F16>, stream<Bf16>, stream<S8F16>, stream<S8Bf16>},
    tile<F32>,
    {tile<F32>, tile<F16>, tile<Bf16>, nullptr, nullptr}};

}  // namespace moe
