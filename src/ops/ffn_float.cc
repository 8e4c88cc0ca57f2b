#include "ops/ffn_float.h"

#include <algorithm>
#include <limits>

#include "kernels/rows/rows.h"

namespace moe {
namespace {

// Rows of weights streamed at a time: they stay in the cache for the few rows of x.
constexpr int64_t stream_k = 64;
constexpr int64_t largest_line = std::max(ffn_stream_columns, ffn_block_columns);
// Off the powers of two, or rows of x would compete for the same sets of the first-level cache.
constexpr int64_t row_stride = ffn_block_k + 16;
constexpr int64_t rows_size = fgemm_max_rows * row_stride;
constexpr int64_t unpacked_size = std::max(stream_k * ffn_stream_columns, ffn_block_k* ffn_block_columns);
constexpr int line_count = 5;

// One operand of a product: rows of `k` values.
struct Rows {
    Dtype dtype;
    const char* data;
    int64_t k;
};

// The other: weights of all experts, (slices, k, n).
struct Weights {
    WeightKind kind;
    Dtype dtype;
    const char* data;
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
    float* packed;
    int8_t* unpacked;
    float* sums;
    float* right_sums;
    float* rows;
    float* bias;
    float* right_bias;
    float* scale;
    float* offset;
    uint16_t* halves;
};

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
    Products(const FfnProblem& problem, const FfnOperands& operands, Dtype x, Dtype weight, Dtype bias)
        : problem_(problem), operands_(operands), bias_dtype_(bias) {
        const WeightKind kind = kind_of(weight, x);
        x_ = {x, operands.x.data<char>(), problem.k1};
        weight1_ = {
            kind,           weight, operands.weight1.data<char>(),          problem.k1,
            problem.n1,     x,      operands.antiquant_scale1.data<char>(), operands.antiquant_offset1.data<char>(),
            problem.groups1};
        weight2_ = {
            kind,           weight, operands.weight2.data<char>(),          problem.k2,
            problem.n2,     x,      operands.antiquant_scale2.data<char>(), operands.antiquant_offset2.data<char>(),
            problem.groups2};
    }

    int64_t panel() const { return fgemm_.nr; }

    void first(const FfnBlock& block, char* hidden, const Scratch& scratch) const {
        const int64_t n = block.columns;
        const Input& bias = operands_.bias1;
        const int64_t stride = product(x_, weight1_, block, block.column, scratch, scratch.sums);
        load_bias(bias, problem_.n1, block.expert, block.column, n, scratch.bias);
        if (problem_.gated) {
            const int64_t right = problem_.k2 + block.column;
            product(x_, weight1_, block, right, scratch, scratch.right_sums);
            load_bias(bias, problem_.n1, block.expert, right, n, scratch.right_bias);
        }
        for (int64_t i = 0; i < block.rows; ++i) {
            float* t = scratch.sums + i * stride;
            finish_sum(t, bias ? scratch.bias : nullptr, n, scratch);
            if (problem_.gated) {
                float* right = scratch.right_sums + i * stride;
                finish_sum(right, bias ? scratch.right_bias : nullptr, n, scratch);
                (rows_.*problem_.activate)(right, n);
                rows_.multiply(t, right, n);
            } else {
                (rows_.*problem_.activate)(t, n);
            }
            const int64_t at = (block.row + i) * problem_.k2 + block.column;
            narrow_row(rows_, problem_.hidden, t, hidden + at * moe_dtype_size(problem_.hidden), n);
        }
    }

    void second(const FfnBlock& block, const char* hidden, const Scratch& scratch) const {
        const int64_t n = block.columns;
        const Input& bias = operands_.bias2;
        const Rows h{problem_.hidden, hidden, problem_.k2};
        const int64_t stride = product(h, weight2_, block, block.column, scratch, scratch.sums);
        load_bias(bias, problem_.n2, block.expert, block.column, n, scratch.bias);
        for (int64_t i = 0; i < block.rows; ++i) {
            float* sum = scratch.sums + i * stride;
            if (bias) rows_.add(sum, scratch.bias, n);
            const int64_t at = (block.row + i) * problem_.n2 + block.column;
            narrow_row(rows_, problem_.result, sum, operands_.y.data<char>() + at * moe_dtype_size(problem_.result), n);
        }
    }

