#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/cache.h"
#include "core/nz.h"
#include "core/op.h"
#include "core/packed.h"
#include "kernels/copy/copy.h"
#include "moe_native/format.h"

namespace moe {
namespace {

// One matrix of the stack.
struct Matrix {
    char* tiles;
    char* rows;
};

class FormatCast {
  public:
    static constexpr const char* name = "npu_format_cast";
    using Args = moe_format_cast_args;

    explicit FormatCast(const Args& args) : args_(args) {}

    Status resolve(Outputs outputs) {
        MOE_TRY(required(args_.input, "input"));
        if (outputs == Outputs::checked) MOE_TRY(required(args_.out, "out"));
        if (args_.acl_format != MOE_FORMAT_ND && args_.acl_format != MOE_FORMAT_NZ)
            return fail(MOE_ERROR_INVALID, Kind::value, "acl_format", "%d, needed 2 (ND) or 29 (FRACTAL_NZ)",
                        static_cast<int>(args_.acl_format));
        MOE_TRY(check_dtype());
        if (is_packed(*args_.input))
            return fail(MOE_ERROR_INVALID, Kind::value, "input", "a packed weight, needed ND or FRACTAL_NZ");
        if (args_.input->format == args_.acl_format)
            return fail(MOE_ERROR_RUNTIME, Kind::value, "input", "in format %d already, needed the other one",
                        static_cast<int>(args_.acl_format));
        MOE_TRY(nz_rank_in_range(args_.input->rank, args_.input->shape, "input"));
        MOE_TRY(resolve_layout());
        return outputs == Outputs::checked ? check_output() : static_cast<Status>(MOE_OK);
    }

    void shapes(Tensor* outputs) const { outputs[0] = needed_; }

    void book(Ledger& ledger) {
        if (!args_.in_place) return;
        const Tensor& input = *args_.input;
        const int64_t count =
            input.format == MOE_FORMAT_NZ ? layout_.matrices * layout_.matrix() : element_count(input);
        copy_ = ledger.book("input", static_cast<uint64_t>(count * size()));
    }

    Status run(const Workspace& workspace, const RunContext& context) {
        MOE_TRY(context.data_checked());
        MOE_TRY(has_data(args_.input, "input"));
        MOE_TRY(has_data(args_.out, "out"));
        if (element_count(*args_.input) == 0) return MOE_OK;
        if (!args_.in_place && args_.input->data == args_.out->data)
            return fail(MOE_ERROR_INVALID, Kind::value, "out", "the memory of input, needed other memory or in_place");
        Tensor source = *args_.input;
        if (args_.in_place) copy_source(workspace, source);
        resolve_strides(args_.acl_format == MOE_FORMAT_NZ ? source : *args_.out);
        if (args_.acl_format == MOE_FORMAT_NZ)
            to_nz(workspace.threads(), source, *args_.out);
        else
            to_nd(workspace.threads(), source, *args_.out);
        return MOE_OK;
    }

  private:
    // Bytes of a row that a band of tiles covers: whole cache lines, and few enough pages.
    static constexpr int64_t band_bytes = 512;
    // The largest tile: 64 columns of 8 bytes.
    static constexpr int64_t largest_tile = MOE_NZ_ROWS * 64 * 8;
    // A thread pays from about this many bytes on.
    static constexpr int64_t grain_bytes = 256 * 1024;

    int64_t size() const { return moe_dtype_size(args_.input->dtype); }

    Status check_dtype() const {
        const Tensor& input = *args_.input;
        if (limits() != MOE_LIMITS_NONE)
            return dtype_in(input, "input",
                            {MOE_INT8, MOE_UINT8, MOE_FLOAT16, MOE_BFLOAT16, MOE_FLOAT32, MOE_INT32, MOE_UINT32});
        return dtype_in(input, "input",
                        {MOE_INT8, MOE_UINT8, MOE_FLOAT16, MOE_BFLOAT16, MOE_INT16, MOE_UINT16, MOE_FLOAT32, MOE_INT32,
                         MOE_UINT32, MOE_FLOAT64, MOE_INT64, MOE_UINT64});
    }

