// What the grouped matrix products share: the row ranges of the experts, their weights in every storage form, and the
// product itself, tile by tile.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/nz.h"
#include "core/op.h"
#include "core/packed.h"
#include "kernels/igemm/igemm.h"
#include "kernels/qgemm/qgemm.h"
#include "kernels/rows/rows.h"

namespace moe {

// Consecutive rows of x, one range per expert, from a list of counts or of cumulative ends.
class ExpertRows {
  public:
    enum Type : int64_t { ends = 0, counts = 1 };

    // A list that was checked to have one dimension and dtype int32 or int64.
    void book(const Tensor* list, const char* name, int64_t type, int64_t rows, Ledger& ledger);
    // Reads the list. Entries that are negative, lead past the last row, or decrease (ends) are bad data; where they
    // are skipped, the range becomes empty or stops at the last row.
    Status load(const Workspace& workspace, const RunContext& context);

    int64_t experts() const { return experts_; }
    int64_t begin(int64_t expert) const { return expert == 0 ? 0 : ends_[expert - 1]; }
    int64_t end(int64_t expert) const { return ends_[expert]; }
    // All rows that belong to an expert: rows from here on are no input.
    int64_t used() const { return experts_ == 0 ? 0 : ends_[experts_ - 1]; }

    // Calls body(expert, begin, end) for every expert with rows in [first, last), in ascending order.
    template <class Body>
    void for_each(int64_t first, int64_t last, Body&& body) const {
        for (int64_t expert = 0; expert < experts_; ++expert) {
            const int64_t from = std::max(begin(expert), first);
            const int64_t to = std::min(end(expert), last);
            if (from < to) body(expert, from, to);
        }
    }

  private:
    int64_t entry(int64_t expert) const;
    const char* needed() const;

    Dtype dtype_ = MOE_INT64;
    int64_t type_ = counts;
    int64_t experts_ = 0;
    int64_t rows_ = 0;
    const char* name_ = "";
    Input list_;
    Piece ends_piece_;
    int64_t* ends_ = nullptr;
};

// Columns of a weight: of a panel up to 32.
struct PanelColumns {
    int64_t first;
    int64_t width;
};

// The weights of all experts where the caller has them: int8, or int4 as MOE_INT4 or eight to an int32; plain (e, k,
// n), or tiles of 16 rows (e, n1, k1, 16, c0), as a five-dimensional tensor or in MOE_FORMAT_NZ, or packed. Nothing is
// copied whole, whatever the strides.
class ExpertWeights {
  public:
    // Every check of dtype, rank, and shape against the logical k and n. Errors are MOE_ERROR_INVALID.
    Status resolve(const Tensor& tensor, const char* name, int64_t k, int64_t n);
    Status load();

    int64_t experts() const { return experts_; }
    bool int4() const { return int4_; }
    // Whether they are stored as two to a byte.
    bool nibbles() const { return word_columns_ > 1; }
    bool tiled() const { return tiled_; }
    // Panels that share their tile, and with it cache lines: those of a pair, at least.
    int64_t panels_in_tile() const { return tiled_ && nibbles() ? 2 : 1; }
    // Panels side by side that are best taken together: those of a tile, whose rows follow each other, and where they
    // are taken in turn those of a few tiles, as memory delivers several streams faster than one; of a plain weight as
    // many as make a piece of a row that memory delivers at its full rate, where it is streamed, and otherwise some whose
    // rows are whole cache lines.
    static constexpr int64_t most_panels_together = 64;
    int64_t panels_together(bool streamed) const {
        if (!tiled_) return !streamed ? 8 : int4_ ? most_panels_together : most_panels_together / 2;
        if (!streamed) return panels_in_tile();
        if (!nibbles()) return 8;
        const int64_t pairs_in_tile = std::clamp<int64_t>(tile_columns_ / (2 * igemm::columns), 1, 4);
        return 4 * 2 * pairs_in_tile;
    }

