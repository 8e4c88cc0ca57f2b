#include "ops/ffn_int8.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/rows/rows.h"

namespace moe {
namespace {

// Rows of weights streamed at a time: they stay in the second-level cache for the few rows of x.
constexpr int64_t stream_k = 64;
constexpr FfnStream ffn_stream = {3, 8 * 1024};
constexpr int64_t rows_size = qgemm_max_rows * ffn_block_k * qgemm_packed_item;
constexpr int line_count = 5;
static_assert(ffn_block_k % qgemm_k_unit == 0);

struct Scratch {
    unsigned char* packed;
    unsigned char* rows;
    int32_t* sums;
    float* deq_scale;
    float* scale;
    float* offset;
    float* values;
    uint16_t* halves;
};

// A packed scale is a float32 without the low 13 bits, in the low half of 64 bits.
void decode_deq_scales(Dtype dtype, const char* data, int64_t first, int64_t n, float* out) {
    if (dtype != MOE_INT64 && dtype != MOE_UINT64)
        return widen_row(row_kernels(), dtype, data + first * moe_dtype_size(dtype), out, n);
    const auto* words = reinterpret_cast<const uint64_t*>(data) + first;
    for (int64_t j = 0; j < n; ++j) {
        const auto bits = static_cast<uint32_t>(words[j] & 0xFFFFE000u);
        std::memcpy(out + j, &bits, sizeof bits);
    }
}

class Products {
  public:
    Products(const FfnProblem& problem, const FfnOperands& operands, Dtype deq_scale)
        : problem_(problem), operands_(operands), deq_dtype_(deq_scale) {}

    int64_t panel() const { return qgemm_.nr; }

    // `hidden` begins with row `hidden_row`.
    void first(const FfnBlock& block, int64_t hidden_row, int8_t* hidden, const Scratch& scratch) const {
        const int64_t n = block.columns;
        const int64_t first = block.expert * problem_.n1 + block.column;
        const int64_t stride = product(operands_.x.data<int8_t>(), block.row, operands_.weight1.data<int8_t>(),
                                       problem_.k1, problem_.n1, block, scratch);
        decode_deq_scales(deq_dtype_, operands_.deq_scale1.data<char>(), first, n, scratch.deq_scale);
        const float* scale = operands_.scale.data<float>();
        if (problem_.scale_per_column)
            std::copy_n(scale + first, n, scratch.scale);
        else
            std::fill_n(scratch.scale, n, scale[block.expert]);
        round_f16(scratch.scale, n, scratch);
        std::fill_n(scratch.offset, n, operands_.offset.data<float>()[block.expert]);
        round_f16(scratch.offset, n, scratch);
        const int32_t* bias = operands_.bias1 ? operands_.bias1.data<int32_t>() + first : nullptr;
        for (int64_t i = 0; i < block.rows; ++i) {
            float* t = scratch.values;
            qgemm_.dequantise(scratch.sums + i * stride, bias, scratch.deq_scale, t, n);
            if (problem_.sum == MOE_FLOAT16) round_f16(t, n, scratch);
            (rows_.*problem_.activate)(t, n);
            round_f16(t, n, scratch);
            rows_.multiply(t, scratch.scale, n);
            round_f16(t, n, scratch);
            rows_.add(t, scratch.offset, n);
            round_f16(t, n, scratch);
            rows_.quantise(t, 1.0f, hidden + (block.row - hidden_row + i) * problem_.k2 + block.column, n);
        }
    }

    void second(const FfnBlock& block, int64_t hidden_row, const int8_t* hidden, const Scratch& scratch) const {
        const int64_t n = block.columns;
        const int64_t first = block.expert * problem_.n2 + block.column;
        const int64_t stride = product(hidden, block.row - hidden_row, operands_.weight2.data<int8_t>(), problem_.k2,
                                       problem_.n2, block, scratch);
        decode_deq_scales(deq_dtype_, operands_.deq_scale2.data<char>(), first, n, scratch.deq_scale);
        const int32_t* bias = operands_.bias2 ? operands_.bias2.data<int32_t>() + first : nullptr;
        for (int64_t i = 0; i < block.rows; ++i) {
            qgemm_.dequantise(scratch.sums + i * stride, bias, scratch.deq_scale, scratch.values, n);
            const int64_t at = (block.row + i) * problem_.n2 + block.column;
            narrow_row(rows_, problem_.result, scratch.values,
                       operands_.y.data<char>() + at * moe_dtype_size(problem_.result), n);
        }
    }

  private:
    // Sums of the block's rows, the first of which is row `row` of a, and columns; returns their stride.
    int64_t product(const int8_t* a, int64_t row, const int8_t* w, int64_t k, int64_t n, const FfnBlock& block,
                    const Scratch& scratch) const {
        const bool streamed = block.rows <= ffn_stream.rows;
        const int64_t panels = ceil_divide(block.columns, qgemm_.nr);
        const int64_t stride = streamed ? block.columns : panels * qgemm_.nr;
        std::fill_n(scratch.sums, block.rows * stride, 0);
        const int8_t* weights = w + block.expert * k * n + block.column;
        for (int64_t p = 0; p < k;) {
            const int64_t most = !streamed ? ffn_block_k : block.rows > 1 ? stream_k : k;
            const int64_t count = std::min(most, k - p);
            const int8_t* rows = a + row * k + p;
            if (streamed) {
                for (int64_t i = 0; i < block.rows; ++i)
                    qgemm_.row(weights + p * n, n, count, block.columns, rows + i * k, scratch.sums + i * stride);
            } else {
                const int64_t tiles = ceil_divide(block.rows, qgemm_.mr) * panels;
                FfnPrefetch<2> ahead(ffn_weights_behind(reinterpret_cast<const char*>(w), 1, k, n, block, block.column,
                                                        p + count, ffn_block_k),
                                     tiles);
                multiply_packed(rows, k, weights + p * n, n, count, block, stride, scratch, ahead);
            }
            p += count;
        }
        return stride;
    }

