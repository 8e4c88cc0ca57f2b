#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/nz.h"
#include "core/op.h"
#include "moe_native/format.h"

namespace moe {
namespace {

enum class Direction { to_nz, to_nd };

// Moves `bytes` between a run of a tile and the same elements of a row.
template <Direction direction, class Size>
inline void move(char* tile, char* plain, Size bytes) {
    if (direction == Direction::to_nz)
        std::memcpy(tile, plain, bytes);
    else
        std::memcpy(plain, tile, bytes);
}

template <class T, T number>
struct Constant {
    constexpr operator T() const { return number; }
};

// One matrix in both formats. Addresses are char*, in both directions: only one side is written.
struct Pair {
    char* nz;
    char* nd;
    int64_t row_stride;     // of nd, in bytes
    int64_t column_stride;  // of nd, in bytes
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

    Status run(const Workspace& workspace, const RunContext&) {
        MOE_TRY(has_data(args_.input, "input"));
        MOE_TRY(has_data(args_.out, "out"));
        if (element_count(*args_.input) == 0) return MOE_OK;
        if (!args_.in_place && args_.input->data == args_.out->data)
            return fail(MOE_ERROR_INVALID, Kind::value, "out", "the memory of input, needed other memory or in_place");
        Tensor source = *args_.input;
        if (args_.in_place) copy_source(workspace, source);
        if (args_.acl_format == MOE_FORMAT_NZ)
            convert<Direction::to_nz>(workspace.threads(), *args_.out, source);
        else
            convert<Direction::to_nd>(workspace.threads(), source, *args_.out);
        return MOE_OK;
    }

  private:
    // Bytes of a row that are read or written before the next row: whole cache lines, and few enough pages.
    static constexpr int64_t band = 512;

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

    template <Direction direction>
    void convert(int threads, const Tensor& nz, const Tensor& nd) const {
        const int64_t tiles = std::max<int64_t>(1, band / (layout_.c0 * size()));  // beside each other, in one band
        const int64_t bands = (layout_.n1 + tiles - 1) / tiles;
        const int64_t band_bytes = tiles * layout_.column() * size();
        const int64_t grain = 1 + 256 * 1024 / band_bytes;
        parallel_ranges(threads, layout_.matrices * bands, grain, [&](int, int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const int64_t first = i % bands * tiles;
                convert_band<direction>(matrix_of(nz, nd, i / bands), first, std::min(layout_.n1, first + tiles));
            }
        });
    }

    Pair matrix_of(const Tensor& nz, const Tensor& nd, int64_t matrix) const {
        char* plain = static_cast<char*>(nd.data);
        int64_t rest = matrix;
        for (int32_t d = nd.rank - 3; d >= 0; --d) {
            plain += rest % nd.shape[d] * nd.stride[d];
            rest /= nd.shape[d];
        }
        return {static_cast<char*>(nz.data) + matrix * layout_.matrix() * size(), plain, nd.stride[nd.rank - 2],
                nd.stride[nd.rank - 1]};
    }

    // Columns of tiles [first, last), top to bottom: each is written or read as one stream.
    template <Direction direction>
    void convert_band(const Pair& pair, int64_t first, int64_t last) const {
        const int64_t run = layout_.c0 * size();
        const bool in_rows = pair.column_stride == size() || layout_.n == 1;
        for (int64_t a = 0; a < layout_.k1; ++a) {
            const int64_t rows = std::min<int64_t>(MOE_NZ_ROWS, layout_.k - a * MOE_NZ_ROWS);
            // Tiles with every column; beside them there is at most one, the last of the matrix.
            const int64_t whole = in_rows ? std::min(last, layout_.n / layout_.c0) : first;
            if (run == 32)
                convert_whole<direction>(pair, a, rows, first, whole, Constant<int64_t, 32>{});
            else if (run == 64)
                convert_whole<direction>(pair, a, rows, first, whole, Constant<int64_t, 64>{});
            else
                convert_whole<direction>(pair, a, rows, first, whole, run);
            for (int64_t b = std::max(first, whole); b < last; ++b) {
                const int64_t columns = std::min(layout_.c0, layout_.n - b * layout_.c0);
                if (in_rows)
                    convert_partial<direction>(pair, a, rows, b, columns);
                else
                    convert_strided<direction>(pair, a, rows, b, columns);
            }
        }
    }