    // Whether the rows are plain int8, column beside column.
    bool plain_rows() const { return !tiled_ && !int4_ && word_stride_ == 1; }
    // Whether the kernels can read these columns where they are: `address` and `row_stride` say where that is.
    bool direct(const PanelColumns& columns) const;
    // Of the word that holds the column.
    const int8_t* address(int64_t expert, int64_t row, int64_t column) const;
    int64_t row_stride() const { return row_stride_; }
    // Whether panels lie ready for the kernels: those that begin with a panel of the weight and a step of k. Weights that
    // are packed as rows are tiles like any others.
    bool packed_for(const IgemmKernels& kernels) const { return packed_ && storage_.layout == kernels.layout; }
    // Whether tiles have their rows at one distance, so that kernels may read panels where they are.
    bool even_tiles() const {
        return tiled_ && word_stride_ == 1 && block_stride_ == 16 * row_stride_ && tile_columns_ % igemm::columns == 0;
    }
    // Whether the panels of int8 that begin with one of the weight lie ready, or their rows without a gap, those of the
    // last step of k included.
    bool panels_in_place(const IgemmKernels& kernels) const {
        if (int4_ || !tiled_) return false;
        if (packed_) return packed_for(kernels);
        return even_tiles() && row_stride_ == igemm::columns && rows_ % kernels.k_step == 0;
    }
    // Such a panel from `row` on, null for any other.
    const int8_t* panel(const IgemmKernels& kernels, int64_t expert, int64_t row, const PanelColumns& columns) const;
    // Where the rows [begin, end) of columns of one tile are, or of a panel that lies ready.
    Ahead ahead(const IgemmKernels& kernels, int64_t expert, int64_t begin, int64_t end,
                const PanelColumns& columns) const;

    // Packs `k` rows from `row` on. `stage` is 512 bytes of scratch.
    void pack(const IgemmKernels& kernels, int64_t expert, int64_t row, int64_t k, const PanelColumns& columns,
              void* panel, int8_t* stage) const;
    // Rows of 32 int8, zero beyond the columns.
    void read(int64_t expert, int64_t row, int64_t rows, const PanelColumns& columns, int8_t* target) const;

  private:
    Status resolve_tiles(const Tensor& tensor, int64_t k, int64_t n);
    Status resolve_plain(const Tensor& tensor, int64_t k, int64_t n);
    Status resolve_packed(const Tensor& tensor, int64_t k, int64_t n);
    void use_bytes();
    int8_t item(const int8_t* word, int64_t column) const;
    void read_packed(int64_t expert, int64_t row, int64_t rows, const PanelColumns& columns, int8_t* target) const;
    const int8_t* packed_panel(int64_t expert, int64_t column) const;

    const Tensor* tensor_ = nullptr;
    const char* name_ = "";
    const int8_t* data_ = nullptr;
    bool int4_ = false;
    bool tiled_ = false;
    bool packed_ = false;         // in another layout than rows
    PackedStorage storage_ = {};  // of such a weight
    int64_t experts_ = 0;
    int64_t rows_ = 0;          // of a column of tiles, with their padding
    int64_t tile_columns_ = 0;  // n for plain weights, which are one tile wide
    int64_t word_columns_ = 1;  // columns in a stored word
    // Bytes from one expert, tile, 16 rows, row and word to the next.
    int64_t expert_stride_ = 0;
    int64_t tile_stride_ = 0;
    int64_t block_stride_ = 0;
    int64_t row_stride_ = 0;
    int64_t word_stride_ = 0;
};

// Panels of an expert that are taken together: one or more runs of equally many that are side by side.
struct PanelGroup {
    static constexpr int64_t most = 2 * ExpertWeights::most_panels_together;

    int64_t expert = 0;
    int64_t begin = 0;  // of the rows that take them
    int64_t end = 0;
    int64_t runs = 1;
    int64_t count = 0;
    PanelColumns columns[most];

