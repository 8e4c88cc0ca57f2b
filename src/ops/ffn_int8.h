// The products of npu_ffn in int8 with exact int32 sums, and the requantisation between them.
#pragma once

#include "kernels/qgemm/qgemm.h"
#include "ops/ffn_blocks.h"
#include "ops/ffn_problem.h"

namespace moe {

class FfnInt8 {
  public:
    void book(const FfnProblem& problem, Ledger& ledger);
    void run(const FfnProblem& problem, const FfnOperands& operands, const moe_ffn_args& args, const int64_t* ends,
             const Workspace& workspace);

  private:
    Piece hidden_, packed_, rows_, sums_, lines_;
    int64_t batch_rows_ = 0;
    int64_t packed_size_ = 0;
    int64_t sums_size_ = 0;
    int64_t line_size_ = 0;
};

}  // namespace moe
