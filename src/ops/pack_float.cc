#include "ops/pack_float.h"

#include <cstring>

#include "ops/ffn_float.h"

namespace moe {
namespace {

// Rows that are packed at a time, panels after panels: rows of a plain weight are read from end to end.
constexpr int64_t rows_at_once = 32;
constexpr int64_t panels_at_once = 8;
constexpr int64_t stage_bytes = rows_at_once * panels_at_once * fgemm_max_columns * static_cast<int64_t>(sizeof(float));
constexpr int64_t bytes_per_thread = 256 * 1024;

Status size_is(int64_t given, const char* argument, int64_t size) {
    if (given != 0 && given != size)
        return fail(MOE_ERROR_INVALID, Kind::value, argument, "%lld, needed the %lld of w, or 0 for them",
                    static_cast<long long>(given), static_cast<long long>(size));
    if (size > 0) return MOE_OK;
    return fail(MOE_ERROR_INVALID, Kind::shape, "w", "%s = 0, needed 1 or more", argument);
}

}  // namespace

Status PackFloat::resolve(const moe_pack_args& args, Tensor* packed) {
    const Tensor& w = *args.w;
    if (w.rank != 2 && w.rank != 3)
        return fail(MOE_ERROR_INVALID, Kind::shape, "w", "shape %s, needed (k, n) or (experts, k, n) of %s",
                    describe_shape(w.rank, w.shape).text, moe_dtype_name(w.dtype));
    const int64_t experts = w.rank == 2 ? 1 : w.shape[0];
    const int64_t k = w.shape[w.rank - 2];
    const int64_t n = w.shape[w.rank - 1];
    MOE_TRY(size_is(args.k, "k", k));
    MOE_TRY(size_is(args.n, "n", n));
    return packed_describe(nullptr, w.dtype, experts, k, n, ffn_kernels(w.dtype).layout, "w", packed);
}

void PackFloat::book(const moe_pack_args& args, Ledger& ledger) {
    if (!is_packed(*args.w)) w_.book(args.w, "w", ledger);
    stage_size_ = is_packed(*args.w) ? stage_bytes : 0;
    stage_ = ledger.book("rows of panels", static_cast<uint64_t>(ledger.threads() * stage_size_));
}

Status PackFloat::run(const moe_pack_args& args, const Tensor& packed, const Workspace& workspace) {
    MOE_TRY(w_.load(workspace));
    MOE_TRY(has_data(args.w, "w"));
    const PackedStorage storage = packed_storage(packed);
    const FloatPanels to(packed);
    const int64_t blocks = ceil_divide(storage.k, rows_at_once);
    parallel_ranges(workspace.threads(), storage.experts * blocks,
                    1 + bytes_per_thread / (rows_at_once * storage.n * to.item),
                    [&](int thread, int64_t begin, int64_t end) {
                        char* const stage = workspace.at<char>(stage_) + thread * stage_size_;
                        for (int64_t item = begin; item < end; ++item)
                            pack_rows(args, to, item / blocks, item % blocks * rows_at_once, stage);
                    });
    return MOE_OK;
}

void PackFloat::pack_rows(const moe_pack_args& args, const FloatPanels& to, int64_t expert, int64_t row,
                          char* stage) const {
    const int64_t k = args.w->shape[args.w->rank - 2];
    const int64_t rows = std::min(rows_at_once, k - row);
    const int64_t stored_rows = std::min(rows_at_once, to.stored_k - row);
    const int64_t width = panels_at_once * to.order.width;
    for (int64_t first = 0; first < to.n; first += width) {
        const int64_t columns = std::min(width, to.n - first);
        // What no row or column fills up is zero: equal weights become equal bytes.
        for (int64_t column = first; column < first + columns; column += to.order.width) {
            const int64_t stored = to.columns_from(column);
            if (to.n - column < stored || rows < stored_rows)
                std::memset(to.at(expert, column, row), 0, static_cast<size_t>(stored * stored_rows * to.item));
        }
        if (is_packed(*args.w)) {
            const int64_t row_bytes = columns * to.item;
            FloatPanels(*args.w).read(expert, row, rows, first, columns, stage, row_bytes);
            to.write(expert, row, rows, first, columns, stage, row_bytes);
        } else {
            const int64_t row_bytes = to.n * to.item;
            const char* source = w_.data<char>() + (expert * k + row) * row_bytes + first * to.item;
            to.write(expert, row, rows, first, columns, source, row_bytes);
        }
    }
}

}  // namespace moe
