// Exact integer products of int8 rows with a panel of 32 columns of an int8 weight, and the loops around them that
// look at every value of a tile.
//
// A product runs over blocks of k. For each block the weight panel, and tiles of at most `rows` rows of x, are packed
// into the order in which a kernel consumes them: `k_step` consecutive k side by side, k padded to a multiple of that
// with zeros. A panel is packed once and used for all tiles, a tile once and used for all panels. A few rows use the
// weight only once: where there is a `stream`, they are multiplied with the weight as it lies in memory.
//
// Sums are exact whenever the true one fits into int32, as that of `igemm::exact_k` products always does; kernels may
// wrap on the way. Results are identical on every instruction set.
#pragma once

#include <cstdint>

#include "core/panel.h"

namespace moe {

// Memory that is read next, which a kernel prefetches while it computes: `count` places, `stride` bytes apart, of `lines`
// cache lines each. Any address will do, also one that is not there.
struct Ahead {
    const char* first = nullptr;
    int64_t stride = 0;
    int64_t count = 0;
    int64_t lines = 1;

    // The first places, at most `most`, which are left out from now on.
    Ahead take(int64_t most) {
        Ahead taken = *this;
        if (taken.count > most) taken.count = most;
        first += taken.count * stride;
        count -= taken.count;
        return taken;
    }
};

// Panels of whole columns, 32 bytes a row without gaps, each followed by what its last step of rows lacks.
struct PanelsInTurn {
    const int8_t* const* first;
    // What is multiplied after them and prefetched towards the end; any addresses will do.
    const int8_t* const* next;
    int64_t count;
    bool packed;          // as pack_panel makes them where that is how weights are packed, or as it takes them
    int64_t sums_stride;  // from the sums of one to those of the next
};

// Pairs of neighbouring panels of int4, 32 bytes a row.
struct PairsInTurn {
    const int8_t* const* first;
    // What is multiplied after them and prefetched towards the end; any addresses will do.
    const int8_t* const* next;
    // Whose sums are those of a pair: of this panel and of the next one.
    const int64_t* panel;
    int64_t count;
    int64_t stride;       // from row to row
    int64_t sums_stride;  // from the sums of a panel to those of the next
};

struct IgemmKernels {
    int64_t rows;          // of x in a full tile; even
    int64_t stream_rows;   // at most this many rows may be streamed; even, 0 without `stream`
    int64_t in_turn_rows;  // of multiply_in_turn: all of a full tile, or as many as may be streamed, or 0 without it
    int64_t k_step;        // divides 16
    int64_t item_size;     // bytes that an element takes in a panel and in a tile
    int64_t row_suffix;    // bytes that a tile holds per row besides the elements

    // Packs `k` rows of 32 bytes, `stride` bytes apart.
    void (*pack_panel)(const int8_t* weight, int64_t stride, int64_t k, void* panel);
    // The same from int4: `k` rows of 16 bytes, the even columns in the lower halves of the bytes.
    void (*pack_panel_int4)(const int8_t* weight, int64_t stride, int64_t k, void* panel);
    // Packs 1 to `rows` rows of `k` bytes, `stride` bytes apart.
    void (*pack_tile)(const int8_t* x, int64_t stride, int64_t rows, int64_t k, void* tile);
    // sums (rows, 32) = [sums +] tile * panel
    void (*multiply)(const void* tile, const void* panel, int64_t rows, int64_t k, bool accumulate, int32_t* sums,
                     const Ahead& ahead);
    // The same with other operands of the same instructions, for processors of which folds_broadcasts() holds; may be
    // null.
    void (*multiply_folded)(const void* tile, const void* panel, int64_t rows, int64_t k, bool accumulate,
                            int32_t* sums, const Ahead& ahead);
    // The same for 1 to `stream_rows` rows, from what the pack functions take.
    void (*stream)(const void* tile, const int8_t* weight, int64_t stride, int64_t rows, int64_t k, bool accumulate,
                   int32_t* sums, const Ahead& ahead);
    void (*stream_int4)(const void* tile, const int8_t* weight, int64_t stride, int64_t rows, int64_t k,
                        bool accumulate, int32_t* sums, const Ahead& ahead);

    // sums (panels, rows, 32) = tile * panels, a piece of each panel in turn: memory delivers several streams faster
    // than one. For 1 to `in_turn_rows` rows of a tile; may be null.
    void (*multiply_in_turn)(const void* tile, const PanelsInTurn& panels, int64_t rows, int64_t k, int32_t* sums);

    // sums (panels, rows, 32) = [sums +] tile * panels, likewise; for 1 to `stream_rows` rows; may be null.
    void (*stream_int4_in_turn)(const void* tile, const PairsInTurn& pairs, int64_t rows, int64_t k, bool accumulate,
                                int32_t* sums);

    // target = source, rounded to nearest even
    void (*to_float)(const int32_t* source, float* target, int64_t n);
    // totals (rows, 32) = [totals +] sums * scale[column], with every operation rounded
    void (*add_scaled)(const int32_t* sums, int64_t rows, const float* scale, bool accumulate, float* totals);
    // values (rows, 32) = (values * scale[column]) * factor[row]
    void (*dequantise)(float* values, int64_t rows, const float* scale, const float* factor);
    // out[target[row]] += ((values * scale[column]) * factor[row] + bias[column]) * weight[row], in ascending row and
    // with every operation rounded. A null bias adds nothing, a null factor or weight is 1. Rows whose target is
    // negative are left out. `out` is at the first of `columns` columns, its rows are `stride` floats apart.
    void (*combine)(const float* values, int64_t rows, int64_t columns, const float* scale, const float* bias,
                    const float* factor, const float* weight, const int64_t* target, float* out, int64_t stride);

    // Of packed weights: what pack_panel makes, or rows where that takes more than a byte for each of them.
    PanelLayout layout;
};

// The kernels to use now.
const IgemmKernels& igemm_kernels();

namespace igemm {

constexpr int64_t columns = 32;
// (2^31 - 1) / 2^14: so many products of int8 cannot leave int32, whatever they are.
constexpr int64_t exact_k = 131071;

int64_t panel_bytes(const IgemmKernels& kernels, int64_t k);
// Of one row of a tile: a tile takes as much for each of its rows.
int64_t row_bytes(const IgemmKernels& kernels, int64_t k);

}  // namespace igemm
}  // namespace moe
