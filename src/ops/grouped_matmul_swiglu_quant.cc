#include <algorithm>
#include <cstdint>
#include <cstring>

#include "moe_native/grouped_matmul.h"
#include "ops/grouped_matmul.h"

namespace moe {
namespace {

class GroupedMatmulSwigluQuant {
  public:
    static constexpr const char* name = "npu_grouped_matmul_swiglu_quant";
    using Args = moe_grouped_matmul_swiglu_quant_args;

    explicit GroupedMatmulSwigluQuant(const Args& args) : args_(args) {}

    Status resolve(Outputs outputs) {
        MOE_TRY(check_present(outputs));
        MOE_TRY(check_ranks());
        MOE_TRY(check_product());
        MOE_TRY(check_limits());
        if (outputs == Outputs::ignored) return MOE_OK;
        MOE_TRY(dtype_in(*args_.output, "output", {MOE_INT8}));
        MOE_TRY(shape_is(*args_.output, "output", {m_, half_}, "(m, n / 2)", MOE_ERROR_INVALID));
        MOE_TRY(dtype_in(*args_.output_scale, "output_scale", {MOE_FLOAT32}));
        MOE_TRY(shape_is(*args_.output_scale, "output_scale", {m_}, "(m,)", MOE_ERROR_INVALID));
        if (args_.output_offset == nullptr) return MOE_OK;
        MOE_TRY(dtype_in(*args_.output_offset, "output_offset", {MOE_FLOAT32}));
        return shape_is(*args_.output_offset, "output_offset", {}, "()", MOE_ERROR_INVALID);
    }

    void shapes(Tensor* outputs) const {
        const int64_t shape[] = {m_, half_};
        outputs[0] = moe_tensor_make(nullptr, MOE_INT8, 2, shape);
        outputs[1] = moe_tensor_make(nullptr, MOE_FLOAT32, 1, shape);
        outputs[2] = moe_tensor_make(nullptr, MOE_FLOAT32, 0, shape);
    }

    void book(Ledger& ledger) {
        x_.book(args_.x, "x", ledger);
        weight_scale_.book(args_.weight_scale, "weight_scale", ledger);
        x_scale_.book(args_.x_scale, "x_scale", ledger);
        bias_.book(args_.bias, "bias", ledger);
        output_.book(args_.output, "output", ledger);
        output_scale_.book(args_.output_scale, "output_scale", ledger);
        output_offset_.book(args_.output_offset, "output_offset", ledger);
        experts_.book(args_.group_list, "group_list", args_.group_list_type, m_, ledger);
        if (m_ == 0) return;
        product_.book(weights_, m_, k_, scale_blocks_, half_, 2, half_ % igemm::columns == 0,
                      half_ * static_cast<int64_t>(sizeof(float)), ledger);
        activated_piece_ = ledger.book<float>("activated rows", product_.batch_rows() * half_);
    }

    Status run(const Workspace& workspace, const RunContext& context) {
        for (Input* input : {&x_, &weight_scale_, &x_scale_, &bias_}) MOE_TRY(input->load(workspace));
        MOE_TRY(weights_.load());
        for (Output* output : {&output_, &output_scale_, &output_offset_}) MOE_TRY(output->load(workspace));
        MOE_TRY(experts_.load(workspace, context));
        MOE_TRY(context.data_checked());
        const RowKernels& rows = row_kernels();
        const IgemmKernels& kernels = igemm_kernels();
        if (m_ > 0)
            product_.load(workspace, x_.data<int8_t>(), weights_.int4() ? weight_scale_.data<int64_t>() : nullptr,
                          2 * half_);
        activated_ = workspace.at<float>(activated_piece_);
        const int64_t span = product_.span();
        const int threads = workspace.threads();
        // Panels of the activated half, and as many of the other, which begins anywhere in a tile.
        const auto fill = [&](int64_t item, PanelGroup& group) {
            group.count = 0;
            group.runs = 2;
            for (const int64_t half : {int64_t{0}, half_})
                for (int64_t column = item * span; column < std::min((item + 1) * span, half_);
                     column += igemm::columns)
                    group.columns[group.count++] = {half + column, std::min(igemm::columns, half_ - column)};
        };
        for (int64_t first = 0; first < experts_.used(); first += product_.batch_rows()) {
            const int64_t last = std::min(first + product_.batch_rows(), experts_.used());
            product_.pack(experts_, first, last);
            product_.multiply(experts_, first, last, ceil_divide(half_, span), fill,
                              [&](const PanelGroup& group) { return Activate(*this, kernels, rows, group, first); });
            // All columns of these rows are there: each row gets its scale.
            parallel_ranges(threads, last - first, 1 + 64 * 1024 / half_, [&](int, int64_t begin, int64_t end) {
                for (int64_t row = begin; row < end; ++row)
                    output_scale_.data<float>()[first + row] = quantise_row(
                        rows, activated_ + row * half_, output_.data<int8_t>() + (first + row) * half_, half_);
            });
        }
        if (context.zeroes_undefined()) zero_undefined();
        output_.store();
        output_scale_.store();
        output_offset_.store();
        return MOE_OK;
    }

