// Every implementation of the row kernels, for the choice, the tests and the benchmark.
#pragma once

#include "core/cpu.h"
#include "kernels/rows/rows.h"

namespace moe {

#define MOE_KERNEL(name, isa) extern const RowKernels rows_##name;
#include "kernels/rows/kernels.inc"
#undef MOE_KERNEL

inline constexpr KernelRow<RowKernels> row_kernel_list[] = {
#define MOE_KERNEL(name, isa) {#name, Isa::isa, &rows_##name},
#include "kernels/rows/kernels.inc"
#undef MOE_KERNEL
};

}  // namespace moe
