#include <algorithm>
#include <cstdint>

#include "core/op.h"
#include "kernels/gating/gating.h"
#include "kernels/rows/rows.h"
#include "moe_native/gating.h"
#include "ops/gating_rows.h"

namespace moe {
namespace {

class GatingTopK {
  public:
    static constexpr const char* name = "npu_moe_gating_top_k";
    using Args = moe_gating_top_k_args;

    explicit GatingTopK(const Args& args) : args_(args) {}

    Status resolve(Outputs outputs) {
        MOE_TRY(check_present(outputs));
        MOE_TRY(check_dtypes(outputs));
        MOE_TRY(check_shapes());
        MOE_TRY(check_attributes());
        if (outputs == Outputs::ignored) return MOE_OK;
        MOE_TRY(shape_is(*args_.y, "y", {rows_, args_.k}, "(tokens, k)", MOE_ERROR_TILING));
        MOE_TRY(shape_is(*args_.expert_idx, "expert_idx", {rows_, args_.k}, "(tokens, k)", MOE_ERROR_TILING));
        if (!args_.out_flag) return MOE_OK;
        return shape_is(*args_.norm_out, "norm_out", {rows_, experts_}, "(tokens, experts)", MOE_ERROR_TILING);
    }

    void shapes(Tensor* outputs) const {
        const int64_t chosen[] = {rows_, args_.k};
        const int64_t all[] = {rows_, experts_};
        outputs[0] = moe_tensor_make(nullptr, args_.x->dtype, 2, chosen);
        outputs[1] = moe_tensor_make(nullptr, MOE_INT32, 2, chosen);
        outputs[2] = moe_tensor_make(nullptr, MOE_FLOAT32, 2, all);
    }

    void book(Ledger& ledger) {
        x_.book(args_.x, "x", ledger);
        bias_.book(args_.bias, "bias", ledger);
        y_.book(args_.y, "y", ledger);
        expert_idx_.book(args_.expert_idx, "expert_idx", ledger);
        norm_out_.book(args_.norm_out, "norm_out", ledger);
        gating_rows_.book(rows_, experts_, args_.k, ledger);
        if (!grouped()) return;
        group_keys_size_ = gating_rows_.most() * selection_size(args_.group_count);
        kept_size_ = GatingRows::padded(gating_rows_.most() * args_.k_group);
        group_keys_ = ledger.book<int32_t>("keys of groups", gating_rows_.threads() * group_keys_size_);
        kept_ = ledger.book<int32_t>("kept groups", gating_rows_.threads() * kept_size_);
    }

    Status run(const Workspace& workspace, const RunContext& context) {
        MOE_TRY(context.data_checked());
        MOE_TRY(x_.load(workspace));
        MOE_TRY(bias_.load(workspace));
        MOE_TRY(y_.load(workspace));
        MOE_TRY(expert_idx_.load(workspace));
        const bool zero_scores = !args_.out_flag && context.zeroes_undefined();
        if (args_.out_flag || zero_scores) MOE_TRY(norm_out_.load(workspace));
        const RowKernels& kernels = row_kernels();
        const GatingKernels& gating = gating_kernels();
        float bias[largest_experts];
        if (bias_) widen_row(kernels, args_.x->dtype, bias_.data<char>(), bias, experts_);
        gating_rows_.for_each_batch(workspace, [&](const GatingRows::Batch& batch) {
            gate(kernels, gating, workspace, bias_ ? bias : nullptr, batch);
        });
        y_.store();
        expert_idx_.store();
        if (zero_scores)
            parallel_ranges(workspace.threads(), element_count(*args_.norm_out), 64 * 1024,
                            [&](int, int64_t begin, int64_t end) {
                                std::fill(norm_out_.data<float>() + begin, norm_out_.data<float>() + end, 0.0f);
                            });
        if (args_.out_flag || zero_scores) norm_out_.store();
        return MOE_OK;
    }

