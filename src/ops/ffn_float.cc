#include "ops/ffn_float.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/bf16.h"
#include "kernels/rows/rows.h"

namespace moe {
namespace {

// Rows of weights streamed at a time.
constexpr int64_t stream_k = 64;
// Of the widest block that is streamed. Most rows of floats are read from end to end: gaps between what is read cost up
// to half of the memory's rate. Integers are dequantised on the way, or unpacked: they gain nothing from longer rows.
constexpr int64_t stream_float_columns = 16 * 1024;
constexpr int64_t stream_integer_columns = 2048;
// Of a panel, in words of four bytes.
constexpr int64_t packed_size = fgemm_max_words * fgemm_max_columns;
// Plain weights made of others, in bytes: int4 of all columns that are streamed; of packed floats those of a panel, where
// a word is a float32 or two rows of two bytes.
constexpr int64_t plain_int4_size = std::max(stream_k * stream_integer_columns, packed_size);
constexpr int64_t plain_float_size = packed_size * static_cast<int64_t>(sizeof(float));
// Panels of packed weights that are streamed take turns, with so many bytes of each at a time: memory is fastest with
// several streams.
constexpr int64_t panels_in_turn = 8;
constexpr int64_t piece_bytes = 2048;
static_assert(piece_bytes % (2 * fgemm_max_columns * sizeof(float)) == 0, "whole rows and pairs of rows");
constexpr int line_count = 5;
// Off the powers of two, or rows of sums would compete for the same sets of the first-level cache.
constexpr int64_t sums_gap = 16;
static_assert(stream_k <= fgemm_max_words);

// One operand of a product: rows of `k` values, from row `first` on.
struct Rows {
    Dtype dtype;
    const char* data;
    int64_t k;
    int64_t first;

    const char* at(int64_t row, int64_t p) const { return data + ((row - first) * k + p) * moe_dtype_size(dtype); }
};

// The other: weights of all experts, (slices, k, n), in `data` or in `panels`.
struct Weights {
    WeightKind kind;
    Dtype dtype;
    const char* data;
    FloatPanels panels;
    int64_t k;
    int64_t n;
    // Integers only: scales and offsets of type `scale_dtype`, (slices, groups, n).
    Dtype scale_dtype;
    const char* scale;
    const char* offset;
    int64_t groups;
};

// What one thread works in.
struct Scratch {
    uint32_t* packed;
    char* plain;
    float* sums;
    float* right_sums;
    uint32_t* rows;
    float* bias;
    float* right_bias;
    float* scale;
    float* offset;
    uint16_t* halves;
};

FfnStream stream_of(Dtype weight, int64_t rows) {
    const bool integer = weight == MOE_INT8 || weight == MOE_INT4;
    return {rows, integer ? stream_integer_columns : stream_float_columns};
}

WeightKind kind_of(Dtype weight, Dtype x) {
    switch (weight) {
        case MOE_FLOAT16:
            return WeightKind::f16;
        case MOE_BFLOAT16:
            return WeightKind::bf16;
        case MOE_FLOAT32:
            return WeightKind::f32;
        default:
            return x == MOE_FLOAT16 ? WeightKind::s8_f16 : WeightKind::s8_bf16;
    }
}

// Brings them into the cache during `units` times fgemm_unit words of tiles.
FgemmAhead ahead_of(const FfnRowsBehind& behind, int64_t units) {
    constexpr int64_t line = 64;
    const auto before = static_cast<int64_t>(reinterpret_cast<uintptr_t>(behind.first) % line);
    const int64_t row_lines = ceil_divide(before + behind.row_bytes, line);
    return {behind.first - before, behind.stride, behind.rows, row_lines, ceil_divide(behind.rows * row_lines, units)};
}

// Two's complement in four bits, the even element in the low half of a byte.
void unpack_int4(const char* data, int64_t first, int64_t n, int8_t* out) {
    for (int64_t i = 0; i < n; ++i) {
        const int byte = static_cast<unsigned char>(data[(first + i) / 2]);
        const int nibble = (first + i) % 2 == 0 ? byte & 15 : byte >> 4;
        out[i] = static_cast<int8_t>((nibble ^ 8) - 8);
    }
}

class Products {
  public:
    Products(const FfnProblem& problem, const FfnOperands& operands, const moe_ffn_args& args)
        : problem_(problem),
          operands_(operands),
          fgemm_(ffn_kernels(args.weight1->dtype)),
          bias_dtype_(args.x->dtype == MOE_FLOAT16 ? MOE_FLOAT16 : MOE_FLOAT32) {
        x_ = {args.x->dtype, operands.x.data<char>(), problem.k1, 0};
        weight1_ = weights_of(*args.weight1, operands.weight1, operands.antiquant_scale1, operands.antiquant_offset1,
                              problem.groups1);
        weight2_ = weights_of(*args.weight2, operands.weight2, operands.antiquant_scale2, operands.antiquant_offset2,
                              problem.groups2);
    }

