// The products of npu_ffn in float32: stored floating weights, and integer ones that are dequantised.
#pragma once

#include "kernels/fgemm/fgemm.h"
#include "ops/ffn_blocks.h"
#include "ops/ffn_problem.h"

namespace moe {

class FfnFloat {
  public:
    void book(const FfnProblem& problem, bool int4, Ledger& ledger);
    void run(const FfnProblem& problem, const FfnOperands& operands, const moe_ffn_args& args, const int64_t* ends,
             const Workspace& workspace);

  private:
    Piece hidden_, packed_, unpacked_, sums_, rows_, lines_;
    int64_t batch_rows_ = 0;
    int64_t packed_size_ = 0;
    int64_t sums_size_ = 0;
    int64_t rows_size_ = 0;
};

}  // namespace moe
