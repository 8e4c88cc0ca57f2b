// How the products of npu_ffn are cut into blocks, and the blocks dealt out to threads.
#pragma once

#include <algorithm>
#include <cstdint>

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
constexpr int64_t ffn_block_rows = 512;
// Columns of a block whose weights are packed, and rows of weights packed at a time: 256 KiB of float32.
constexpr int64_t ffn_block_columns = 256;
constexpr int64_t ffn_block_k = 256;
// Up to this many rows weights are streamed instead, in wide blocks.
constexpr int64_t ffn_stream_rows = 3;
constexpr int64_t ffn_stream_columns = 2048;

// Sums that a thread must have room for.
inline int64_t ffn_block_sums(int64_t rows) {
    return std::max(std::min(rows, ffn_block_rows) * ffn_block_columns, ffn_stream_rows * ffn_stream_columns);
}

// Calls body(thread, block) for blocks that cover all rows and `columns` columns. `ends` as read_expert_tokens leaves
// them. Cuts columns at multiples of `panel`. Each thread gets one run of (expert, rows, panel) whose rows, and with
// them operations, are as many as everyone's; `k` is the length of the sums.
template <class Body>
void for_each_ffn_block(int threads, const int64_t* ends, int64_t experts, int64_t columns, int64_t k, int64_t panel,
                        Body&& body) {
    // Converting the weights of a panel costs about as much as this many rows do.
    constexpr int64_t panel_cost = 8;
    const int64_t panels = (columns + panel - 1) / panel;
    const auto for_each_part = [&](auto&& visit) {
        for (int64_t e = 0, row = 0; e < experts; row = ends[e], ++e)
            for (int64_t begin = row; begin < ends[e]; begin += ffn_block_rows)
                visit(e, begin, std::min(ffn_block_rows, ends[e] - begin));
    };
    int64_t total = 0;
    for_each_part([&](int64_t, int64_t, int64_t rows) { total += panels * (rows + panel_cost); });
    // A thread pays from about a million products on.
    const int64_t grain = 1 + (1 << 20) / (panel * std::max<int64_t>(1, k));
    parallel_ranges(threads, total, grain, [&](int thread, int64_t low, int64_t high) {
        int64_t start = 0;
        for_each_part([&](int64_t expert, int64_t row, int64_t rows) {
            const int64_t cost = rows + panel_cost;
            // A panel belongs to the thread in whose range its cost begins.
            const auto first_from = [&](int64_t at) {
                return std::clamp<int64_t>((at - start + cost - 1) / cost, 0, panels);
            };
            const int64_t begin = low <= start ? 0 : first_from(low);
            const int64_t end = high <= start ? 0 : first_from(high);
            const int64_t width = (rows <= ffn_stream_rows ? ffn_stream_columns : ffn_block_columns) / panel;
            for (int64_t p = begin; p < end; p += width) {
                const int64_t column = p * panel;
                const int64_t block_columns = std::min(std::min(p + width, end) * panel, columns) - column;
                body(thread, FfnBlock{expert, row, rows, column, block_columns});
            }
            start += panels * cost;
        });
    });
}

}  // namespace moe
