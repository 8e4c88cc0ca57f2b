// Every implementation of the float matrix products, for the choice, the tests and the benchmark.
#pragma once

#include "core/cpu.h"
#include "kernels/fgemm/fgemm.h"

namespace moe {

#define MOE_KERNEL(name, isa) extern const FgemmKernels fgemm_##name;
#define MOE_KERNEL_OF_PAIRS MOE_KERNEL
#include "kernels/fgemm/kernels.inc"
#undef MOE_KERNEL
#undef MOE_KERNEL_OF_PAIRS

#define MOE_ROW(name, isa) {#name, Isa::isa, &fgemm_##name},
#define MOE_NO_ROW(name, isa)
inline constexpr KernelRow<FgemmKernels> fgemm_kernel_list[] = {
#define MOE_KERNEL MOE_ROW
#define MOE_KERNEL_OF_PAIRS MOE_NO_ROW
#include "kernels/fgemm/kernels.inc"
#undef MOE_KERNEL
#undef MOE_KERNEL_OF_PAIRS
};

inline constexpr KernelRow<FgemmKernels> fgemm_pairs_kernel_list[] = {
#define MOE_KERNEL MOE_NO_ROW
#define MOE_KERNEL_OF_PAIRS MOE_ROW
#include "kernels/fgemm/kernels.inc"
#undef MOE_KERNEL
#undef MOE_KERNEL_OF_PAIRS
};
#undef MOE_ROW
#undef MOE_NO_ROW

}  // namespace moe
