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

    Status run(const Workspace& workspace, const RunContext&) {
        MOE_TRY(ids_.load(workspace));
        MOE_TRY(out_.load(workspace));
        for (int64_t expert = 0; expert < args_.num_expert; ++expert)
            out_.data<int32_t>()[expert] = static_cast<int32_t>(end_of(expert));
        out_.store();
        return MOE_OK;
    }

  private:
    static constexpr int64_t largest_rows = int64_t{1} << 24;
    static constexpr int64_t largest_experts = 2048;

    // Over the whole list every time, so that the result is defined for ids that do not ascend, too.
    int64_t end_of(int64_t expert) const {
        const int32_t* ids = ids_.data<int32_t>();
        int64_t low = 0;
        int64_t high = rows_;
        while (low < high) {
            const int64_t middle = low + (high - low) / 2;
            if (ids[middle] <= expert)
                low = middle + 1;
            else
                high = middle;
        }
        return low;
    }

    const Args args_;
    int64_t rows_ = 0;
    Input ids_;
    Output out_;
};

}  // namespace
}  // namespace moe

MOE_DEFINE_OPERATOR(moe::ComputeExpertTokens, moe_compute_expert_tokens)