    int64_t in_run() const { return count / runs; }
    PanelColumns run(int64_t index) const {
        const PanelColumns& last = columns[(index + 1) * in_run() - 1];
        const int64_t first = columns[index * in_run()].first;
        return {first, last.first + last.width - first};
    }
};

// Products of the rows of each expert with its weight, 32 columns at a time.
//
// int8: a tile's values are the exact sums as float32. int4: x is split into x = 16 * high + low + 8, each part
// multiplied apart, scaled per block of k and column, added up in float32 over the blocks and rounded to float16; the
// values are 16 * high + low. Both take the same integer kernels, with two rows of a tile for each row of int4.
//
// A thread walks its columns, expert by expert, in blocks of k whose packed panel stays in the first-level cache while
// all rows pass it; meanwhile the kernel prefetches the weights of the next block. A few rows are streamed: they take
// the weights as they are, plain ones of int8 in long pieces of their rows.
class GroupedProduct {
  public:
    // Items are spans of `columns` columns, of which a group takes `runs` runs. `aligned`: all panels begin at multiples
    // of 32 columns. `bytes_per_row`: what the caller itself needs for each row of a batch. `blocks`: of k, with scales
    // of their own (int4).
    void book(const ExpertWeights& weights, int64_t rows, int64_t k, int64_t blocks, int64_t columns, int64_t runs,
              bool aligned, int64_t bytes_per_row, Ledger& ledger);
    // Columns of an item, but for the last one.
    int64_t span() const { return span_; }
    // `block_scale` (e, blocks, n): float32 bits in the low half of 64; int4 only.
    void load(const Workspace& workspace, const int8_t* x, const int64_t* block_scale, int64_t n);

    // Rows are taken in batches that bound the scratch memory: pack [first, last) before anything of it is multiplied.
    int64_t batch_rows() const { return batch_rows_; }
    void pack(const ExpertRows& experts, int64_t first, int64_t last);

    // Multiplies the packed rows with the columns of `items` items, in parallel over these; fill(item, group) says which
    // panels an item takes. For each expert and item, prepare(group) returns a function of which
    // take(row, rows, values) is called for the tiles of the expert's rows. A thread walks experts and rows in ascending
    // order. values is (panels, rows, 32) with 32 * tile_rows() floats from one panel to the next; columns beyond the
    // width of a panel hold anything.
    template <class Fill, class Prepare>
    void multiply(const ExpertRows& experts, int64_t first, int64_t last, int64_t items, const Fill& fill,
                  const Prepare& prepare) const {
        parallel_ranges(threads_, items, grain(last - first), [&](int thread, int64_t begin, int64_t end) {
            // Each group waits for the next one to be known, whose weights are prefetched meanwhile.
            PanelGroup groups[2];
            int waiting = 0;
            const auto finish = [&](const PanelGroup& next) {
                const PanelGroup& group = groups[waiting];
                if (group.begin < group.end)
                    for_each_tile(thread, tiles(group.begin, group.end), group, next, prepare(group));
            };
            experts.for_each(first, last, [&](int64_t expert, int64_t from, int64_t to) {
                for (int64_t item = begin; item < end; ++item) {
                    PanelGroup& next = groups[1 - waiting];
                    next.expert = expert;
                    next.begin = from;
                    next.end = to;
                    fill(item, next);
                    finish(next);
                    waiting = 1 - waiting;
                }
            });
            finish(PanelGroup());
        });
    }
    int64_t tile_rows() const { return tile_rows_; }

  private:
    // Of a unit into blocks.
    struct Split {
        int64_t k = 0;
        int64_t count = 1;
    };
    struct Block {
        int64_t k_begin;
        int64_t k;
        int64_t offset;  // in a packed row, bytes
    };

    // The tiles of an expert's rows [begin, end), as equal as can be.
    struct Tiles {
        int64_t begin;
        int64_t rows;
        int64_t count;
        // The first row of a tile; for `count` the row behind the last.
        int64_t row(int64_t tile) const { return begin + rows * tile / count; }
    };

    template <class Take>
    void for_each_tile(int thread, const Tiles& tiles, const PanelGroup& group, const PanelGroup& next,
                       const Take& take) const {
        for (int64_t first = 0; first < tiles.count; first += tiles_per_chunk) {
            const int64_t last = std::min(first + tiles_per_chunk, tiles.count);
            sum(thread, tiles, first, last, group, last < tiles.count ? group : next);
            for (int64_t tile = first; tile < last; ++tile) {
                const int64_t row = tiles.row(tile);
                const int64_t rows = tiles.row(tile + 1) - row;
                take(row, rows, values(thread, row - tiles.row(first), rows, group.count));
            }
        }
    }

    // Tiles whose sums are kept while the blocks of k pass by: as many share one packing of a panel.
    static constexpr int64_t tiles_per_chunk = 16;

