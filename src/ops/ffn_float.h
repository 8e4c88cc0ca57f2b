// The products of npu_ffn in float32: stored floating weights, and integer ones that are dequantised.
#pragma once

#include "core/packed.h"
#include "kernels/fgemm/fgemm.h"
#include "ops/ffn_blocks.h"
#include "ops/ffn_problem.h"

namespace moe {

// The kernels to use now for weights of this type.
const FgemmKernels& ffn_kernels(Dtype weight);

class FfnFloat {
  public:
    void book(const FfnProblem& problem, const moe_ffn_args& args, Ledger& ledger);
    void run(const FfnProblem& problem, const FfnOperands& operands, const moe_ffn_args& args, const int64_t* ends,
             const Workspace& workspace);

  private:
    Piece hidden_, packed_, plain_, sums_, rows_, lines_;
    int64_t batch_rows_ = 0;
    int64_t packed_size_ = 0;
    int64_t plain_size_ = 0;
    int64_t sums_size_ = 0;
    int64_t line_size_ = 0;
    int64_t rows_size_ = 0;
};

}  // namespace moe
