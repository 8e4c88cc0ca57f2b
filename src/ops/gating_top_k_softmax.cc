#include <algorithm>
#include <climits>
#include <cstdint>

#include "core/op.h"
#include "kernels/gating/gating.h"
#include "kernels/rows/rows.h"
#include "moe_native/gating.h"
#include "ops/gating_rows.h"

namespace moe {
namespace {

// What the two operators have in common. Scores are (..., experts); everything before the last dimension is a row.
template <class ArgsOfOperator>
class SoftmaxGating {
  public:
    using Args = ArgsOfOperator;

    explicit SoftmaxGating(const Args& args) : args_(args) {}

  protected:
    static constexpr int64_t largest_k = 1024;

    Status check_present(Outputs outputs) const {
        MOE_TRY(required(args_.x, "x"));
        MOE_TRY(optional(args_.finished, "finished"));
        if (outputs == Outputs::ignored) return MOE_OK;
        MOE_TRY(required(args_.y, "y"));
        return required(args_.expert_idx, "expert_idx");
    }

    Status check_dtypes(Outputs outputs) const {
        MOE_TRY(dtype_in(*args_.x, "x", {MOE_FLOAT16, MOE_BFLOAT16, MOE_FLOAT32}));
        if (args_.finished != nullptr) MOE_TRY(dtype_in(*args_.finished, "finished", {MOE_BOOL}));
        if (outputs == Outputs::ignored) return MOE_OK;
        MOE_TRY(same_dtype(*args_.y, "y", args_.x->dtype, "x"));
        return dtype_in(*args_.expert_idx, "expert_idx", {MOE_INT32});
    }

    Status check_shapes() {
        const Tensor& x = *args_.x;
        if (x.rank != 2 && x.rank != 3)
            return fail(MOE_ERROR_TILING, Kind::shape, "x", "shape %s, needed 2 or 3 dimensions",
                        describe_shape(x.rank, x.shape).text);
        for (int32_t d = 0; d < x.rank; ++d)
            if (x.shape[d] > INT32_MAX)
                return fail(MOE_ERROR_TILING, Kind::shape, "x", "shape %s, needed no dimension above 2^31 - 1",
                            describe_shape(x.rank, x.shape).text);
        experts_ = x.shape[x.rank - 1];
        rows_ = 1;
        for (int32_t d = 0; d + 1 < x.rank; ++d) rows_ *= x.shape[d];
        if (args_.finished != nullptr)
            MOE_TRY(shape_like_rows(*args_.finished, "finished", 0, 0, "the shape of x without its last dimension"));
        const int64_t most = std::min(experts_, largest_k);
        if (args_.k < 0 || args_.k > most)
            return fail(MOE_ERROR_TILING, Kind::value, "k", "%lld, needed 0 to %lld (%s)",
                        static_cast<long long>(args_.k), static_cast<long long>(most),
                        most == experts_ ? "the experts of x" : "the largest of this operator");
        return MOE_OK;
    }

    // The leading dimensions of x, followed by `last` if `trailing` is 1.
    Status shape_like_rows(const Tensor& tensor, const char* argument, int32_t trailing, int64_t last,
                           const char* layout) const {
        const int64_t* rows = args_.x->shape;
        if (args_.x->rank == 2)
            return trailing == 0 ? shape_is(tensor, argument, {rows[0]}, layout, MOE_ERROR_TILING)
                                 : shape_is(tensor, argument, {rows[0], last}, layout, MOE_ERROR_TILING);
        return trailing == 0 ? shape_is(tensor, argument, {rows[0], rows[1]}, layout, MOE_ERROR_TILING)
                             : shape_is(tensor, argument, {rows[0], rows[1], last}, layout, MOE_ERROR_TILING);
    }

    Status check_choice_shape(const Tensor& tensor, const char* argument) const {
        return shape_like_rows(tensor, argument, 1, args_.k, "the shape of x with k for its last dimension");
    }

    Tensor choice_shape(Dtype dtype) const {
        int64_t shape[MOE_MAX_RANK];
        std::copy_n(args_.x->shape, args_.x->rank, shape);
        shape[args_.x->rank - 1] = args_.k;
        return moe_tensor_make(nullptr, dtype, args_.x->rank, shape);
    }

    void book_common(Ledger& ledger) {
        x_.book(args_.x, "x", ledger);
        finished_.book(args_.finished, "finished", ledger);
        y_.book(args_.y, "y", ledger);
        expert_idx_.book(args_.expert_idx, "expert_idx", ledger);
        gating_rows_.book(rows_, experts_, args_.k, ledger);
    }