    FfnStream stream() const { return stream_of(weight1_.dtype, fgemm_.stream_rows[index(weight1_.kind)]); }
    // At what multiples columns of the products may be cut.
    int64_t first_panel() const { return panel(weight1_); }
    int64_t second_panel() const { return panel(weight2_); }

    // `hidden` begins with row `hidden_row`.
    void first(const FfnBlock& block, int64_t hidden_row, char* hidden, const Scratch& scratch) const {
        const int64_t n = block.columns;
        const Input& bias = operands_.bias1;
        product(x_, weight1_, block, block.column, scratch, scratch.sums);
        load_bias(bias, problem_.n1, block.expert, block.column, n, scratch.bias);
        if (problem_.gated) {
            const int64_t right = problem_.k2 + block.column;
            product(x_, weight1_, block, right, scratch, scratch.right_sums);
            load_bias(bias, problem_.n1, block.expert, right, n, scratch.right_bias);
        }
        for_each_piece(weight1_, block, [&](int64_t row, int64_t column, int64_t width, int64_t begin) {
            float* t = scratch.sums + begin;
            finish_sum(t, bias ? scratch.bias + column : nullptr, width, scratch);
            if (problem_.gated) {
                float* right = scratch.right_sums + begin;
                finish_sum(right, bias ? scratch.right_bias + column : nullptr, width, scratch);
                (rows_.*problem_.activate)(right, width);
                rows_.multiply(t, right, width);
            } else {
                (rows_.*problem_.activate)(t, width);
            }
            const int64_t at = (block.row - hidden_row + row) * problem_.k2 + block.column + column;
            narrow_row(rows_, problem_.hidden, t, hidden + at * moe_dtype_size(problem_.hidden), width);
        });
    }

    void second(const FfnBlock& block, int64_t hidden_row, const char* hidden, const Scratch& scratch) const {
        const Input& bias = operands_.bias2;
        const Rows h{problem_.hidden, hidden, problem_.k2, hidden_row};
        product(h, weight2_, block, block.column, scratch, scratch.sums);
        load_bias(bias, problem_.n2, block.expert, block.column, block.columns, scratch.bias);
        for_each_piece(weight2_, block, [&](int64_t row, int64_t column, int64_t width, int64_t begin) {
            float* sum = scratch.sums + begin;
            if (bias) rows_.add(sum, scratch.bias + column, width);
            const int64_t at = (block.row + row) * problem_.n2 + block.column + column;
            narrow_row(rows_, problem_.result, sum, operands_.y.data<char>() + at * moe_dtype_size(problem_.result),
                       width);
        });
    }

  private:
    // `plain` holds the weight unless it is packed.
    Weights weights_of(const Tensor& weight, const Input& plain, const Input& scale, const Input& offset,
                       int64_t groups) const {
        return {kind_of(weight.dtype, x_.dtype),
                weight.dtype,
                plain.data<char>(),
                is_packed(weight) ? FloatPanels(weight) : FloatPanels(),
                weight.shape[weight.rank - 2],
                weight.shape[weight.rank - 1],
                x_.dtype,
                scale.data<char>(),
                offset.data<char>(),
                groups};
    }

    // Streamed weights without panels have lines of memory.
    int64_t panel(const Weights& w) const { return problem_.rows <= stream().rows && !w.panels ? 32 : fgemm_.nr; }

    // Whether sums of a row lie side by side for all columns of the block, and not for those of a panel only, so that the
    // tiles of its rows pass over memory in order.
    bool in_whole_rows(const Weights& w, const FfnBlock& block) const { return streamed(block) && !w.panels; }
    // From one row of sums to the next.
    int64_t sums_stride(const Weights& w, const FfnBlock& block) const {
        return in_whole_rows(w, block) ? block.columns + sums_gap : fgemm_.nr;
    }