  private:
    // Sums of the block's rows with columns [column, column + block.columns) of the weights; returns their stride.
    int64_t product(const Rows& a, const Weights& w, const FfnBlock& block, int64_t column, const Scratch& scratch,
                    float* sums) const {
        const bool streamed = block.rows <= ffn_stream_rows;
        const int64_t nr = fgemm_.nr;
        const int64_t panels = divide_up(block.columns, nr);
        const int64_t stride = streamed ? block.columns : panels * nr;
        const int64_t tiles = divide_up(block.rows, fgemm_.mr) * panels;
        const int64_t step = streamed ? stream_k : ffn_block_k;
        std::fill_n(sums, block.rows * stride, 0.0f);
        for (int64_t k = 0; k < w.k; k += step) {
            const int64_t count = std::min(step, w.k - k);
            if (streamed) {
                load_rows(a, block.row, block.rows, k, count, scratch.rows);
                for_each_run(w, block, column, k, count, scratch, [&](const WeightBlock& weights, int64_t done) {
                    for (int64_t i = 0; i < block.rows; ++i)
                        fgemm_.row[index(w.kind)](weights, scratch.rows + i * row_stride + done, sums + i * stride);
                });
            } else {
                for_each_run(w, block, column, k, count, scratch, [&](const WeightBlock& weights, int64_t done) {
                    fgemm_.pack[index(w.kind)](weights, scratch.packed + done * nr, count * nr);
                });
                FfnPrefetch ahead = weights_behind(w, block, column, k + count, tiles);
                multiply_packed(a, block, k, count, scratch, sums, stride, ahead);
            }
        }
        return stride;
    }

    // Calls visit(weights, done) for runs of rows [k + done, ...) of weights that share their scales.
    template <class Visit>
    void for_each_run(const Weights& w, const FfnBlock& block, int64_t column, int64_t k, int64_t count,
                      const Scratch& scratch, Visit&& visit) const {
        const int64_t group_rows = w.k / w.groups;
        for (int64_t done = 0; done < count;) {
            const int64_t group = (k + done) / group_rows;
            const int64_t run = std::min(count - done, (group + 1) * group_rows - (k + done));
            if (w.scale != nullptr) load_scales(w, block.expert * w.groups + group, column, block.columns, scratch);
            visit(weight_block(w, block, k + done, run, column, scratch), done);
            done += run;
        }
    }

    // One block of packed weights times all rows of the block of x.
    void multiply_packed(const Rows& a, const FfnBlock& block, int64_t k, int64_t count, const Scratch& scratch,
                         float* sums, int64_t stride, FfnPrefetch& ahead) const {
        const int64_t nr = fgemm_.nr;
        const int64_t tiles = divide_up(block.rows, fgemm_.mr);
        for (int64_t t = 0; t < tiles; ++t) {
            // Tiles of even height: a low one costs almost as much as a full one.
            const int64_t begin = block.rows * t / tiles;
            const int64_t rows = block.rows * (t + 1) / tiles - begin;
            load_rows(a, block.row + begin, rows, k, count, scratch.rows);
            float* tile_sums = sums + begin * stride;
            for (int64_t j = 0; j < stride; j += nr) {
                ahead.fetch();
                fgemm_.tile(rows, count, scratch.rows, row_stride, scratch.packed + j * count, tile_sums + j, stride);
            }
        }
    }

    // The weights that are packed next: those from row k on; after the last row, those of the columns to the right.
    static FfnPrefetch weights_behind(const Weights& w, const FfnBlock& block, int64_t column, int64_t k,
                                      int64_t calls) {
        if (w.dtype == MOE_INT4) return {};
        return ffn_weights_behind(w.data, moe_dtype_size(w.dtype), w.k, w.n, block, column, k, calls);
    }

    static int index(WeightKind kind) { return static_cast<int>(kind); }

    void load_rows(const Rows& a, int64_t row, int64_t rows, int64_t k, int64_t count, float* target) const {
        for (int64_t i = 0; i < rows; ++i)
            widen_row(rows_, a.dtype, a.data + ((row + i) * a.k + k) * moe_dtype_size(a.dtype), target + i * row_stride,
                      count);
    }

