// How the products of npu_ffn are cut into blocks, and the blocks dealt out to threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/divide.h"
#include "core/threads.h"

namespace moe {

// Rows of x of one expert, and columns of a product.
struct FfnBlock {
    int64_t expert;
    int64_t row;
    int64_t rows;
    int64_t column;
    int64_t columns;
};

// Rows that share one pass over packed weights: enough to make packing cheap, few enough for the sums to stay in the
// second-level cache.
constexpr int64_t ffn_block_rows = 256;
// Columns of a block whose weights are packed, and rows of weights of int8 packed at a time: 128 KiB of them. Fewer rows
// would have sums loaded and stored more often.
constexpr int64_t ffn_block_columns = 512;
constexpr int64_t ffn_block_k = 256;

// Blocks of few rows, whose weights are streamed instead.
struct FfnStream {
    int64_t rows;     // at most
    int64_t columns;  // of the widest block, a multiple of 64
};

// Columns of the widest block of products of `columns`.
inline int64_t ffn_widest_block(const FfnStream& stream, int64_t columns) {
    constexpr int64_t whole_panels = 64;
    const int64_t padded = ceil_divide(std::min(columns, stream.columns), whole_panels) * whole_panels;
    return std::max(ffn_block_columns, padded);
}

// Sums that a thread must have room for; `widest` as ffn_widest_block says.
inline int64_t ffn_block_sums(int64_t rows, const FfnStream& stream, int64_t widest) {
    return std::max(std::min(rows, ffn_block_rows) * ffn_block_columns, std::min(rows, stream.rows) * widest);
}

// Cuts n into as few parts of at most `most` as there may be, evenly up to multiples of `unit`: the size of all but the
// last.
inline int64_t even_part(int64_t n, int64_t most, int64_t unit) {
    const int64_t parts = std::max<int64_t>(1, ceil_divide(n, most));
    return ceil_divide(ceil_divide(n, parts), unit) * unit;
}

// The rows of each expert, cut into as few parts of at most ffn_block_rows as there may be. `ends` as read_expert_tokens
// leaves them.
struct FfnRows {
    const int64_t* ends;
    int64_t experts;

    // Calls visit(expert, row, rows) for the parts that begin in [first, last).
    template <class Visit>
    void for_each_part(int64_t first, int64_t last, Visit&& visit) const {
        for (int64_t e = 0, start = 0; e < experts && start < last; start = ends[e], ++e) {
            const int64_t rows = ends[e] - start;
            const int64_t parts = ceil_divide(rows, ffn_block_rows);
            for (int64_t p = 0; p < parts; ++p) {
                const int64_t row = start + rows / parts * p + std::min(p, rows % parts);
                if (row >= first && row < last) visit(e, row, rows / parts + (p < rows % parts ? 1 : 0));
            }
        }
    }