    // Calls visit(row, column, width, begin) for pieces of rows of the block's sums, which are at `begin`.
    template <class Visit>
    void for_each_piece(const Weights& w, const FfnBlock& block, Visit&& visit) const {
        const int64_t piece_columns = in_whole_rows(w, block) ? block.columns : fgemm_.nr;
        const int64_t stride = sums_stride(w, block);
        for (int64_t j = 0; j < block.columns; j += piece_columns)
            for (int64_t i = 0; i < block.rows; ++i)
                visit(i, j, std::min(piece_columns, block.columns - j), j * block.rows + i * stride);
    }

    bool streamed(const FfnBlock& block) const { return block.rows <= stream().rows; }

    // Sums of the block's rows with columns [column, column + block.columns) of the weights.
    void product(const Rows& a, const Weights& w, const FfnBlock& block, int64_t column, const Scratch& scratch,
                 float* sums) const {
        if (!streamed(block))
            multiply(a, w, block, column, scratch, sums);
        else if (w.panels)
            stream_panels(a, w, block, column, scratch, sums);
        else
            stream(a, w, block, column, scratch, sums);
    }

    void stream(const Rows& a, const Weights& w, const FfnBlock& block, int64_t column, const Scratch& scratch,
                float* sums) const {
        const int64_t stride = sums_stride(w, block);
        std::fill_n(sums, block.rows * stride, 0.0f);
        for (int64_t k = 0; k < w.k; k += stream_k) {
            const int64_t count = std::min(stream_k, w.k - k);
            load_rows(a, block, k, count, scratch.rows);
            for_each_run(w, block.expert, column, block.columns, k, count, scratch,
                         [&](const WeightBlock& weights, int64_t done) {
                             fgemm_.stream[index(w.kind)](weights, block.rows, scratch.rows + done / k_of_word(), sums,
                                                          stride);
                         });
        }
    }

    void stream_panels(const Rows& a, const Weights& w, const FfnBlock& block, int64_t column, const Scratch& scratch,
                       float* sums) const {
        const int64_t nr = fgemm_.nr;
        const int64_t step = piece_bytes / (nr * w.panels.item);
        const int64_t columns = even_part(block.columns, panels_in_turn * nr, nr);
        std::fill_n(sums, block.rows * ceil_divide(block.columns, nr) * nr, 0.0f);
        FfnBlock turn = block;
        for (int64_t begin = 0; begin < block.columns; begin += turn.columns) {
            turn.columns = std::min(columns, block.columns - begin);
            const int64_t panels = ceil_divide(turn.columns, nr);
            for (int64_t k = 0; k < w.k; k += stream_k) {
                const int64_t count = std::min(stream_k, w.k - k);
                load_rows(a, block, k, count, scratch.rows);
                for (int64_t done = 0; done < count; done += step) {
                    const int64_t rows = std::min(step, count - done);
                    FfnPrefetch<3> next(weights_behind(w, turn, column + begin, k + done + rows, step), panels);
                    for (int64_t j = begin; j < begin + turn.columns; j += nr) {
                        next.fetch();
                        add_panel(w, block, column + j, std::min(nr, block.columns - j), k + done, rows,
                                  scratch.rows + done / k_of_word(), scratch, sums + j * block.rows);
                    }
                }
            }
        }
    }

    // A few rows times weights of one panel, without packing them.
    void add_panel(const Weights& w, const FfnBlock& block, int64_t column, int64_t columns, int64_t k, int64_t count,
                   const uint32_t* rows, const Scratch& scratch, float* sums) const {
        if (!has_panel(w, column)) {
            const WeightBlock weights = weight_block(w, block.expert, column, columns, k, count, scratch);
            return fgemm_.stream[index(w.kind)](weights, block.rows, rows, sums, fgemm_.nr);
        }
        FgemmAhead ahead = {};
        multiply_panel(
            fgemm_.stored_tile[index(w.kind)], block, w.panels.columns_from(column), ceil_divide(count, k_of_word()),
            rows, w.panels.at(block.expert, column, k), sums, false, [] {}, ahead);
    }