    Status resolve_layout() {
        const Tensor& input = *args_.input;
        if (args_.acl_format == MOE_FORMAT_ND) {
            layout_ = nz_layout(input);
            needed_ = moe_tensor_make(nullptr, input.dtype, input.rank, input.shape);
            return MOE_OK;
        }
        const int64_t c0 = args_.c0 == 0 ? moe_nz_default_c0(input.dtype) : args_.c0;
        MOE_TRY(nz_c0_in_range(c0, "c0"));
        MOE_TRY(nz_describe(nullptr, input.dtype, input.rank, input.shape, c0, "input", &needed_));
        layout_ = nz_layout(needed_);
        return MOE_OK;
    }

    Status check_output() const {
        const Tensor& out = *args_.out;
        MOE_TRY(same_dtype(out, "out", args_.input->dtype, "input"));
        if (out.format != args_.acl_format)
            return fail(MOE_ERROR_INVALID, Kind::value, "out", "format %d, needed %d as acl_format says",
                        static_cast<int>(out.format), static_cast<int>(args_.acl_format));
        if (out.rank != needed_.rank || !std::equal(out.shape, out.shape + out.rank, needed_.shape))
            return fail(MOE_ERROR_INVALID, Kind::shape, "out", "shape %s, needed %s as input has",
                        describe_shape(out.rank, out.shape).text, describe_shape(needed_.rank, needed_.shape).text);
        if (args_.acl_format == MOE_FORMAT_NZ && out.storage_shape[out.storage_rank - 1] != layout_.c0)
            return fail(MOE_ERROR_INVALID, Kind::shape, "out", "tiles of %lld columns, needed %lld",
                        static_cast<long long>(out.storage_shape[out.storage_rank - 1]),
                        static_cast<long long>(layout_.c0));
        return MOE_OK;
    }

    // Replaces `source` by an equal contiguous tensor in the workspace.
    void copy_source(const Workspace& workspace, Tensor& source) const {
        char* copy = workspace.at<char>(copy_);
        if (source.format == MOE_FORMAT_NZ) {
            const int64_t shape[] = {layout_.matrices * layout_.n1, layout_.column()};
            const Tensor columns = moe_tensor_make(source.data, source.dtype, 2, shape);
            copy_strided(workspace.threads(), 2, shape, size(), copy, columns.stride, columns.data, columns.stride);
            source.data = copy;
            return;
        }
        const Tensor plain = moe_tensor_make(copy, source.dtype, source.rank, source.shape);
        copy_strided(workspace.threads(), source.rank, source.shape, size(), copy, plain.stride, source.data,
                     source.stride);
        source = plain;
    }

    // The plain side, with its strides in bytes.
    void resolve_strides(const Tensor& plain) {
        row_stride_ = plain.stride[plain.rank - 2];
        column_stride_ = plain.stride[plain.rank - 1];
        side_by_side_ = column_stride_ == size() || layout_.n == 1;
        streaming_ = outgrows_caches(element_count(plain) * size()) ? &copy_kernels() : nullptr;
    }

    Matrix matrix_of(const Tensor& nz, const Tensor& plain, int64_t matrix) const {
        char* rows = static_cast<char*>(plain.data);
        int64_t rest = matrix;
        for (int32_t d = plain.rank - 3; d >= 0; --d) {
            rows += rest % plain.shape[d] * plain.stride[d];
            rest /= plain.shape[d];
        }
        return {static_cast<char*>(nz.data) + matrix * layout_.matrix() * size(), rows};
    }

    int64_t run_bytes() const { return layout_.c0 * size(); }

    // Tile number a from the top in column b of tiles, and its first element in the rows.
    char* tile_at(const Matrix& matrix, int64_t a, int64_t b) const {
        return matrix.tiles + (b * layout_.column() + a * layout_.tile()) * size();
    }
    char* rows_at(const Matrix& matrix, int64_t a, int64_t b) const {
        return matrix.rows + a * MOE_NZ_ROWS * row_stride_ + b * layout_.c0 * column_stride_;
    }

