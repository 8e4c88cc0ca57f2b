// Calling an operator of the C API in a test: contiguous tensors over vectors, plan, a poisoned workspace,
// run.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "moe_native/moe_native.h"

namespace moe_test {

template <class T>
moe_tensor tensor(std::vector<T>& values, moe_dtype dtype, std::initializer_list<int64_t> shape) {
    return moe_tensor_make(values.data(), dtype, static_cast<int32_t>(shape.size()), shape.begin());
}

// Plan and run with a workspace that is poisoned, misaligned on purpose, and exactly as large as planned.
template <class Args, class Plan, class Run>
moe_status plan_and_run(const Args& args, Plan plan_it, Run run_it, const moe_run_options* options = nullptr) {
    moe_plan plan;
    if (const moe_status status = plan_it(&args, &plan)) return status;
    std::vector<unsigned char> memory(plan.workspace_size + 1, 0xC3);
    return run_it(&args, &plan, plan.workspace_size > 0 ? memory.data() + 1 : nullptr, plan.workspace_size, options);
}

inline std::string last_message() {
    return moe_last_error()->message;
}

}  // namespace moe_test