    Status load_common(const Workspace& workspace) {
        MOE_TRY(x_.load(workspace));
        MOE_TRY(finished_.load(workspace));
        MOE_TRY(y_.load(workspace));
        return expert_idx_.load(workspace);
    }

    void store_common() const {
        y_.store();
        expert_idx_.store();
    }

    const char* x_row(int64_t row) const { return x_.data<char>() + row * experts_ * moe_dtype_size(args_.x->dtype); }

    int32_t* expert_row(int64_t row) const { return expert_idx_.data<int32_t>() + row * args_.k; }

    // The k experts of the largest scores, and those scores as the batch's weights. Uses up its keys.
    void choose(const GatingKernels& gating, const float* scores, const GatingRows::Batch& batch) const {
        gating.keys(scores, nullptr, batch.keys, batch.count, experts_);
        int32_t* chosen = expert_row(batch.first);
        gating.select(batch.keys, batch.count, experts_, args_.k, chosen);
        for (int64_t r = 0; r < batch.count; ++r)
            for (int64_t c = r * args_.k; c < (r + 1) * args_.k; ++c)
                batch.weights[c] = scores[r * experts_ + chosen[c]];
    }

    // Writes the weights, and replaces the experts of finished rows.
    void finish(const RowKernels& kernels, const GatingRows::Batch& batch) const {
        const Dtype dtype = args_.x->dtype;
        narrow_row(kernels, dtype, batch.weights, y_.data<char>() + batch.first * args_.k * moe_dtype_size(dtype),
                   batch.count * args_.k);
        if (!finished_) return;
        for (int64_t row = batch.first; row < batch.first + batch.count; ++row)
            if (finished_.data<unsigned char>()[row] != 0)
                std::fill_n(expert_row(row), args_.k, static_cast<int32_t>(experts_));
    }

    const Args args_;
    int64_t rows_ = 0;
    int64_t experts_ = 0;
    GatingRows gating_rows_;
    Input x_, finished_;
    Output y_, expert_idx_;
};

class GatingTopKSoftmax : public SoftmaxGating<moe_gating_top_k_softmax_args> {
  public:
    static constexpr const char* name = "npu_moe_gating_top_k_softmax";
    using SoftmaxGating::SoftmaxGating;

    Status resolve(Outputs outputs) {
        MOE_TRY(check_present(outputs));
        if (outputs == Outputs::checked) MOE_TRY(required(args_.row_idx, "row_idx"));
        MOE_TRY(check_dtypes(outputs));
        if (outputs == Outputs::checked) MOE_TRY(dtype_in(*args_.row_idx, "row_idx", {MOE_INT32}));
        MOE_TRY(check_shapes());
        if (args_.k > 0 && rows_ > (int64_t{1} << 31) / args_.k)
            return fail(MOE_ERROR_TILING, Kind::shape, "x",
                        "%lld rows, needed at most 2^31 / k = %lld: row_idx is int32", static_cast<long long>(rows_),
                        static_cast<long long>((int64_t{1} << 31) / args_.k));
        if (outputs == Outputs::ignored) return MOE_OK;
        MOE_TRY(check_choice_shape(*args_.y, "y"));
        MOE_TRY(check_choice_shape(*args_.expert_idx, "expert_idx"));
        return check_choice_shape(*args_.row_idx, "row_idx");
    }

    void shapes(Tensor* outputs) const {
        outputs[0] = choice_shape(args_.x->dtype);
        outputs[1] = choice_shape(MOE_INT32);
        outputs[2] = choice_shape(MOE_INT32);
    }

    void book(Ledger& ledger) {
        book_common(ledger);
        row_idx_.book(args_.row_idx, "row_idx", ledger);
        if (args_.x->dtype == MOE_FLOAT32) return;
        rounded_size_ = 2 * GatingRows::padded(gating_rows_.most() * experts_);
        rounded_ = ledger.book<uint16_t>("rounded scores", gating_rows_.threads() * rounded_size_);
    }

