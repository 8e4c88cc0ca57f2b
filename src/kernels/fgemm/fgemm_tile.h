// The tile of the float matrix products in terms of vectors of words. Included by one file per instruction set, which
// defines before, in an anonymous namespace of moe, a struct Vector with: Type, lanes, tile_rows, tile_vectors; load,
// store, broadcast(const float*), multiply_add(a, w, c). Words are float32 or, where multiply_add takes them so, pairs of
// bfloat16.
#include <algorithm>
#include <type_traits>
#include <utility>

namespace moe {
namespace {

using Lanes = Vector::Type;
constexpr int lanes = Vector::lanes;
constexpr int tile_vectors = Vector::tile_vectors;
constexpr int tile_columns = lanes * tile_vectors;
static_assert(Vector::tile_rows <= fgemm_max_rows && tile_columns <= fgemm_max_columns);

// Stored weights to float32 vectors, `j` is the column: here those that are stored as the words of a tile.
struct F32 {
    using Stored = float;
    static Lanes load(const Stored* w, const WeightBlock&, int64_t) { return Vector::load(w); }
};

// Rows of a are streamed past this many rows of weights at a time, a cache line of each, while others are on their way:
// memory is fastest with several streams and no bursts, and the processor's own prefetching starts anew in every page.
constexpr int rows_at_once = 8;
constexpr int line_bytes = 64;
// Half as many make some processors read at three quarters of their rate.
constexpr int64_t lines_ahead = 16;

inline void fetch_line(const void* line) {
    __builtin_prefetch(line, 0, 3);
}

// Eight rows of weights to prefetch while others are multiplied: `first` counts from the first of those.
struct RowsAhead {
    bool follow;
    int64_t first;
    int64_t apart;
};

// Calls visit(p, ahead) for rows p = 0, 8, ... of a block as long as there are eight, and returns how many these are.
// Rows ahead lie a page apart: streams in one page disturb the processor's own prefetching.
template <class Visit>
inline int64_t for_each_eight_rows(const WeightBlock& block, int64_t row_bytes, Visit&& visit) {
    constexpr int64_t page_bytes = 4096;
    int64_t apart = 1;
    while (apart < rows_at_once && apart * row_bytes < page_bytes) apart *= 2;
    int64_t p = 0;
    while (p + rows_at_once <= block.k) {
        if (p + rows_at_once * apart > block.k) apart = 1;
        const int64_t rows = rows_at_once * apart;
        const bool follow = p + 2 * rows <= block.k + block.rows_behind;
        for (int64_t i = 0; i < apart; ++i, p += rows_at_once)
            visit(p, RowsAhead{follow, rows - (rows_at_once - 1) * i, apart});
    }
    return p;
}

// Cuts the columns of eight rows into stretches and calls visit(begin, end, fetched, apart) for each: with column j,
// lines at fetched + p * apart + j are to be prefetched, 0 <= p < 8. Rows that are a page apart themselves are
// prefetched some lines ahead, and the next eight during the last columns. Where no rows follow, the lines are those
// that are read anyway.
template <class T, class Visit>
inline void for_each_stretch(const T* w, int64_t stride, const RowsAhead& ahead, int64_t columns, Visit&& visit) {
    constexpr int64_t line = line_bytes / static_cast<int64_t>(sizeof *w);
    const int64_t within = ahead.apart == 1 ? std::max<int64_t>(0, columns / line - lines_ahead) * line : 0;
    if (within > 0) visit(0, within, w + lines_ahead * line, stride);
    if (ahead.follow)
        visit(within, columns, w + ahead.first * stride - within, ahead.apart * stride);
    else
        visit(within, columns, w, stride);
}

void fetch(FgemmAhead& ahead) {
    ahead.due += ahead.count;
    while (ahead.rows > 0) {
        const int64_t rows = std::min<int64_t>(rows_at_once, ahead.rows);
        if (ahead.due < rows) return;
        ahead.due -= rows;
        for (int64_t i = 0; i < rows; ++i) __builtin_prefetch(ahead.line + i * ahead.stride, 0, 2);
        ahead.line += line_bytes;
        if (++ahead.done < ahead.row_lines) continue;
        ahead.done = 0;
        ahead.line += rows_at_once * ahead.stride - ahead.row_lines * line_bytes;
        ahead.rows -= rows_at_once;
    }
}

// Rows of a that are streamed together past lines of `vectors` vectors of weights: no more sums than a tile has.
constexpr int rows_together(int vectors) {
    return std::clamp(Vector::tile_rows * tile_vectors / vectors, 1, fgemm_max_stream_rows);
}

// Calls visit(i, count) for `rows` rows in as few groups as may be; count, at most `most`, is known to the compiler.
template <int most, class Visit>
inline void for_each_group(int64_t rows, Visit&& visit, int64_t first = 0) {
    for (; rows - first >= most; first += most) visit(first, std::integral_constant<int, most>());
    if constexpr (most > 1) for_each_group<most - 1>(rows, visit, first);
}

// Indices as template arguments and not as loops: GCC keeps arrays that it indexes in a loop in memory as well.
template <class Kind, int... row, int... vector>
inline void tile_of(std::integer_sequence<int, row...>, std::integer_sequence<int, vector...>, int64_t words,
                    const float* a, const typename Kind::Stored* panel, float* c, int64_t c_stride, bool fresh,
                    FgemmAhead& ahead) {
    constexpr int vectors = sizeof...(vector);
    Lanes sum[sizeof...(row)][vectors] = {};
    if (!fresh) {
        const float* at = c;
        const auto load = [&](Lanes(&own)[vectors]) {
            ((own[vector] = Vector::load(at + vector * lanes)), ...);
            at += c_stride;
        };
        (load(sum[row]), ...);
    }
    for (int64_t begin = 0; begin < words; begin += fgemm_unit) {
        fetch(ahead);
        const int64_t end = std::min(begin + fgemm_unit, words);
        for (int64_t p = begin; p < end; ++p) {
            const Lanes w[] = {Kind::load(panel + (p * vectors + vector) * lanes, WeightBlock(), 0)...};
            const auto add = [&](int i, Lanes(&own)[vectors]) {
                const Lanes factor = Vector::broadcast(a + i * fgemm_row_stride + p);
                ((own[vector] = Vector::multiply_add(factor, w[vector], own[vector])), ...);
            };
            (add(row, sum[row]), ...);
        }
    }
    const auto store = [&](const Lanes(&own)[vectors]) {
        (Vector::store(c + vector * lanes, own[vector]), ...);
        c += c_stride;
    };
    (store(sum[row]), ...);
}

template <class Kind, int rows, int vectors>
void tile_up_to(int64_t wanted_rows, int64_t wanted_vectors, int64_t words, const float* a,
                const typename Kind::Stored* panel, float* c, int64_t c_stride, bool fresh, FgemmAhead& ahead) {
    if constexpr (vectors > 1)
        if (wanted_vectors < vectors)
            return tile_up_to<Kind, rows, vectors - 1>(wanted_rows, wanted_vectors, words, a, panel, c, c_stride, fresh,
                                                       ahead);
    if constexpr (rows > 1)
        if (wanted_rows < rows)
            return tile_up_to<Kind, rows - 1, vectors>(wanted_rows, wanted_vectors, words, a, panel, c, c_stride, fresh,
                                                       ahead);
    tile_of<Kind>(std::make_integer_sequence<int, rows>(), std::make_integer_sequence<int, vectors>(), words, a, panel,
                  c, c_stride, fresh, ahead);
}

template <class Kind>
void tile(int64_t rows, int64_t columns, int64_t words, const void* a, const void* panel, float* c, int64_t c_stride,
          bool fresh, FgemmAhead* ahead) {
    tile_up_to<Kind, Vector::tile_rows, tile_vectors>(
        rows, (columns + lanes - 1) / lanes, words, static_cast<const float*>(a),
        static_cast<const typename Kind::Stored*>(panel), c, c_stride, fresh, *ahead);
}

}  // namespace
}  // namespace moe
