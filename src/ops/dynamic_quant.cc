#include <algorithm>
#include <cstdint>

#include "core/op.h"
#include "kernels/rows/rows.h"
#include "moe_native/quant.h"
#include "ops/row_copies.h"
#include "ops/row_quantiser.h"

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
        const int64_t threads = std::min<int64_t>(ledger.threads(), rows_);
        smooth_size_ = args_.smooth_scales == nullptr ? 0 : hidden_;
        products_ = ledger.book<float>("smoothed rows", threads * smooth_size_);
        factors_ = ledger.book<float>("smooth_scales of a group", threads * smooth_size_);
        codes_ = ledger.book<int8_t>("rows in int8", threads * 2 * hidden_);
    }

    Status run(const Workspace& workspace, const RunContext& context) {
        for (Input* input : {&input_, &smooth_, &index_}) MOE_TRY(input->load(workspace));
        MOE_TRY(y_.load(workspace));
        MOE_TRY(scale_.load(workspace));
        if (index_) {
            ends_ = workspace.at<int64_t>(ends_piece_);
            MOE_TRY(resolve_groups(context));
        }
        MOE_TRY(context.data_checked());
        // A thread pays from about 64 KiB of rows on.
        const int64_t grain = 1 + 16 * 1024 / std::max<int64_t>(1, hidden_);
        const RowCopies copies(y_.data<char>(), rows_, hidden_);
        parallel_ranges(workspace.threads(), rows_, grain, [&](int thread, int64_t begin, int64_t end) {
            quantise(copies, begin, end,
                     {workspace.at<float>(products_) + thread * smooth_size_,
                      workspace.at<float>(factors_) + thread * smooth_size_,
                      workspace.at<int8_t>(codes_) + thread * 2 * hidden_});
        });
        y_.store();
        scale_.store();
        return MOE_OK;
    }

  private:
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

    // What a thread works in.
    struct Scratch {
        float* products;
        float* factors;
        int8_t* codes;
    };

    // Rows [begin, end). Codes that the caches do not hold are written from a copy, while the next row is quantised.
    void quantise(const RowCopies& copies, int64_t begin, int64_t end, const Scratch& scratch) const {
        const Dtype dtype = args_.input->dtype;
        const int64_t row_bytes = hidden_ * moe_dtype_size(dtype);
        RowQuantiser quantiser(row_kernels(), dtype, nullptr, hidden_, scratch.products);
        RowCopies::Targets targets(copies);
        int64_t group = index_ ? std::upper_bound(ends_, ends_ + groups_, begin) - ends_ : 0;
        int64_t widened_group = -1;
        const auto input_row = [&](int64_t row) { return input_.data<char>() + row * row_bytes; };
        const auto codes_of = [&](int64_t row) {
            return copies.streams() ? scratch.codes + row % 2 * hidden_ : y_.data<int8_t>() + row * hidden_;
        };
        const auto begin_row = [&](int64_t row) {
            while (index_ && group < groups_ && ends_[group] <= row) ++group;
            const bool smooth = smooth_ && (!index_ || group < groups_);
            if (smooth && group != widened_group) {
                widen_row(row_kernels(), dtype, smooth_.data<char>() + group * row_bytes, scratch.factors, hidden_);
                widened_group = group;
            }
            quantiser.begin({input_row(row), smooth ? scratch.factors : nullptr}, codes_of(row),
                            input_row(std::min(row + 1, end - 1)));
        };
        begin_row(begin);
        quantiser.complete();
        for (int64_t row = begin; row < end; ++row) {
            scale_.data<float>()[row] = quantiser.scale();
            if (row + 1 < end) begin_row(row + 1);
            const char* source = reinterpret_cast<const char*>(codes_of(row));
            if (copies.streams()) {
                targets.add(row, source);
                targets.copy(source, {nullptr, 0});
            }
            if (row + 1 < end) quantiser.complete();
        }
    }

    const Args args_;
    int64_t rows_ = 0;
    int64_t hidden_ = 0;
    int64_t groups_ = 0;
    Input input_, smooth_, index_;
    Output y_, scale_;
    Piece ends_piece_, products_, factors_, codes_;
    int64_t smooth_size_ = 0;
    int64_t* ends_ = nullptr;
};

}  // namespace
}  // namespace moe

MOE_DEFINE_OPERATOR(moe::DynamicQuant, moe_dynamic_quant)