    int64_t rows_in(int64_t a) const { return std::min<int64_t>(MOE_NZ_ROWS, layout_.k - a * MOE_NZ_ROWS); }
    int64_t columns_in(int64_t b) const { return std::min(layout_.c0, layout_.n - b * layout_.c0); }

    void put(char* target, const char* source, int64_t bytes) const {
        if (streaming_ != nullptr)
            streaming_->stream(target, source, bytes);
        else
            std::memcpy(target, source, static_cast<size_t>(bytes));
    }

    // One work item per `step` tiles of the `tiles` of every matrix: body(matrix, first tile, last tile).
    template <class Body>
    void for_each_step(int threads, const Tensor& nz, const Tensor& plain, int64_t tiles, int64_t step,
                       Body&& body) const {
        const int64_t steps = (tiles + step - 1) / step;
        const int64_t step_bytes = step * (layout_.matrix() / tiles) * size();
        parallel_ranges(threads, layout_.matrices * steps, 1 + grain_bytes / step_bytes,
                        [&](int, int64_t begin, int64_t end) {
                            for (int64_t i = begin; i < end; ++i) {
                                const int64_t first = i % steps * step;
                                body(matrix_of(nz, plain, i / steps), first, std::min(tiles, first + step));
                            }
                            if (streaming_ != nullptr) streaming_->end();
                        });
    }

    void to_nz(int threads, const Tensor& plain, const Tensor& nz) const {
        if (side_by_side_)
            for_each_step(threads, nz, plain, layout_.k1, 1, [&](const Matrix& matrix, int64_t a, int64_t) {
                if (run_bytes() == 32)
                    tiles_from_rows<32>(matrix, a);
                else
                    tiles_from_rows<0>(matrix, a);
            });
        else
            for_each_step(threads, nz, plain, layout_.n1, 1, [&](const Matrix& matrix, int64_t b, int64_t) {
                for_item_size([&](auto item) { tiles_from_items<item.value>(matrix, b); });
            });
    }

    void to_nd(int threads, const Tensor& nz, const Tensor& plain) const {
        const int64_t beside = side_by_side_ ? std::max<int64_t>(1, band_bytes / run_bytes()) : 1;
        for_each_step(threads, nz, plain, layout_.n1, beside, [&](const Matrix& matrix, int64_t first, int64_t last) {
            if (!side_by_side_)
                for_item_size([&](auto item) { items_from_tiles<item.value>(matrix, first); });
            else if (run_bytes() == 32)
                rows_from_tiles<32>(matrix, first, last);
            else
                rows_from_tiles<0>(matrix, first, last);
        });
    }

    // One row of tiles. Two at a time, so that a cache line of the source that both share is used once; they are
    // made in the cache and written whole. `known` is the number of bytes of a run, 0 if it is another one.
    template <int64_t known>
    void tiles_from_rows(const Matrix& matrix, int64_t a) const {
        alignas(64) char tiles[2][largest_tile];
        const int64_t run = known > 0 ? known : run_bytes();
        const int64_t rows = rows_in(a);
        clear(tiles[0] + rows * run, (MOE_NZ_ROWS - rows) * run);
        clear(tiles[1] + rows * run, (MOE_NZ_ROWS - rows) * run);
        const int64_t whole = layout_.n / layout_.c0;
        int64_t b = 0;
        for (; b + 2 <= whole; b += 2) {
            const char* row = rows_at(matrix, a, b);
            for (int64_t i = 0; i < rows; ++i, row += row_stride_) {
                std::memcpy(tiles[0] + i * run, row, static_cast<size_t>(run));
                std::memcpy(tiles[1] + i * run, row + run, static_cast<size_t>(run));
            }
            put(tile_at(matrix, a, b), tiles[0], MOE_NZ_ROWS * run);
            put(tile_at(matrix, a, b + 1), tiles[1], MOE_NZ_ROWS * run);
        }
        for (; b < layout_.n1; ++b) {
            const char* row = rows_at(matrix, a, b);
            const int64_t used = columns_in(b) * size();
            for (int64_t i = 0; i < rows; ++i, row += row_stride_) {
                std::memcpy(tiles[0] + i * run, row, static_cast<size_t>(used));
                clear(tiles[0] + i * run + used, run - used);
            }
            put(tile_at(matrix, a, b), tiles[0], MOE_NZ_ROWS * run);
        }
    }

