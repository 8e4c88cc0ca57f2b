// What a call of npu_ffn asks for: its arguments, checked and resolved.
#pragma once

#include <cstdint>

#include "core/op.h"
#include "kernels/rows/rows.h"
#include "moe_native/ffn.h"

namespace moe {

struct FfnProblem {
    enum class Scenario { floating, quantised, antiquantised };

    Scenario scenario = Scenario::floating;
    void (*RowKernels::*activate)(float* values, int64_t n) = nullptr;
    bool gated = false;

    int64_t rows = 0;     // M
    int64_t experts = 0;  // E; 0 without experts
    int64_t k1 = 0;
    int64_t n1 = 0;
    int64_t k2 = 0;
    int64_t n2 = 0;
    int64_t groups1 = 1;  // of rows of weight1 that share antiquant scales
    int64_t groups2 = 1;
    bool scale_per_column = false;

    Dtype hidden = MOE_UNDEFINED;  // stored between the products
    Dtype sum = MOE_FLOAT32;       // the first product is rounded to it before the activation
    Dtype result = MOE_UNDEFINED;

    // Experts, or 1 where there are none.
    int64_t slices() const { return experts == 0 ? 1 : experts; }
};

// The tensors of a call as kernels want them; packed weights are left out.
struct FfnOperands {
    Input x, weight1, weight2, bias1, bias2, scale, offset, deq_scale1, deq_scale2;
    Input antiquant_scale1, antiquant_scale2, antiquant_offset1, antiquant_offset2;
    Output y;

    void book(const moe_ffn_args& args, Ledger& ledger);
    Status load(const Workspace& workspace);
};

// Every check that needs no tensor data (expert_tokens excepted when they are known), in the order of the document.
Status resolve_ffn(const moe_ffn_args& args, Outputs outputs, FfnProblem* problem);

// Reads expert_tokens: ends[e] is the row behind the last one of expert e. `ends` may be null to check only.
Status read_expert_tokens(const moe_ffn_args& args, int64_t rows, const RunContext& context, int64_t* ends);

}  // namespace moe