    // One block of packed weights times all rows of the block of a.
    void multiply_packed(const int8_t* a, int64_t a_stride, const int8_t* w, int64_t w_stride, int64_t k,
                         const FfnBlock& block, int64_t stride, const Scratch& scratch, FfnPrefetch<2>& ahead) const {
        qgemm_.pack(w, w_stride, k, block.columns, scratch.packed);
        const int64_t panel_size = qgemm_.panel_size(k);
        const int64_t row_size = qgemm_.row_size(k);
        for_each_ffn_tile(block.rows, qgemm_.mr, [&](int64_t begin, int64_t rows) {
            for (int64_t r = 0; r < rows; ++r)
                qgemm_.pack_row(a + (begin + r) * a_stride, k, scratch.rows + r * row_size);
            for (int64_t j = 0; j < stride; j += qgemm_.nr) {
                ahead.fetch();
                qgemm_.tile(rows, k, scratch.rows, scratch.packed + j / qgemm_.nr * panel_size,
                            scratch.sums + begin * stride + j, stride);
            }
        });
    }

    void round_f16(float* values, int64_t n, const Scratch& scratch) const {
        rows_.narrow_f16(values, scratch.halves, n);
        rows_.widen_f16(scratch.halves, values, n);
    }

    const FfnProblem& problem_;
    const FfnOperands& operands_;
    const QgemmKernels& qgemm_ = qgemm_kernels();
    const RowKernels& rows_ = row_kernels();
    Dtype deq_dtype_;
};

}  // namespace

void FfnInt8::book(const FfnProblem& problem, Ledger& ledger) {
    const int64_t threads = ledger.threads();
    int64_t hidden_bytes;
    batch_rows_ = ffn_batch_rows(problem.rows, problem.k2, threads);
    if (__builtin_mul_overflow(batch_rows_, problem.k2, &hidden_bytes))
        hidden_bytes = std::numeric_limits<int64_t>::max();
    const int64_t longest = std::min(ffn_block_k, std::max(problem.k1, problem.k2));
    const int64_t packed_k = ceil_divide(longest, qgemm_k_unit) * qgemm_k_unit;
    packed_size_ = problem.rows > ffn_stream.rows ? packed_k * ffn_block_columns * qgemm_packed_item : 0;
    line_size_ = ffn_widest_block(ffn_stream, std::max(problem.k2, problem.n2));
    sums_size_ = ffn_block_sums(problem.rows, ffn_stream, line_size_);
    hidden_ = ledger.book("hidden", static_cast<uint64_t>(hidden_bytes));
    packed_ = ledger.book<unsigned char>("packed weights", threads * packed_size_);
    rows_ = ledger.book<unsigned char>("packed rows", threads * rows_size);
    sums_ = ledger.book<int32_t>("sums", threads * sums_size_);
    lines_ = ledger.book<float>("lines", threads * line_count * line_size_);
}

void FfnInt8::run(const FfnProblem& problem, const FfnOperands& operands, const moe_ffn_args& args, const int64_t* ends,
                  const Workspace& workspace) {
    const Products products(problem, operands, args.deq_scale1->dtype);
    const auto scratch_of = [&](int thread) {
        float* lines = workspace.at<float>(lines_) + thread * line_count * line_size_;
        Scratch scratch;
        scratch.packed = workspace.at<unsigned char>(packed_) + thread * packed_size_;
        scratch.rows = workspace.at<unsigned char>(rows_) + thread * rows_size;
        scratch.sums = workspace.at<int32_t>(sums_) + thread * sums_size_;
        scratch.deq_scale = lines;
        scratch.scale = lines + line_size_;
        scratch.offset = lines + 2 * line_size_;
        scratch.values = lines + 3 * line_size_;
        scratch.halves = reinterpret_cast<uint16_t*>(lines + 4 * line_size_);
        return scratch;
    };
    // Then rows take no memory: there may be more of them than can be counted off.
    if (problem.n2 == 0) return;
    auto* hidden = workspace.at<int8_t>(hidden_);
    const FfnRows rows{ends, problem.slices()};
    rows.for_each_batch(batch_rows_, [&](int64_t first, int64_t last) {
        for_each_ffn_block(
            workspace.threads(), rows, first, last, problem.k2, problem.k1, products.panel(), ffn_stream,
            [&](int thread, const FfnBlock& block) { products.first(block, first, hidden, scratch_of(thread)); });
        for_each_ffn_block(
            workspace.threads(), rows, first, last, problem.n2, problem.k2, products.panel(), ffn_stream,
            [&](int thread, const FfnBlock& block) { products.second(block, first, hidden, scratch_of(thread)); });
    });
}

}  // namespace moe
