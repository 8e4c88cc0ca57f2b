#include <algorithm>
#include <cstdint>

#include "core/op.h"
#include "kernels/rows/rows.h"
#include "moe_native/quant.h"

namespace moe {
namespace {

class DynamicQuant {
  public:
    static constexpr const char* name = "npu_dynamic_quant";
    using Args = moe_dynamic_quant_args;

    explicit DynamicQuant(const Args& args) : args_(args) {}

    Status resolve(Outputs outputs) {
        MOE_TRY(check_present(outputs));
        MOE_TRY(check_dtypes(outputs));
        MOE_TRY(check_shapes());
        return outputs == Outputs::checked ? check_output_shapes() : static_cast<Status>(MOE_OK);
    }

    void shapes(Tensor* outputs) const {
        const Tensor& input = *args_.input;
        outputs[0] = moe_tensor_make(nullptr, MOE_INT8, input.rank, input.shape);
        outputs[1] = moe_tensor_make(nullptr, MOE_FLOAT32, input.rank - 1, input.shape);
    }

    void book(Ledger& ledger) {
        input_.book(args_.input, "input", ledger);
        smooth_.book(args_.smooth_scales, "smooth_scales", ledger);
        index_.book(args_.group_index, "group_index", ledger);
        y_.book(args_.y, "y", ledger);
        scale_.book(args_.scale, "scale", ledger);
        ends_piece_ = ledger.book<int64_t>("ends of groups", groups_);
        if (needs_buffer())
            buffers_ = ledger.book<float>("rows in float32", std::min<int64_t>(ledger.threads(), rows_) * hidden_);
    }

    Status run(const Workspace& workspace, const RunContext& context) {
        for (Input* input : {&input_, &smooth_, &index_}) MOE_TRY(input->load(workspace));
        MOE_TRY(y_.load(workspace));
        MOE_TRY(scale_.load(workspace));
        if (index_) {
            ends_ = workspace.at<int64_t>(ends_piece_);
            MOE_TRY(resolve_groups(context));
        }
        const RowKernels& kernels = row_kernels();
        // A thread pays from about 64 KiB of rows on.
        const int64_t grain = 1 + 16 * 1024 / std::max<int64_t>(1, hidden_);
        parallel_ranges(workspace.threads(), rows_, grain, [&](int thread, int64_t begin, int64_t end) {
            float* buffer = workspace.at<float>(buffers_);
            if (buffer != nullptr) buffer += thread * hidden_;
            int64_t group = index_ ? std::upper_bound(ends_, ends_ + groups_, begin) - ends_ : 0;
            for (int64_t row = begin; row < end; ++row) {
                while (index_ && group < groups_ && ends_[group] <= row) ++group;
                quantise(kernels, row, group, buffer);
            }
        });
        y_.store();
        scale_.store();
        return MOE_OK;
    }

  private:
    static constexpr int64_t tile = 1024;

    // Plain float32 rows are quantised where they lie.
    bool needs_buffer() const { return args_.smooth_scales != nullptr || args_.input->dtype != MOE_FLOAT32; }

    Status check_present(Outputs outputs) const {
        MOE_TRY(required(args_.input, "input"));
        if (outputs == Outputs::checked) {
            MOE_TRY(required(args_.y, "y"));
            MOE_TRY(required(args_.scale, "scale"));
        }
        MOE_TRY(optional(args_.smooth_scales, "smooth_scales"));
        return optional(args_.group_index, "group_index");
    }

    Status check_dtypes(Outputs outputs) const {
        if (limits() == MOE_LIMITS_NONE)
            MOE_TRY(dtype_in(*args_.input, "input", {MOE_FLOAT16, MOE_BFLOAT16, MOE_FLOAT32}));
        else
            MOE_TRY(dtype_in(*args_.input, "input", {MOE_FLOAT16, MOE_BFLOAT16}));
        if (args_.smooth_scales != nullptr)
            MOE_TRY(same_dtype(*args_.smooth_scales, "smooth_scales", args_.input->dtype, "input"));
        if (args_.group_index != nullptr) MOE_TRY(dtype_in(*args_.group_index, "group_index", {MOE_INT32, MOE_INT64}));
        if (outputs == Outputs::ignored) return MOE_OK;
        MOE_TRY(dtype_in(*args_.y, "y", {MOE_INT8}));
        return dtype_in(*args_.scale, "scale", {MOE_FLOAT32});
    }