  private:
    static constexpr int64_t largest_experts = 2048;

    bool grouped() const { return args_.k_group < args_.group_count; }
    int64_t group_size() const { return experts_ / args_.group_count; }

    Status check_present(Outputs outputs) const {
        MOE_TRY(required(args_.x, "x"));
        MOE_TRY(optional(args_.bias, "bias"));
        if (outputs == Outputs::ignored) return MOE_OK;
        MOE_TRY(required(args_.y, "y"));
        MOE_TRY(required(args_.expert_idx, "expert_idx"));
        return required(args_.norm_out, "norm_out");
    }

    Status check_dtypes(Outputs outputs) const {
        MOE_TRY(dtype_in(*args_.x, "x", {MOE_FLOAT16, MOE_BFLOAT16, MOE_FLOAT32}));
        if (args_.bias != nullptr) MOE_TRY(same_dtype(*args_.bias, "bias", args_.x->dtype, "x"));
        if (outputs == Outputs::ignored) return MOE_OK;
        MOE_TRY(same_dtype(*args_.y, "y", args_.x->dtype, "x"));
        MOE_TRY(dtype_in(*args_.expert_idx, "expert_idx", {MOE_INT32}));
        return dtype_in(*args_.norm_out, "norm_out", {MOE_FLOAT32});
    }

    Status check_shapes() {
        MOE_TRY(rank_is(*args_.x, "x", 2, MOE_ERROR_TILING));
        rows_ = args_.x->shape[0];
        experts_ = args_.x->shape[1];
        if (experts_ < 1 || experts_ > largest_experts)
            return fail(MOE_ERROR_TILING, Kind::shape, "x", "%lld experts, needed 1 to %lld",
                        static_cast<long long>(experts_), static_cast<long long>(largest_experts));
        if (args_.bias == nullptr) return MOE_OK;
        return shape_is(*args_.bias, "bias", {experts_}, "(experts,)", MOE_ERROR_TILING);
    }

    static Status in_range(const char* argument, int64_t value, int64_t lowest, int64_t highest, const char* what) {
        if (value >= lowest && value <= highest) return MOE_OK;
        return fail(MOE_ERROR_TILING, Kind::value, argument, "%lld, needed %lld to %lld%s",
                    static_cast<long long>(value), static_cast<long long>(lowest), static_cast<long long>(highest),
                    what);
    }

    Status check_attributes() const {
        MOE_TRY(in_range("group_select_mode", args_.group_select_mode, 0, 1, ""));
        if (args_.renorm != 0)
            return fail(MOE_ERROR_TILING, Kind::value, "renorm", "%lld, needed 0",
                        static_cast<long long>(args_.renorm));
        MOE_TRY(in_range("norm_type", args_.norm_type, 0, 1, ""));
        MOE_TRY(in_range("group_count", args_.group_count, 1, experts_, " (the experts of x)"));
        if (experts_ % args_.group_count != 0)
            return fail(MOE_ERROR_TILING, Kind::value, "group_count", "%lld, needed a divisor of the %lld experts",
                        static_cast<long long>(args_.group_count), static_cast<long long>(experts_));
        if (args_.group_select_mode == 1 && group_size() < 2)
            return fail(MOE_ERROR_TILING, Kind::value, "group_count",
                        "%lld, needed groups of at least 2 of the %lld experts in group_select_mode 1",
                        static_cast<long long>(args_.group_count), static_cast<long long>(experts_));
        MOE_TRY(in_range("k_group", args_.k_group, 1, args_.group_count, " (group_count)"));
        MOE_TRY(in_range("k", args_.k, 1, args_.k_group * group_size(), " (the experts of k_group groups)"));
        const int64_t aligned = args_.group_count * ((group_size() + 31) / 32 * 32);
        if (grouped() && group_size() > 1 && aligned > largest_experts)
            return fail(MOE_ERROR_TILING, Kind::value, "group_count",
                        "%lld groups of %lld experts, which take %lld places in multiples of 32, needed at most %lld",
                        static_cast<long long>(args_.group_count), static_cast<long long>(group_size()),
                        static_cast<long long>(aligned), static_cast<long long>(largest_experts));
        return MOE_OK;
    }