  private:
    // Activates tiles of a group of panels.
    class Activate {
      public:
        Activate(const GroupedMatmulSwigluQuant& op, const IgemmKernels& kernels, const RowKernels& rows,
                 const PanelGroup& group, int64_t batch_begin)
            : op_(op), kernels_(kernels), rows_(rows), group_(group), batch_begin_(batch_begin) {
            for (int64_t p = 0; p < group.count; ++p) {
                const int64_t first = group.expert * 2 * op.half_ + group.columns[p].first;
                const int64_t width = group.columns[p].width;
                const Dtype dtype = op.args_.weight_scale->dtype;
                if (op.weights_.int4())
                    std::copy_n(op.bias_.data<float>() + first, width, bias_[p]);
                else
                    widen_row(rows, dtype, op.weight_scale_.data<char>() + first * moe_dtype_size(dtype), scale_[p],
                              width);
            }
        }

        void operator()(int64_t row, int64_t count, float* values) const {
            const int64_t panel_stride = op_.product_.tile_rows() * igemm::columns;
            const float* x_scale = op_.x_scale_.data<float>() + row;
            for (int64_t p = 0; p < group_.count; ++p) {
                float* c = values + p * panel_stride;
                if (!op_.weights_.int4()) {
                    kernels_.dequantise(c, count, scale_[p], x_scale);
                    continue;
                }
                for (int64_t r = 0; r < count; ++r, c += igemm::columns) {
                    rows_.add(c, bias_[p], igemm::columns);
                    rows_.scale(c, x_scale[r], igemm::columns);
                }
            }
            for (int64_t p = 0; p < group_.in_run(); ++p) {
                float* s = values + p * panel_stride;
                rows_.silu(s, count * igemm::columns);
                rows_.multiply(s, s + group_.in_run() * panel_stride, count * igemm::columns);
                float* target = op_.activated_ + (row - batch_begin_) * op_.half_ + group_.columns[p].first;
                for (int64_t r = 0; r < count; ++r)
                    std::copy_n(s + r * igemm::columns, group_.columns[p].width, target + r * op_.half_);
            }
        }

      private:
        const GroupedMatmulSwigluQuant& op_;
        const IgemmKernels& kernels_;
        const RowKernels& rows_;
        const PanelGroup& group_;
        const int64_t batch_begin_;
        // What stands beyond the width is computed along with the rest and must be some number.
        float scale_[PanelGroup::most][igemm::columns] = {};
        float bias_[PanelGroup::most][igemm::columns] = {};
    };

    Status check_present(Outputs outputs) const {
        MOE_TRY(required(args_.x, "x"));
        MOE_TRY(required(args_.weight, "weight"));
        MOE_TRY(required(args_.group_list, "group_list"));
        MOE_TRY(required(args_.weight_scale, "weight_scale"));
        MOE_TRY(required(args_.x_scale, "x_scale"));
        MOE_TRY(optional(args_.bias, "bias"));
        MOE_TRY(optional(args_.offset, "offset"));
        if (args_.bias == nullptr && (args_.weight->dtype == MOE_INT32 || args_.weight->dtype == MOE_INT4))
            return fail(MOE_ERROR_NULL, Kind::value, "bias", "missing, needed with an int4 weight");
        if (outputs == Outputs::ignored) return MOE_OK;
        MOE_TRY(required(args_.output, "output"));
        MOE_TRY(required(args_.output_scale, "output_scale"));
        return optional(args_.output_offset, "output_offset");
    }

    Status check_ranks() {
        MOE_TRY(dtype_in(*args_.x, "x", {MOE_INT8}));
        MOE_TRY(rank_is(*args_.x, "x", 2, MOE_ERROR_INVALID));
        m_ = args_.x->shape[0];
        k_ = args_.x->shape[1];
        if (k_ == 0)
            return fail(MOE_ERROR_INVALID, Kind::shape, "x", "shape (%lld, 0), needed k >= 1",
                        static_cast<long long>(m_));
        MOE_TRY(dtype_in(*args_.weight, "weight", {MOE_INT8, MOE_INT32, MOE_INT4}));
        const bool int4 = args_.weight->dtype != MOE_INT8;
        const Tensor& scale = *args_.weight_scale;
        if (int4)
            MOE_TRY(dtype_in(scale, "weight_scale", {MOE_INT64, MOE_UINT64}));
        else
            MOE_TRY(dtype_in(scale, "weight_scale", {MOE_FLOAT32, MOE_FLOAT16, MOE_BFLOAT16}));
        if (!int4 || scale.rank != 3) MOE_TRY(rank_is(scale, "weight_scale", 2, MOE_ERROR_INVALID));
        const int64_t n = scale.shape[scale.rank - 1];
        if (n == 0 || n % 2 != 0)
            return fail(MOE_ERROR_INVALID, Kind::shape, "weight_scale", "n = %lld columns, needed an even number >= 2",
                        static_cast<long long>(n));
        half_ = n / 2;
        scale_blocks_ = scale.rank == 3 ? scale.shape[1] : 1;
        if (scale_blocks_ == 0 || k_ % scale_blocks_ != 0)
            return fail(MOE_ERROR_INVALID, Kind::shape, "weight_scale",
                        "%lld blocks of k, needed a number that divides k = %lld",
                        static_cast<long long>(scale_blocks_), static_cast<long long>(k_));
        if (args_.group_list_type != 0 && args_.group_list_type != 1)
            return fail(MOE_ERROR_INVALID, Kind::value, "group_list_type",
                        "%lld, needed 0 (cumulative ends) or 1 (counts)",
                        static_cast<long long>(args_.group_list_type));
        return MOE_OK;
    }