    void load_scales(const Weights& w, int64_t line, int64_t column, int64_t n, const Scratch& scratch) const {
        const int64_t at = (line * w.n + column) * moe_dtype_size(w.scale_dtype);
        widen_row(rows_, w.scale_dtype, w.scale + at, scratch.scale, n);
        widen_row(rows_, w.scale_dtype, w.offset + at, scratch.offset, n);
    }

    static WeightBlock weight_block(const Weights& w, const FfnBlock& block, int64_t k, int64_t count, int64_t column,
                                    const Scratch& scratch) {
        const int64_t at = (block.expert * w.k + k) * w.n + column;
        if (w.dtype != MOE_INT4)
            return {w.data + at * moe_dtype_size(w.dtype), w.n, count, block.columns, w.scale ? scratch.scale : nullptr,
                    w.offset ? scratch.offset : nullptr};
        for (int64_t p = 0; p < count; ++p)
            unpack_int4(w.data, at + p * w.n, block.columns, scratch.unpacked + p * block.columns);
        return {scratch.unpacked, block.columns, count, block.columns, scratch.scale, scratch.offset};
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
    const FgemmKernels& fgemm_ = fgemm_kernels();
    const RowKernels& rows_ = row_kernels();
    Dtype bias_dtype_;
    Rows x_;
    Weights weight1_, weight2_;
};

}  // namespace

void FfnFloat::book(const FfnProblem& problem, bool int4, Ledger& ledger) {
    const int64_t threads = ledger.threads();
    const int64_t longest = std::max(problem.k1, problem.k2);
    int64_t hidden_bytes;
    if (__builtin_mul_overflow(problem.rows, problem.k2 * moe_dtype_size(problem.hidden), &hidden_bytes))
        hidden_bytes = std::numeric_limits<int64_t>::max();
    sums_size_ = ffn_block_sums(problem.rows);
    hidden_ = ledger.book("hidden", static_cast<uint64_t>(hidden_bytes));
    packed_size_ = problem.rows > ffn_stream_rows ? std::min(ffn_block_k, longest) * ffn_block_columns : 0;
    packed_ = ledger.book<float>("packed weights", threads * packed_size_);
    unpacked_ = ledger.book<int8_t>("unpacked weights", int4 ? threads * unpacked_size : 0);
    sums_ = ledger.book<float>("sums", threads * sums_size_ * (problem.gated ? 2 : 1));
    rows_ = ledger.book<float>("rows", threads * rows_size);
    lines_ = ledger.book<float>("lines", threads * line_count * largest_line);
}

void FfnFloat::run(const FfnProblem& problem, const FfnOperands& operands, const moe_ffn_args& args,
                   const int64_t* ends, const Workspace& workspace) {
    const Dtype bias = args.x->dtype == MOE_FLOAT16 ? MOE_FLOAT16 : MOE_FLOAT32;
    const Products products(problem, operands, args.x->dtype, args.weight1->dtype, bias);
    const auto scratch_of = [&](int thread) {
        Scratch scratch;
        float* lines = workspace.at<float>(lines_) + thread * line_count * largest_line;
        scratch.packed = workspace.at<float>(packed_) + thread * packed_size_;
        scratch.unpacked = workspace.at<int8_t>(unpacked_) + thread * unpacked_size;
        scratch.sums = workspace.at<float>(sums_) + thread * sums_size_ * (problem.gated ? 2 : 1);
        scratch.right_sums = scratch.sums + sums_size_;
        scratch.rows = workspace.at<float>(rows_) + thread * rows_size;
        scratch.bias = lines;
        scratch.right_bias = lines + largest_line;
        scratch.scale = lines + 2 * largest_line;
        scratch.offset = lines + 3 * largest_line;
        scratch.halves = reinterpret_cast<uint16_t*>(lines + 4 * largest_line);
        return scratch;
    };
    char* hidden = workspace.at<char>(hidden_);
    for_each_ffn_block(workspace.threads(), ends, problem.slices(), problem.k2, problem.k1, products.panel(),
                       [&](int thread, const FfnBlock& block) { products.first(block, hidden, scratch_of(thread)); });
    for_each_ffn_block(workspace.threads(), ends, problem.slices(), problem.n2, problem.k2, products.panel(),
                       [&](int thread, const FfnBlock& block) { products.second(block, hidden, scratch_of(thread)); });
}

}  // namespace moe