    Status run(const Workspace& workspace, const RunContext& context) {
        MOE_TRY(context.data_checked());
        MOE_TRY(load_common(workspace));
        MOE_TRY(row_idx_.load(workspace));
        if (args_.k == 0) return MOE_OK;
        const RowKernels& kernels = row_kernels();
        const GatingKernels& gating = gating_kernels();
        const Dtype dtype = args_.x->dtype;
        gating_rows_.for_each_batch(workspace, [&](const GatingRows::Batch& batch) {
            const int64_t values = batch.count * experts_;
            widen_row(kernels, dtype, x_row(batch.first), batch.scores, values);
            gating.softmax(batch.scores, batch.count, experts_);
            if (dtype != MOE_FLOAT32) {
                // Ties are those of the rounded probabilities.
                uint16_t* rounded = workspace.at<uint16_t>(rounded_) + batch.thread * rounded_size_;
                narrow_row(kernels, dtype, batch.scores, rounded, values);
                widen_row(kernels, dtype, rounded, batch.scores, values);
            }
            choose(gating, batch.scores, batch);
            finish(kernels, batch);
            for (int64_t row = batch.first; row < batch.first + batch.count; ++row) {
                int32_t* slots = row_idx_.data<int32_t>() + row * args_.k;
                for (int64_t c = 0; c < args_.k; ++c) slots[c] = static_cast<int32_t>(c * rows_ + row);
            }
        });
        store_common();
        row_idx_.store();
        return MOE_OK;
    }

  private:
    Output row_idx_;
    Piece rounded_;
    int64_t rounded_size_ = 0;
};

class GatingTopKSoftmaxV2 : public SoftmaxGating<moe_gating_top_k_softmax_v2_args> {
  public:
    static constexpr const char* name = "npu_moe_gating_top_k_softmax_v2";
    using SoftmaxGating::SoftmaxGating;

    Status resolve(Outputs outputs) {
        MOE_TRY(check_present(outputs));
        const bool softmax_checked = outputs == Outputs::checked && returns_softmax();
        if (softmax_checked) MOE_TRY(required(args_.softmax, "softmax"));
        MOE_TRY(check_dtypes(outputs));
        if (softmax_checked) MOE_TRY(dtype_in(*args_.softmax, "softmax", {MOE_FLOAT32}));
        if (args_.renorm != 0 && args_.renorm != 1)
            return fail(MOE_ERROR_TILING, Kind::value, "renorm", "%lld, needed 0 or 1",
                        static_cast<long long>(args_.renorm));
        MOE_TRY(check_shapes());
        if (outputs == Outputs::ignored) return MOE_OK;
        MOE_TRY(check_choice_shape(*args_.y, "y"));
        MOE_TRY(check_choice_shape(*args_.expert_idx, "expert_idx"));
        if (!returns_softmax()) return MOE_OK;
        return shape_like_rows(*args_.softmax, "softmax", 1, experts_, "the shape of x");
    }

    void shapes(Tensor* outputs) const {
        const int64_t none = 0;
        outputs[0] = choice_shape(args_.x->dtype);
        outputs[1] = choice_shape(MOE_INT32);
        outputs[2] = returns_softmax() ? moe_tensor_make(nullptr, MOE_FLOAT32, args_.x->rank, args_.x->shape)
                                       : moe_tensor_make(nullptr, MOE_FLOAT32, 1, &none);
    }

    void book(Ledger& ledger) {
        book_common(ledger);
        if (returns_softmax()) softmax_.book(args_.softmax, "softmax", ledger);
    }

    Status run(const Workspace& workspace, const RunContext& context) {
        MOE_TRY(context.data_checked());
        MOE_TRY(load_common(workspace));
        MOE_TRY(softmax_.load(workspace));
        if (experts_ == 0) return MOE_OK;
        const RowKernels& kernels = row_kernels();
        const GatingKernels& gating = gating_kernels();
        gating_rows_.for_each_batch(workspace, [&](const GatingRows::Batch& batch) {
            float* scores = softmax_ ? softmax_.data<float>() + batch.first * experts_ : batch.scores;
            widen_row(kernels, args_.x->dtype, x_row(batch.first), scores, batch.count * experts_);
            if (args_.renorm == 0) gating.softmax(scores, batch.count, experts_);
            if (args_.k == 0) return;
            choose(gating, scores, batch);
            if (args_.renorm == 1) gating.softmax(batch.weights, batch.count, args_.k);
            finish(kernels, batch);
        });
        store_common();
        softmax_.store();
        return MOE_OK;
    }

  private:
    bool returns_softmax() const { return args_.output_softmax && args_.renorm == 0; }

    Output softmax_;
};

}  // namespace
}  // namespace moe

MOE_DEFINE_OPERATOR(moe::GatingTopKSoftmax, moe_gating_top_k_softmax)
MOE_DEFINE_OPERATOR(moe::GatingTopKSoftmaxV2, moe_gating_top_k_softmax_v2)