    // Calls body(first, last) for ranges of whole parts, of at most `most` >= ffn_block_rows rows, that cover all rows.
    template <class Body>
    void for_each_batch(int64_t most, Body&& body) const {
        const int64_t end = ends[experts - 1];
        int64_t first = 0;
        for_each_part(0, end, [&](int64_t, int64_t row, int64_t rows) {
            if (row + rows - first <= most) return;
            body(first, row);
            first = row;
        });
        if (first < end) body(first, end);
    }
};

// Rows that both products take before the next ones: what lies between the products stays in a cache, and takes no more
// memory than this for each thread.
inline int64_t ffn_batch_rows(int64_t rows, int64_t row_bytes, int64_t threads) {
    constexpr int64_t hidden_bytes = 4 * 1024 * 1024;
    return std::min(rows, std::max(ffn_block_rows, threads * hidden_bytes / std::max<int64_t>(1, row_bytes)));
}

// Calls body(thread, block) for blocks that cover the rows [first, last) and `columns` columns. Cuts columns at multiples
// of `panel`; blocks that are streamed are wide. Each thread gets one run of (expert, rows, panel) whose rows, and with
// them operations, are as many as everyone's; `k` is the length of the sums.
template <class Body>
void for_each_ffn_block(int threads, const FfnRows& all, int64_t first, int64_t last, int64_t columns, int64_t k,
                        int64_t panel, const FfnStream& stream, Body&& body) {
    // Converting the weights of a panel costs about as much as this many rows do.
    constexpr int64_t panel_cost = 8;
    const int64_t panels = ceil_divide(columns, panel);
    int64_t total = 0;
    all.for_each_part(first, last, [&](int64_t, int64_t, int64_t rows) { total += panels * (rows + panel_cost); });
    // A thread pays from about a million products on.
    const int64_t grain = 1 + (1 << 20) / (panel * std::max<int64_t>(1, k));
    parallel_ranges(threads, total, grain, [&](int thread, int64_t low, int64_t high) {
        int64_t start = 0;
        all.for_each_part(first, last, [&](int64_t expert, int64_t row, int64_t rows) {
            const int64_t cost = rows + panel_cost;
            // A panel belongs to the thread in whose range its cost begins.
            const auto panel_from = [&](int64_t at) {
                return std::clamp<int64_t>(ceil_divide(at - start, cost), 0, panels);
            };
            const int64_t begin = low <= start ? 0 : panel_from(low);
            const int64_t end = high <= start ? 0 : panel_from(high);
            const int64_t width = (rows <= stream.rows ? stream.columns : ffn_block_columns) / panel;
            for (int64_t p = begin; p < end; p += width) {
                const int64_t column = p * panel;
                const int64_t block_columns = std::min(std::min(p + width, end) * panel, columns) - column;
                body(thread, FfnBlock{expert, row, rows, column, block_columns});
            }
            start += panels * cost;
        });
    });
}

// Calls visit(begin, rows) for tiles of at most `most` rows. They are of even height: a low one costs almost as much as a
// full one.
template <class Visit>
void for_each_ffn_tile(int64_t rows, int64_t most, Visit&& visit) {
    const int64_t tiles = ceil_divide(rows, most);
    const int64_t height = rows / tiles;
    const int64_t higher = rows % tiles;
    for (int64_t t = 0, begin = 0; t < tiles; begin += height + (t < higher ? 1 : 0), ++t)
        visit(begin, height + (t < higher ? 1 : 0));
}

// Rows of memory, `stride` bytes apart.
struct FfnRowsBehind {
    const char* first = nullptr;
    int64_t stride = 0;
    int64_t rows = 0;
    int64_t row_bytes = 0;
};

// A part of weights (k, n).
struct FfnWeightPart {
    int64_t k;
    int64_t rows;
    int64_t column;
    int64_t columns;  // none or less: there is nothing
};

// What is wanted after rows below `next_k` of the columns of a block, which begin at `column`: at most `most` rows from
// there on; after the last row, the first rows of the columns to the right.
inline FfnWeightPart ffn_part_behind(int64_t k, int64_t n, const FfnBlock& block, int64_t column, int64_t next_k,
                                     int64_t most) {
    if (next_k == k) {
        next_k = 0;
        column += block.columns;
    }
    return {next_k, std::min(most, k - next_k), column, std::min(block.columns, n - column)};
}

// The same of weights (experts, k, n) that lie row by row.
inline FfnRowsBehind ffn_weights_behind(const char* weights, int64_t item_size, int64_t k, int64_t n,
                                        const FfnBlock& block, int64_t column, int64_t next_k, int64_t most) {
    const FfnWeightPart part = ffn_part_behind(k, n, block, column, next_k, most);
    if (part.columns <= 0) return {};
    const char* first = weights + ((block.expert * k + part.k) * n + part.column) * item_size;
    return {first, n * item_size, part.rows, part.columns * item_size};
}

// Brings rows of memory into the cache while something else is computed, some lines at each of `calls` calls: one of each
// of eight rows at a time, as memory is fastest with several streams. `locality` is that of __builtin_prefetch.
template <int locality>
class FfnPrefetch {
  public:
    FfnPrefetch(const FfnRowsBehind& behind, int64_t calls)
        : rows_(behind), lines_per_row_(ceil_divide(behind.row_bytes, cache_line)) {
        lines_per_call_ = ceil_divide(ceil_divide(behind.rows, rows_in_turn) * lines_per_row_, calls);
    }

    void fetch() {
        for (int64_t i = 0; i < lines_per_call_ && rows_.rows > 0; ++i) {
            const char* at = rows_.first + line_ * cache_line;
            const int64_t rows = std::min(rows_in_turn, rows_.rows);
            for (int64_t row = 0; row < rows; ++row, at += rows_.stride) __builtin_prefetch(at, 0, locality);
            if (++line_ < lines_per_row_) continue;
            line_ = 0;
            rows_.first += rows_in_turn * rows_.stride;
            rows_.rows -= rows_in_turn;
        }
    }

  private:
    static constexpr int64_t cache_line = 64;
    static constexpr int64_t rows_in_turn = 8;
    FfnRowsBehind rows_;
    int64_t lines_per_row_ = 0;
    int64_t lines_per_call_ = 0;  // of each of the rows in turn
    int64_t line_ = 0;
};

}  // namespace moe
