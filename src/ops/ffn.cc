#include <cstdint>
#include <cstring>

#include "ops/ffn_float.h"
#include "ops/ffn_int8.h"
#include "ops/ffn_problem.h"

namespace moe {
namespace {

class Ffn {
  public:
    static constexpr const char* name = "npu_ffn";
    using Args = moe_ffn_args;

    explicit Ffn(const Args& args) : args_(args) {}

    Status resolve(Outputs outputs) { return resolve_ffn(args_, outputs, &problem_); }

    void shapes(Tensor* outputs) const {
        Tensor y = *args_.x;
        y.shape[y.rank - 1] = problem_.n2;
        outputs[0] = moe_tensor_make(nullptr, problem_.result, y.rank, y.shape);
    }

    void book(Ledger& ledger) {
        operands_.book(args_, ledger);
        ends_ = ledger.book<int64_t>("expert rows", problem_.slices());
        if (quantised())
            int8_.book(problem_, ledger);
        else
            float_.book(problem_, args_, ledger);
    }

    Status run(const Workspace& workspace, const RunContext& context) {
        int64_t* ends = workspace.at<int64_t>(ends_);
        if (problem_.experts == 0)
            ends[0] = problem_.rows;
        else
            MOE_TRY(read_expert_tokens(args_, problem_.rows, context, ends));
        MOE_TRY(context.data_checked());
        MOE_TRY(operands_.load(workspace));
        // Packed ones are not among the operands.
        MOE_TRY(has_data(args_.weight1, "weight1"));
        MOE_TRY(has_data(args_.weight2, "weight2"));
        if (quantised())
            int8_.run(problem_, operands_, args_, ends, workspace);
        else
            float_.run(problem_, operands_, args_, ends, workspace);
        if (context.zeroes_undefined()) zero_rows_without_expert(ends[problem_.slices() - 1]);
        operands_.y.store();
        return MOE_OK;
    }

  private:
    bool quantised() const { return problem_.scenario == FfnProblem::Scenario::quantised; }

    // After MOE_DATA_SKIP; otherwise there are none.
    void zero_rows_without_expert(int64_t first) const {
        const int64_t row_bytes = problem_.n2 * moe_dtype_size(problem_.result);
        const int64_t bytes = (problem_.rows - first) * row_bytes;
        if (bytes > 0) std::memset(operands_.y.data<char>() + first * row_bytes, 0, static_cast<size_t>(bytes));
    }

    const Args args_;
    FfnProblem problem_;
    FfnOperands operands_;
    Piece ends_;
    FfnFloat float_;
    FfnInt8 int8_;
};

}  // namespace
}  // namespace moe

MOE_DEFINE_OPERATOR(moe::Ffn, moe_ffn)