    Status check_shapes() {
        const Tensor& input = *args_.input;
        if (input.rank < 2)
            return fail(MOE_ERROR_INVALID, Kind::shape, "input", "shape %s, needed 2 to 8 dimensions",
                        describe_shape(input.rank, input.shape).text);
        hidden_ = input.shape[input.rank - 1];
        rows_ = 1;
        for (int32_t d = 0; d + 1 < input.rank; ++d) rows_ *= input.shape[d];
        if (args_.group_index == nullptr)
            return args_.smooth_scales == nullptr ? static_cast<Status>(MOE_OK)
                                                  : shape_is(*args_.smooth_scales, "smooth_scales", {hidden_},
                                                             "(hidden,), without group_index", MOE_ERROR_INVALID);
        if (args_.smooth_scales == nullptr)
            return fail(MOE_ERROR_INVALID, Kind::value, "group_index",
                        "given without smooth_scales, needed both, smooth_scales or neither");
        MOE_TRY(rank_is(*args_.group_index, "group_index", 1, MOE_ERROR_INVALID));
        groups_ = args_.group_index->shape[0];
        if (limits() != MOE_LIMITS_NONE && groups_ > 1024)
            return fail(MOE_ERROR_INVALID, Kind::shape, "group_index", "%lld groups, needed at most 1024",
                        static_cast<long long>(groups_));
        return shape_is(*args_.smooth_scales, "smooth_scales", {groups_, hidden_}, "(groups, hidden)",
                        MOE_ERROR_INVALID);
    }

    Status check_output_shapes() const {
        Tensor needed[2];
        shapes(needed);
        const auto same = [](const Tensor& tensor, const char* argument, const Tensor& need) {
            if (tensor.rank == need.rank && std::equal(need.shape, need.shape + need.rank, tensor.shape))
                return static_cast<Status>(MOE_OK);
            return fail(MOE_ERROR_INVALID, Kind::shape, argument, "shape %s, needed %s",
                        describe_shape(tensor.rank, tensor.shape).text, describe_shape(need.rank, need.shape).text);
        };
        MOE_TRY(same(*args_.y, "y", needed[0]));
        return same(*args_.scale, "scale", needed[1]);
    }

    int64_t given_end(int64_t group) const {
        return args_.group_index->dtype == MOE_INT32 ? index_.data<int32_t>()[group] : index_.data<int64_t>()[group];
    }

    // The ends as 64-bit numbers in order, whatever the data is.
    Status resolve_groups(const RunContext& context) const {
        int64_t previous = 0;
        for (int64_t group = 0; group < groups_; ++group) {
            const int64_t end = given_end(group);
            if (end < previous || end > rows_)
                MOE_TRY(context.bad_data("group_index", group, end,
                                         "row ends: non-decreasing, none negative or above the number of rows"));
            else
                previous = end;
            ends_[group] = previous;
        }
        if (previous == rows_) return MOE_OK;
        return context.bad_data("group_index", std::max<int64_t>(0, groups_ - 1), previous,
                                "the number of rows as the last end");
    }

    void quantise(const RowKernels& kernels, int64_t row, int64_t group, float* buffer) const {
        const Dtype dtype = args_.input->dtype;
        const char* source = input_.data<char>() + row * hidden_ * moe_dtype_size(dtype);
        int8_t* codes = y_.data<int8_t>() + row * hidden_;
        float* scale = scale_.data<float>() + row;
        if (hidden_ == 0) {
            *scale = 0.0f;
            return;
        }
        if (buffer == nullptr) {
            *scale = quantise_row(kernels, reinterpret_cast<const float*>(source), codes, hidden_);
            return;
        }
        widen_row(kernels, dtype, source, buffer, hidden_);
        if (smooth_ && (!index_ || group < groups_)) multiply_by_smooth(kernels, group, buffer);
        *scale = quantise_row(kernels, buffer, codes, hidden_);
    }

    void multiply_by_smooth(const RowKernels& kernels, int64_t group, float* buffer) const {
        const Dtype dtype = args_.input->dtype;
        float factors[tile];
        for (int64_t column = 0; column < hidden_; column += tile) {
            const int64_t n = std::min(tile, hidden_ - column);
            widen_row(kernels, dtype, smooth_.data<char>() + (group * hidden_ + column) * moe_dtype_size(dtype),
                      factors, n);
            kernels.multiply(buffer + column, factors, n);
        }
    }

    const Args args_;
    int64_t rows_ = 0;
    int64_t hidden_ = 0;
    int64_t groups_ = 0;
    Input input_, smooth_, index_;
    Output y_, scale_;
    Piece ends_piece_, buffers_;
    int64_t* ends_ = nullptr;
};

}  // namespace
}  // namespace moe

MOE_DEFINE_OPERATOR(moe::DynamicQuant, moe_dynamic_quant)
