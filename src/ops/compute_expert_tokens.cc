#include <algorithm>
#include <cstdint>

#include "core/op.h"
#include "moe_native/gating.h"

namespace moe {
namespace {

class ComputeExpertTokens {
  public:
    static constexpr const char* name = "npu_moe_compute_expert_tokens";
    using Args = moe_compute_expert_tokens_args;

    explicit ComputeExpertTokens(const Args& args) : args_(args) {}

    Status resolve(Outputs outputs) {
        constexpr const char* ids = "sorted_expert_for_source_row";
        const bool checked = outputs == Outputs::checked;
        MOE_TRY(required(args_.sorted_expert_for_source_row, ids));
        if (checked) MOE_TRY(required(args_.out, "out"));
        MOE_TRY(dtype_in(*args_.sorted_expert_for_source_row, ids, {MOE_INT32}));
        if (checked) MOE_TRY(dtype_in(*args_.out, "out", {MOE_INT32}));
        MOE_TRY(rank_is(*args_.sorted_expert_for_source_row, ids, 1, MOE_ERROR_TILING));
        rows_ = args_.sorted_expert_for_source_row->shape[0];
        if (rows_ > largest_rows)
            return fail(MOE_ERROR_TILING, Kind::shape, ids, "%lld rows, needed at most %lld",
                        static_cast<long long>(rows_), static_cast<long long>(largest_rows));
        if (args_.num_expert < 1 || args_.num_expert > largest_experts)
            return fail(MOE_ERROR_TILING, Kind::value, "num_expert", "%lld, needed 1 to %lld",
                        static_cast<long long>(args_.num_expert), static_cast<long long>(largest_experts));
        if (!checked) return MOE_OK;
        return shape_is(*args_.out, "out", {args_.num_expert}, "(num_expert,)", MOE_ERROR_TILING);
    }

    void shapes(Tensor* outputs) const { outputs[0] = moe_tensor_make(nullptr, MOE_INT32, 1, &args_.num_expert); }

    void book(Ledger& ledger) {
        ids_.book(args_.sorted_expert_for_source_row, "sorted_expert_for_source_row", ledger);
        out_.book(args_.out, "out", ledger);
    }

    Status run(const Workspace& workspace, const RunContext& context) {
        MOE_TRY(context.data_checked());
        MOE_TRY(ids_.load(workspace));
        MOE_TRY(out_.load(workspace));
        for (int64_t expert = 0; expert < args_.num_expert; expert += lanes)
            find_ends(static_cast<int32_t>(expert),
                      static_cast<int>(std::min<int64_t>(lanes, args_.num_expert - expert)));
        out_.store();
        return MOE_OK;
    }

  private:
    static constexpr int64_t largest_rows = int64_t{1} << 24;
    static constexpr int64_t largest_experts = 2048;

    // Searches that go on side by side, as each of them waits for memory at every step.
    static constexpr int lanes = 16;

    // Of `count` experts, each by bisection of the whole list, so that the result is defined for ids that do not
    // ascend, too.
    void find_ends(int32_t expert, int count) const {
        const int32_t* ids = ids_.data<int32_t>();
        const auto rows = static_cast<int32_t>(rows_);
        int32_t low[lanes] = {};
        int32_t high[lanes];
        std::fill_n(high, lanes, rows);
        // A step at least halves a range; one that is empty stays as it is.
        for (int32_t longest = rows; longest > 0; longest /= 2) {
            for (int lane = 0; lane < count; ++lane) {
                const int32_t middle = low[lane] + (high[lane] - low[lane]) / 2;
                const bool ends_behind = static_cast<int>(middle < high[lane]) &
                                         static_cast<int>(ids[std::min(middle, rows - 1)] <= expert + lane);
                low[lane] = ends_behind ? middle + 1 : low[lane];
                high[lane] = ends_behind ? high[lane] : middle;
            }
        }
        std::copy_n(low, count, out_.data<int32_t>() + expert);
    }

    const Args args_;
    int64_t rows_ = 0;
    Input ids_;
    Output out_;
};

}  // namespace
}  // namespace moe

MOE_DEFINE_OPERATOR(moe::ComputeExpertTokens, moe_compute_expert_tokens)