    // All rows of a block times a panel. Calls before_tile() for each tile.
    template <class BeforeTile>
    void multiply_panel(FgemmTile tile, const FfnBlock& block, int64_t columns, int64_t words, const uint32_t* rows,
                        const void* panel, float* sums, bool fresh, BeforeTile&& before_tile, FgemmAhead& ahead) const {
        for_each_ffn_tile(block.rows, fgemm_.mr, [&](int64_t begin, int64_t count) {
            before_tile();
            tile(count, columns, words, rows + begin * fgemm_row_stride, panel, sums + begin * fgemm_.nr, fgemm_.nr,
                 fresh, &ahead);
        });
    }

    void multiply(const Rows& a, const Weights& w, const FfnBlock& block, int64_t column, const Scratch& scratch,
                  float* sums) const {
        const int64_t nr = fgemm_.nr;
        const int64_t step = even_part(w.k, fgemm_max_words * k_of_word(), 2);
        const int64_t tiles = ceil_divide(block.rows, fgemm_.mr);
        if (w.k == 0) std::fill_n(sums, block.rows * ceil_divide(block.columns, nr) * nr, 0.0f);
        for (int64_t k = 0; k < w.k; k += step) {
            const int64_t count = std::min(step, w.k - k);
            const int64_t words = ceil_divide(count, k_of_word());
            load_rows(a, block, k, count, scratch.rows);
            const int64_t calls = tiles * ceil_divide(block.columns, nr);
            FfnPrefetch<2> next_rows(rows_behind(a, block, k + count, step), calls);
            FgemmAhead ahead =
                ahead_of(weights_behind(w, block, column, k + count, step), calls * ceil_divide(words, fgemm_unit));
            for (int64_t j = 0; j < block.columns; j += nr) {
                int64_t columns = std::min(nr, block.columns - j);
                const void* panel = scratch.packed;
                if (has_panel(w, column + j) && stored_as_packed(w)) {
                    columns = w.panels.columns_from(column + j);
                    panel = w.panels.at(block.expert, column + j, k);
                } else {
                    // Others are converted once for all tiles.
                    pack_panel(w, block.expert, column + j, columns, k, count, scratch);
                }
                multiply_panel(
                    fgemm_.tile, block, columns, words, scratch.rows, panel, sums + j * block.rows, k == 0,
                    [&] { next_rows.fetch(); }, ahead);
            }
        }
    }

    // Whether a panel begins with this column that stored_tile takes.
    bool has_panel(const Weights& w, int64_t column) const {
        return w.panels.order.width == fgemm_.nr && w.panels.order.step == k_of_word() && column % fgemm_.nr == 0 &&
               w.panels.aligned();
    }
    // Whether such a panel is what packing would make of its weights.
    bool stored_as_packed(const Weights& w) const { return fgemm_.stored_tile[index(w.kind)] == fgemm_.tile; }

    void pack_panel(const Weights& w, int64_t expert, int64_t column, int64_t columns, int64_t k, int64_t count,
                    const Scratch& scratch) const {
        const int64_t width = ceil_divide(columns, fgemm_.unit) * fgemm_.unit;
        for_each_run(w, expert, column, columns, k, count, scratch, [&](const WeightBlock& weights, int64_t done) {
            fgemm_.pack[index(w.kind)](weights, scratch.packed + done * width / k_of_word());
        });
    }

    // The weights that follow those of rows below `next_k`: at most `most` rows from there on.
    FfnRowsBehind weights_behind(const Weights& w, const FfnBlock& block, int64_t column, int64_t next_k,
                                 int64_t most) const {
        // int4 is unpacked from memory that nobody prefetches.
        if (w.dtype == MOE_INT4) return {};
        if (!w.panels)
            return ffn_weights_behind(w.data, moe_dtype_size(w.dtype), w.k, w.n, block, column, next_k, most);
        const FfnWeightPart part = ffn_part_behind(w.k, w.n, block, column, next_k, most);
        if (part.columns <= 0) return {};
        const int64_t width = w.panels.order.width;
        const int64_t first = part.column / width * width;
        return {w.panels.at(block.expert, first, part.k), w.panels.stride(), ceil_divide(part.columns, width),
                part.rows * std::min(width, part.columns) * w.panels.item};
    }

