// Every implementation of the float matrix products, for the choice, the tests and the benchmark.
#pragma once

#include "core/cpu.h"
#include "kernels/fgemm/fgemm.h"

namespace moe {

#define MOE_KERNEL(name, isa) extern const FgemmKernels fgemm_##name;
#include "kernels/fgemm/kernels.inc"
#undef MOE_KERNEL

inline constexpr KernelRow<FgemmKernels> fgemm_kernel_list[] = {
#define MOE_KERNEL(name, isa) {#name, Isa::isa, &fgemm_##name},
#include "kernels/fgemm/kernels.inc"
#undef MOE_KERNEL
};

}  // namespace moe