    char* tile_at(const Pair& pair, int64_t a, int64_t b) const {
        return pair.nz + (b * layout_.column() + a * layout_.tile()) * size();
    }
    char* plain_at(const Pair& pair, int64_t a, int64_t b) const {
        return pair.nd + a * MOE_NZ_ROWS * pair.row_stride + b * layout_.c0 * pair.column_stride;
    }

    // Row by row through two tiles at a time, so that a cache line of a row that both share is used once.
    template <Direction direction, class Run>
    void convert_whole(const Pair& pair, int64_t a, int64_t rows, int64_t first, int64_t last, Run run) const {
        const int64_t beside = layout_.column() * size();
        int64_t b = first;
        for (; b + 2 <= last; b += 2) {
            char* tile = tile_at(pair, a, b);
            char* plain = plain_at(pair, a, b);
            for (int64_t i = 0; i < rows; ++i) {
                move<direction>(tile + i * run, plain + i * pair.row_stride, static_cast<size_t>(run));
                move<direction>(tile + beside + i * run, plain + i * pair.row_stride + run, static_cast<size_t>(run));
            }
            clear_rows<direction>(tile, rows, run);
            clear_rows<direction>(tile + beside, rows, run);
        }
        for (; b < last; ++b) {
            char* tile = tile_at(pair, a, b);
            char* plain = plain_at(pair, a, b);
            for (int64_t i = 0; i < rows; ++i)
                move<direction>(tile + i * run, plain + i * pair.row_stride, static_cast<size_t>(run));
            clear_rows<direction>(tile, rows, run);
        }
    }

    // The last tile of a row when the matrix ends inside it.
    template <Direction direction>
    void convert_partial(const Pair& pair, int64_t a, int64_t rows, int64_t b, int64_t columns) const {
        const int64_t run = layout_.c0 * size();
        const int64_t used = columns * size();
        char* tile = tile_at(pair, a, b);
        char* plain = plain_at(pair, a, b);
        for (int64_t i = 0; i < rows; ++i) {
            move<direction>(tile + i * run, plain + i * pair.row_stride, static_cast<size_t>(used));
            if (direction == Direction::to_nz) std::memset(tile + i * run + used, 0, static_cast<size_t>(run - used));
        }
        clear_rows<direction>(tile, rows, run);
    }

    // Elements that do not lie side by side in a row, as in a transposed matrix.
    template <Direction direction>
    void convert_strided(const Pair& pair, int64_t a, int64_t rows, int64_t b, int64_t columns) const {
        switch (size()) {
            case 1:
                return convert_items<direction, 1>(pair, a, rows, b, columns);
            case 2:
                return convert_items<direction, 2>(pair, a, rows, b, columns);
            case 4:
                return convert_items<direction, 4>(pair, a, rows, b, columns);
            default:
                return convert_items<direction, 8>(pair, a, rows, b, columns);
        }
    }

    template <Direction direction, size_t item>
    void convert_items(const Pair& pair, int64_t a, int64_t rows, int64_t b, int64_t columns) const {
        char* tile = tile_at(pair, a, b);
        char* plain = plain_at(pair, a, b);
        if (direction == Direction::to_nz && (rows < MOE_NZ_ROWS || columns < layout_.c0))
            std::memset(tile, 0, static_cast<size_t>(layout_.tile()) * item);
        for (int64_t j = 0; j < columns; ++j)
            for (int64_t i = 0; i < rows; ++i)
                move<direction>(tile + (i * layout_.c0 + j) * static_cast<int64_t>(item),
                                plain + i * pair.row_stride + j * pair.column_stride, item);
    }

    template <Direction direction>
    static void clear_rows(char* tile, int64_t rows, int64_t run) {
        if (direction == Direction::to_nz && rows < MOE_NZ_ROWS)
            std::memset(tile + rows * run, 0, static_cast<size_t>((MOE_NZ_ROWS - rows) * run));
    }

    const Args args_;
    NzLayout layout_ = {};
    Tensor needed_ = {};
    Piece copy_;
};

}  // namespace
}  // namespace moe

MOE_DEFINE_OPERATOR(moe::FormatCast, moe_format_cast)