    void gate(const RowKernels& kernels, const GatingKernels& gating, const Workspace& workspace, const float* bias,
              const GatingRows::Batch& batch) const {
        const Dtype dtype = args_.x->dtype;
        const int64_t item_size = moe_dtype_size(dtype);
        const int64_t values = batch.count * experts_;
        float* scores = args_.out_flag ? norm_out_.data<float>() + batch.first * experts_ : batch.scores;
        widen_row(kernels, dtype, x_.data<char>() + batch.first * experts_ * item_size, scores, values);
        if (args_.norm_type == 0)
            gating.softmax(scores, batch.count, experts_);
        else
            gating.sigmoid(scores, values);
        gating.keys(scores, bias, batch.keys, batch.count, experts_);
        if (grouped()) drop_groups(gating, workspace, batch);

        int32_t* chosen = expert_idx_.data<int32_t>() + batch.first * args_.k;
        gating.select(batch.keys, batch.count, experts_, args_.k, chosen);
        for (int64_t r = 0; r < batch.count; ++r) {
            float* weights = batch.weights + r * args_.k;
            for (int64_t c = 0; c < args_.k; ++c) weights[c] = scores[r * experts_ + chosen[r * args_.k + c]];
            weigh(weights);
        }
        narrow_row(kernels, dtype, batch.weights, y_.data<char>() + batch.first * args_.k * item_size,
                   batch.count * args_.k);
    }

    // Gives every expert outside of the best groups the key of -inf.
    void drop_groups(const GatingKernels& gating, const Workspace& workspace, const GatingRows::Batch& batch) const {
        int32_t* group_keys = workspace.at<int32_t>(group_keys_) + batch.thread * group_keys_size_;
        int32_t* kept = workspace.at<int32_t>(kept_) + batch.thread * kept_size_;
        const auto score = args_.group_select_mode == 0 ? gating.largest_of_groups : gating.sums_of_two_largest;
        for (int64_t r = 0; r < batch.count; ++r)
            score(batch.keys + r * selection_size(experts_), args_.group_count, group_size(),
                  group_keys + r * selection_size(args_.group_count));
        gating.select(group_keys, batch.count, args_.group_count, args_.k_group, kept);
        for (int64_t r = 0; r < batch.count; ++r, kept += args_.k_group) {
            int32_t* keys = batch.keys + r * selection_size(experts_);
            bool is_kept[largest_experts];
            std::fill_n(is_kept, args_.group_count, false);
            for (int64_t g = 0; g < args_.k_group; ++g) is_kept[kept[g]] = true;
            for (int64_t g = 0; g < args_.group_count; ++g)
                if (!is_kept[g]) std::fill_n(keys + g * group_size(), group_size(), key_of_minus_infinity);
        }
    }

    void weigh(float* weights) const {
        const auto factor = static_cast<float>(args_.routed_scaling_factor);
        float divisor = 1.0f;
        if (args_.norm_type == 1) {
            float sum = 0.0f;
            for (int64_t c = 0; c < args_.k; ++c) sum += weights[c];
            divisor = sum + static_cast<float>(args_.eps);
        }
        for (int64_t c = 0; c < args_.k; ++c) weights[c] = weights[c] / divisor * factor;
    }

    const Args args_;
    int64_t rows_ = 0;
    int64_t experts_ = 0;
    GatingRows gating_rows_;
    Input x_, bias_;
    Output y_, expert_idx_, norm_out_;
    Piece group_keys_, kept_;
    int64_t group_keys_size_ = 0, kept_size_ = 0;
};

}  // namespace
}  // namespace moe

MOE_DEFINE_OPERATOR(moe::GatingTopK, moe_gating_top_k)