    // A band of columns of tiles [first, last): 16 rows of it at a time.
    template <int64_t known>
    void rows_from_tiles(const Matrix& matrix, int64_t first, int64_t last) const {
        alignas(64) char rows[MOE_NZ_ROWS][band_bytes];
        const int64_t run = known > 0 ? known : run_bytes();
        const int64_t used = (std::min(layout_.n, last * layout_.c0) - first * layout_.c0) * size();
        for (int64_t a = 0; a < layout_.k1; ++a) {
            for (int64_t b = first; b < last; ++b) {
                const char* tile = tile_at(matrix, a, b);
                for (int64_t i = 0; i < MOE_NZ_ROWS; ++i)
                    std::memcpy(rows[i] + (b - first) * run, tile + i * run, static_cast<size_t>(run));
            }
            char* row = rows_at(matrix, a, first);
            for (int64_t i = 0; i < rows_in(a); ++i, row += row_stride_) put(row, rows[i], used);
        }
    }

    // Elements that do not lie side by side in a row, as in a transposed matrix: a column of tiles, as many tiles at
    // a time as the cache line of a transposed source holds.
    template <int64_t item>
    void tiles_from_items(const Matrix& matrix, int64_t b) const {
        constexpr int64_t together = std::max<int64_t>(1, 64 / (MOE_NZ_ROWS * item));
        alignas(64) char tiles[together * largest_tile];
        const int64_t run = layout_.c0 * item;
        const int64_t columns = columns_in(b);
        for (int64_t a = 0; a < layout_.k1; a += together) {
            const int64_t count = std::min(together, layout_.k1 - a) * MOE_NZ_ROWS;
            const int64_t rows = std::min(count, layout_.k - a * MOE_NZ_ROWS);
            if (rows < count || columns < layout_.c0) clear(tiles, count * run);
            const char* column = rows_at(matrix, a, b);
            for (int64_t j = 0; j < columns; ++j, column += column_stride_)
                for (int64_t i = 0; i < rows; ++i)
                    std::memcpy(tiles + i * run + j * item, column + i * row_stride_, item);
            put(tile_at(matrix, a, b), tiles, count * run);
        }
    }

    template <int64_t item>
    void items_from_tiles(const Matrix& matrix, int64_t b) const {
        for (int64_t a = 0; a < layout_.k1; ++a) {
            const char* tile = tile_at(matrix, a, b);
            char* column = rows_at(matrix, a, b);
            for (int64_t j = 0; j < columns_in(b); ++j, column += column_stride_)
                for (int64_t i = 0; i < rows_in(a); ++i)
                    std::memcpy(column + i * row_stride_, tile + (i * layout_.c0 + j) * item, item);
        }
    }

    template <class Body>
    void for_item_size(Body&& body) const {
        switch (size()) {
            case 1:
                return body(std::integral_constant<int64_t, 1>{});
            case 2:
                return body(std::integral_constant<int64_t, 2>{});
            case 4:
                return body(std::integral_constant<int64_t, 4>{});
            default:
                return body(std::integral_constant<int64_t, 8>{});
        }
    }

    static void clear(char* target, int64_t bytes) { std::memset(target, 0, static_cast<size_t>(bytes)); }

    const Args args_;
    NzLayout layout_ = {};
    Tensor needed_ = {};
    Piece copy_;
    int64_t row_stride_ = 0;
    int64_t column_stride_ = 0;
    bool side_by_side_ = true;
    const CopyKernels* streaming_ = nullptr;  // null when the result goes through the caches
};

}  // namespace
}  // namespace moe

MOE_DEFINE_OPERATOR(moe::FormatCast, moe_format_cast)