    Status check_product() {
        const int64_t n = 2 * half_;
        MOE_TRY(weights_.resolve(*args_.weight, "weight", k_, n));
        const int64_t experts = weights_.experts();
        if (args_.weight_scale->rank == 3)
            MOE_TRY(shape_is(*args_.weight_scale, "weight_scale", {experts, scale_blocks_, n},
                             "(experts, blocks of k, n)", MOE_ERROR_INVALID));
        else
            MOE_TRY(shape_is(*args_.weight_scale, "weight_scale", {experts, n}, "(experts, n)", MOE_ERROR_INVALID));
        MOE_TRY(dtype_in(*args_.x_scale, "x_scale", {MOE_FLOAT32}));
        MOE_TRY(shape_is(*args_.x_scale, "x_scale", {m_}, "(m,)", MOE_ERROR_INVALID));
        MOE_TRY(dtype_in(*args_.group_list, "group_list", {MOE_INT64, MOE_INT32}));
        MOE_TRY(rank_is(*args_.group_list, "group_list", 1, MOE_ERROR_INVALID));
        if (args_.group_list->shape[0] > experts)
            return fail(MOE_ERROR_INVALID, Kind::shape, "group_list", "%lld entries, needed at most the %lld experts",
                        static_cast<long long>(args_.group_list->shape[0]), static_cast<long long>(experts));
        if (args_.offset != nullptr) return fail(MOE_ERROR_INVALID, Kind::value, "offset", "given, needed none");
        if (!weights_.int4())
            return args_.bias == nullptr
                       ? static_cast<Status>(MOE_OK)
                       : fail(MOE_ERROR_INVALID, Kind::value, "bias", "given, needed none with an int8 weight");
        MOE_TRY(dtype_in(*args_.bias, "bias", {MOE_FLOAT32}));
        return shape_is(*args_.bias, "bias", {experts, n}, "(experts, n)", MOE_ERROR_INVALID);
    }

    Status check_limits() const {
        if (limits() == MOE_LIMITS_NONE) return MOE_OK;
        const int64_t n = 2 * half_;
        const int64_t above_k = weights_.int4() ? 20000 : 65536;
        if (k_ >= above_k)
            return fail(MOE_ERROR_INVALID, Kind::shape, "x", "k = %lld, needed below %lld on this card",
                        static_cast<long long>(k_), static_cast<long long>(above_k));
        if (n > 10240 || n % 32 != 0)
            return fail(MOE_ERROR_INVALID, Kind::shape, "weight_scale",
                        "n = %lld, needed a multiple of 32 up to 10240 on this card", static_cast<long long>(n));
        if (args_.weight->rank == 5 && k_ % 16 != 0)
            return fail(MOE_ERROR_INVALID, Kind::shape, "x", "k = %lld, needed a multiple of 16 on this card",
                        static_cast<long long>(k_));
        return dtype_in(*args_.group_list, "group_list", {MOE_INT64});
    }

    void zero_undefined() const {
        const int64_t used = experts_.used();
        std::fill_n(output_.data<int8_t>() + used * half_, (m_ - used) * half_, int8_t{0});
        std::fill_n(output_scale_.data<float>() + used, m_ - used, 0.0f);
        if (output_offset_) *output_offset_.data<float>() = 0.0f;
    }

    const Args args_;
    int64_t m_ = 0;
    int64_t k_ = 0;
    int64_t half_ = 0;  // of n
    int64_t scale_blocks_ = 1;
    ExpertWeights weights_;
    ExpertRows experts_;
    GroupedProduct product_;
    Input x_, weight_scale_, x_scale_, bias_;
    Output output_, output_scale_, output_offset_;
    Piece activated_piece_;
    float* activated_ = nullptr;
};

}  // namespace
}  // namespace moe

MOE_DEFINE_OPERATOR(moe::GroupedMatmulSwigluQuant, moe_grouped_matmul_swiglu_quant)