    // Calls visit(weights, done) for runs of rows [k + done, ...) of weights that share their scales.
    template <class Visit>
    void for_each_run(const Weights& w, int64_t expert, int64_t column, int64_t columns, int64_t k, int64_t count,
                      const Scratch& scratch, Visit&& visit) const {
        if (w.scale == nullptr) return visit(weight_block(w, expert, column, columns, k, count, scratch), 0);
        const int64_t group_rows = w.k / w.groups;
        for (int64_t done = 0; done < count;) {
            const int64_t group = (k + done) / group_rows;
            const int64_t run = std::min(count - done, (group + 1) * group_rows - (k + done));
            load_scales(w, expert * w.groups + group, column, columns, scratch);
            visit(weight_block(w, expert, column, columns, k + done, run, scratch), done);
            done += run;
        }
    }

    // The rows of a that are loaded for the next rows of weights.
    static FfnRowsBehind rows_behind(const Rows& a, const FfnBlock& block, int64_t k, int64_t step) {
        const int64_t item = moe_dtype_size(a.dtype);
        return {a.at(block.row, k), a.k * item, block.rows, std::min(step, a.k - k) * item};
    }

    static int index(WeightKind kind) { return static_cast<int>(kind); }
    int64_t k_of_word() const { return fgemm_.pairs ? 2 : 1; }

    // Rows of a as the kernels take them.
    void load_rows(const Rows& a, const FfnBlock& block, int64_t k, int64_t count, uint32_t* target) const {
        const int64_t item = moe_dtype_size(a.dtype);
        const char* source = a.at(block.row, k);
        for (int64_t i = 0; i < block.rows; ++i, source += a.k * item, target += fgemm_row_stride) {
            if (fgemm_.pairs) {
                if (count % 2 != 0) target[count / 2] = 0;
                std::memcpy(target, source, static_cast<size_t>(count * item));
            } else {
                widen_row(rows_, a.dtype, source, reinterpret_cast<float*>(target), count);
            }
        }
    }

    void load_scales(const Weights& w, int64_t line, int64_t column, int64_t n, const Scratch& scratch) const {
        const int64_t at = (line * w.n + column) * moe_dtype_size(w.scale_dtype);
        widen_row(rows_, w.scale_dtype, w.scale + at, scratch.scale, n);
        widen_row(rows_, w.scale_dtype, w.offset + at, scratch.offset, n);
    }

    // Weights as kernels pack and stream them.
    static WeightBlock weight_block(const Weights& w, int64_t expert, int64_t column, int64_t columns, int64_t k,
                                    int64_t count, const Scratch& scratch) {
        const int64_t at = (expert * w.k + k) * w.n + column;
        const float* scale = w.scale == nullptr ? nullptr : scratch.scale;
        const float* offset = w.scale == nullptr ? nullptr : scratch.offset;
        if (w.panels) return packed_block(w.panels, expert, column, columns, k, count, scratch);
        if (w.dtype != MOE_INT4)
            return {w.data + at * moe_dtype_size(w.dtype), w.n, count, columns, scale, offset, w.k - k - count};
        auto* plain = reinterpret_cast<int8_t*>(scratch.plain);
        for (int64_t p = 0; p < count; ++p) unpack_int4(w.data, at + p * w.n, columns, plain + p * columns);
        return {plain, columns, count, columns, scale, offset, 0};
    }

    static WeightBlock packed_block(const FloatPanels& panels, int64_t expert, int64_t column, int64_t columns,
                                    int64_t k, int64_t count, const Scratch& scratch) {
        if (panels.aligned() && panels.has_rows_of(column, columns)) {
            const int64_t first = column / panels.order.width * panels.order.width;
            return {panels.at(expert, first, k) + (column - first) * panels.item,
                    panels.columns_from(first),
                    count,
                    columns,
                    nullptr,
                    nullptr,
                    0};
        }
        panels.read(expert, k, count, column, columns, scratch.plain, columns * panels.item);
        return {scratch.plain, columns, count, columns, nullptr, nullptr, 0};
    }

    void load_bias(const Input& bias, int64_t columns, int64_t expert, int64_t column, int64_t n, float* line) const {
        if (!bias) return;
        const int64_t at = (expert * columns + column) * moe_dtype_size(bias_dtype_);
        widen_row(rows_, bias_dtype_, bias.data<char>() + at, line, n);
    }

    void finish_sum(float* t, const float* bias, int64_t n, const Scratch& scratch) const {
        if (bias != nullptr) rows_.add(t, bias, n);
        if (problem_.sum == MOE_FLOAT32) return;
        narrow_row(rows_, problem_.sum, t, scratch.halves, n);
        widen_row(rows_, problem_.sum, scratch.halves, t, n);
    }

