// The frame of every operator: one struct with the resolved problem, from which the four C functions are
// made.
//
//     struct FinalizeRouting {
//         static constexpr const char* name = "npu_moe_finalize_routing";
//         using Args = moe_finalize_routing_args;
//         explicit FinalizeRouting(const Args& args);
//         Status resolve(Outputs outputs);     // every check that needs no tensor data; fills members
//         void shapes(Tensor* outputs) const;  // after resolve
//         void book(Ledger& ledger);           // after resolve
//         // After book. Calls context.data_checked() when tensor data is checked, and has written no output until then.
//         Status run(const Workspace& workspace, const RunContext& context);
//     };
//     MOE_DEFINE_OPERATOR(FinalizeRouting, moe_finalize_routing)
#pragma once

#include <climits>
#include <cstring>

#include "core/bf16.h"
#include "core/cpu.h"
#include "core/limits.h"
#include "core/operand.h"
#include "core/tensor.h"
#include "core/threads.h"
#include "core/workspace.h"
#include "moe_native/runtime.h"

namespace moe {

// Whether the checks look at the output tensors: not when the caller still asks for their shapes.
enum class Outputs { ignored, checked };

// Policy of a run, and the place where bad data is reported.
class RunContext {
  public:
    explicit RunContext(const moe_run_options* options) {
        if (options != nullptr) options_ = *options;
        if (options_.report != nullptr) *options_.report = {0, nullptr, 0, 0};
    }

    bool skips_bad_data() const { return options_.data_policy == MOE_DATA_SKIP; }
    bool zeroes_undefined() const { return options_.undefined_policy == MOE_UNDEFINED_ZERO; }

    // With MOE_DATA_CHECK the end of a run, which is no failure.
    Status data_checked() const { return options_.data_policy == MOE_DATA_CHECK ? only_checked : Status{MOE_OK}; }
    static constexpr Status only_checked = -1;

    // Bad data at a flat position of an argument. With MOE_DATA_REJECT fails with `needed` as the message's
    // end; with MOE_DATA_SKIP counts it and returns MOE_OK, and the caller leaves the element out. Not for
    // parallel regions.
    Status bad_data(const char* argument, int64_t index, int64_t value, const char* needed,
                    Status status = MOE_ERROR_INVALID) const {
        if (!skips_bad_data())
            return fail(status, Kind::data, argument, "%lld at position %lld, needed %s", static_cast<long long>(value),
                        static_cast<long long>(index), needed);
        if (options_.report != nullptr) {
            if (options_.report->count == 0) {
                options_.report->argument = argument;
                options_.report->index = index;
                options_.report->value = value;
            }
            options_.report->count += 1;
        }
        return MOE_OK;
    }

  private:
    moe_run_options options_ = {MOE_DATA_REJECT, MOE_UNDEFINED_KEEP, nullptr};
};

template <class Op>
Status begin(Op& op, const void* args, Outputs outputs) {
    if (args == nullptr) return fail(MOE_ERROR_NULL, Kind::missing, "args", "null");
    MOE_TRY(isa_environment());
    MOE_TRY(limits_environment());
    MOE_TRY(bf16_environment());
    return op.resolve(outputs);
}

template <class Op>
Status op_shapes(const typename Op::Args* args, Tensor* outputs) {
    const OpScope scope(Op::name);
    Op op(args == nullptr ? typename Op::Args{} : *args);
    MOE_TRY(begin(op, args, Outputs::ignored));
    if (outputs == nullptr) return fail(MOE_ERROR_NULL, Kind::missing, "outputs", "null");
    op.shapes(outputs);
    return MOE_OK;
}

template <class Op>
Status op_plan(const typename Op::Args* args, moe_plan* plan) {
    const OpScope scope(Op::name);
    Op op(args == nullptr ? typename Op::Args{} : *args);
    MOE_TRY(begin(op, args, Outputs::checked));
    if (plan == nullptr) return fail(MOE_ERROR_NULL, Kind::missing, "plan", "null");
    *plan = {};
    plan->threads = team_size(INT_MAX);
    Ledger ledger(plan);
    op.book(ledger);
    return ledger.status();
}

// Planning is cheap, and finds what only shows there.
template <class Op>
Status op_check(const typename Op::Args* args) {
    moe_plan plan;
    return op_plan<Op>(args, &plan);
}

template <class Op>
Status op_run(const typename Op::Args* args, const moe_plan* plan, void* memory, uint64_t memory_size,
              const moe_run_options* options) {
    const OpScope scope(Op::name);
    Op op(args == nullptr ? typename Op::Args{} : *args);
    MOE_TRY(begin(op, args, Outputs::checked));
    if (plan == nullptr) return fail(MOE_ERROR_NULL, Kind::missing, "plan", "null");
    if (plan->threads < 1 || plan->threads > most_threads)
        return fail(MOE_ERROR_INVALID, Kind::runtime, "plan", "%d threads, needed 1 to %d: what the plan step wrote",
                    plan->threads, most_threads);
    // Booking again yields the same pieces, and shows a plan that belongs to other arguments.
    moe_plan own = {};
    own.threads = plan->threads;
    Ledger ledger(&own);
    op.book(ledger);
    MOE_TRY(ledger.status());
    if (own.workspace_size != plan->workspace_size || own.piece_count != plan->piece_count)
        return fail(MOE_ERROR_INVALID, Kind::runtime, "plan", "made for other arguments: %llu bytes, needed %llu",
                    static_cast<unsigned long long>(plan->workspace_size),
                    static_cast<unsigned long long>(own.workspace_size));
    if (own.workspace_size > 0 && memory == nullptr)
        return fail(MOE_ERROR_NULL, Kind::missing, "workspace", "null, needed %llu bytes",
                    static_cast<unsigned long long>(own.workspace_size));
    if (memory_size < own.workspace_size)
        return fail(MOE_ERROR_INVALID, Kind::runtime, "workspace", "%llu bytes, needed %llu",
                    static_cast<unsigned long long>(memory_size), static_cast<unsigned long long>(own.workspace_size));
    if (options != nullptr && (options->data_policy > MOE_DATA_CHECK || options->undefined_policy > MOE_UNDEFINED_ZERO))
        return fail(MOE_ERROR_INVALID, Kind::value, "options", "policies %d and %d, needed 0 to 2 and 0 or 1",
                    static_cast<int>(options->data_policy), static_cast<int>(options->undefined_policy));
    const Workspace workspace(own, memory);
    const Status status = op.run(workspace, RunContext(options));
    if (status != MOE_OK && status != RunContext::only_checked) return status;
    return workspace.verify();
}

}  // namespace moe

#define MOE_DEFINE_OPERATOR(Op, c_name)                                                                                \
    moe_status c_name##_shapes(const c_name##_args* args, moe_tensor* outputs) {                                       \
        return moe::op_shapes<Op>(args, outputs);                                                                      \
    }                                                                                                                  \
    moe_status c_name##_check(const c_name##_args* args) {                                                             \
        return moe::op_check<Op>(args);                                                                                \
    }                                                                                                                  \
    moe_status c_name##_plan(const c_name##_args* args, moe_plan* plan) {                                              \
        return moe::op_plan<Op>(args, plan);                                                                           \
    }                                                                                                                  \
    moe_status c_name##_run(const c_name##_args* args, const moe_plan* plan, void* workspace, uint64_t workspace_size, \
                            const moe_run_options* options) {                                                          \
        return moe::op_run<Op>(args, plan, workspace, workspace_size, options);                                        \
    }