    // Items of a parallel loop that make a thread worth its start.
    int64_t grain(int64_t rows) const;
    Tiles tiles(int64_t begin, int64_t end) const;
    // Whether the rows are so few that they use the weights as they are.
    bool streams(const Tiles& tiles) const;
    // Whether a few rows take plain weights of int8 row by row, and whether these rows do.
    bool streams_plain_rows() const;
    bool streams_rows(const Tiles& tiles) const;
    void sum_streamed_rows(int thread, const Tiles& tiles, const PanelGroup& group) const;
    // Panels side by side, a piece of each in turn.
    void sum_panels_in_turn(int thread, const Tiles& tiles, int64_t first, int64_t last, const PanelGroup& group,
                            const PanelGroup& next) const;
    const Split& split(const Tiles& tiles) const;
    Block block(const Split& blocks, int64_t unit, int64_t index) const;
    void pack_tile(int thread, const Split& blocks, int64_t row, int64_t rows) const;
    char* packed(int64_t row, int64_t rows, const Block& block) const;
    // Where a thread keeps what belongs to a row of the chunk and a panel.
    int64_t kept(int thread, int64_t panel, int64_t chunk_row) const;
    int64_t panel_values() const;
    char* panel(int thread, int64_t index) const;
    void pack_panels(int thread, const Block& block, const PanelGroup& group, const bool* wanted) const;
    // The sums of the tiles [first, last). `next`: the group that follows.
    void sum(int thread, const Tiles& tiles, int64_t first, int64_t last, const PanelGroup& group,
             const PanelGroup& next) const;
    void sum_block(int thread, const Tiles& tiles, int64_t first, int64_t last, const PanelGroup& group,
                   const Block& block, bool accumulate, const PanelGroup& next, const Block& next_block) const;
    // Of a few rows and the pairs of panels of int4 that lie side by side. Says which panels these are and returns how many.
    int64_t sum_pairs(int thread, const Tiles& tiles, int64_t first, int64_t last, const PanelGroup& group,
                      const Block& block, bool accumulate, const PanelGroup& next, const Block& next_block,
                      bool* paired) const;
    void widen_sums(int thread, int64_t rows, int64_t panels, bool accumulate) const;
    void add_scaled_sums(int thread, int64_t unit, int64_t rows, const PanelGroup& group) const;
    float* values(int thread, int64_t chunk_row, int64_t rows, int64_t panels) const;

    const IgemmKernels* kernels_ = nullptr;
    decltype(IgemmKernels::multiply) multiply_ = nullptr;
    const QgemmKernels* row_products_ = nullptr;
    const RowKernels* row_kernels_ = nullptr;
    const ExpertWeights* weights_ = nullptr;
    int64_t k_ = 0;
    int64_t n_ = 0;
    int64_t panels_ = 1;
    int64_t parts_ = 1;  // rows of a packed tile per row of x
    int64_t units_ = 1;  // of k, with scales of their own
    int64_t unit_k_ = 0;
    int64_t span_ = igemm::columns;
    Split packed_split_;
    Split streamed_split_;
    Split streamed_plain_split_;
    bool wide_ = false;           // sums of a unit may leave int32
    int64_t streamed_rows_ = 0;   // of an expert, at most: they are streamed, or take panels in turn
    bool in_turn_ = false;        // a few rows take the panels of a group in turn
    bool pairs_in_turn_ = false;  // likewise pairs of panels of int4
    int64_t tile_rows_ = 0;       // rows of x
    int64_t chunk_rows_ = 0;
    int64_t row_bytes_ = 0;
    int64_t batch_rows_ = 0;
    int64_t first_row_ = 0;  // of the batch

    Piece packed_piece_, panel_piece_, stage_piece_, split_piece_, sums_piece_, wide_piece_, totals_piece_,
        values_piece_, row_sums_piece_;
    int64_t panel_bytes_ = 0;
    int64_t split_bytes_ = 0;
    int threads_ = 1;
    const int8_t* x_ = nullptr;
    const int64_t* block_scale_ = nullptr;
    char* packed_ = nullptr;
    char* panel_ = nullptr;
    int8_t* stage_ = nullptr;
    int8_t* split_ = nullptr;
    int32_t* sums_ = nullptr;
    int64_t* wide_sums_ = nullptr;
    float* totals_ = nullptr;
    float* values_ = nullptr;
    int32_t* row_sums_ = nullptr;
};

}  // namespace moe