    const FfnProblem& problem_;
    const FfnOperands& operands_;
    const FgemmKernels& fgemm_;
    const RowKernels& rows_ = row_kernels();
    Dtype bias_dtype_;
    Rows x_;
    Weights weight1_, weight2_;
};

}  // namespace

const FgemmKernels& ffn_kernels(Dtype weight) {
    const FgemmKernels* pairs = weight == MOE_BFLOAT16 && bf16_dot() ? fgemm_pairs_kernels() : nullptr;
    return pairs != nullptr ? *pairs : fgemm_kernels();
}

void FfnFloat::book(const FfnProblem& problem, const moe_ffn_args& args, Ledger& ledger) {
    const int64_t threads = ledger.threads();
    int64_t hidden_bytes;
    const int64_t row_bytes = problem.k2 * moe_dtype_size(problem.hidden);
    batch_rows_ = ffn_batch_rows(problem.rows, row_bytes, threads);
    if (__builtin_mul_overflow(batch_rows_, row_bytes, &hidden_bytes))
        hidden_bytes = std::numeric_limits<int64_t>::max();
    const FfnStream stream = stream_of(args.weight1->dtype, fgemm_max_stream_rows);
    line_size_ = ffn_widest_block(stream, std::max(problem.k2, problem.n2));
    sums_size_ = ffn_block_sums(problem.rows, stream, line_size_) + fgemm_max_stream_rows * sums_gap;
    rows_size_ = std::min(problem.rows, ffn_block_rows) * fgemm_row_stride;
    // A single row is streamed by every table; which one runs is known no sooner than then.
    packed_size_ = problem.rows > 1 ? packed_size : 0;
    // Likewise for panels that are not those of its tiles.
    const bool any_packed = is_packed(*args.weight1) || is_packed(*args.weight2);
    plain_size_ = args.weight1->dtype == MOE_INT4 ? plain_int4_size : any_packed ? plain_float_size : 0;
    hidden_ = ledger.book("hidden", static_cast<uint64_t>(hidden_bytes));
    packed_ = ledger.book<uint32_t>("packed weights", threads * packed_size_);
    plain_ = ledger.book("plain weights", static_cast<uint64_t>(threads * plain_size_));
    sums_ = ledger.book<float>("sums", threads * sums_size_ * (problem.gated ? 2 : 1));
    rows_ = ledger.book<uint32_t>("rows", threads * rows_size_);
    lines_ = ledger.book<float>("lines", threads * line_count * line_size_);
}

void FfnFloat::run(const FfnProblem& problem, const FfnOperands& operands, const moe_ffn_args& args,
                   const int64_t* ends, const Workspace& workspace) {
    const Products products(problem, operands, args);
    const auto scratch_of = [&](int thread) {
        Scratch scratch;
        float* lines = workspace.at<float>(lines_) + thread * line_count * line_size_;
        scratch.packed = workspace.at<uint32_t>(packed_) + thread * packed_size_;
        scratch.plain = workspace.at<char>(plain_) + thread * plain_size_;
        scratch.sums = workspace.at<float>(sums_) + thread * sums_size_ * (problem.gated ? 2 : 1);
        scratch.right_sums = scratch.sums + sums_size_;
        scratch.rows = workspace.at<uint32_t>(rows_) + thread * rows_size_;
        scratch.bias = lines;
        scratch.right_bias = lines + line_size_;
        scratch.scale = lines + 2 * line_size_;
        scratch.offset = lines + 3 * line_size_;
        scratch.halves = reinterpret_cast<uint16_t*>(lines + 4 * line_size_);
        return scratch;
    };
    // Then rows take no memory: there may be more of them than can be counted off.
    if (problem.n2 == 0) return;
    char* hidden = workspace.at<char>(hidden_);
    const FfnRows rows{ends, problem.slices()};
    rows.for_each_batch(batch_rows_, [&](int64_t first, int64_t last) {
        for_each_ffn_block(
            workspace.threads(), rows, first, last, problem.k2, problem.k1, products.first_panel(), products.stream(),
            [&](int thread, const FfnBlock& block) { products.first(block, first, hidden, scratch_of(thread)); });
        for_each_ffn_block(
            workspace.threads(), rows, first, last, problem.n2, problem.k2, products.second_panel(), products.stream(),
            [&](int thread, const FfnBlock& block) { products.second(block, first, hidden, scratch_of(thread)); });
    });
}

}  // namespace moe
