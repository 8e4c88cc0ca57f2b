// Every implementation of the integer products, for the choice, the tests and the benchmark.
#pragma once

#include "core/cpu.h"
#include "kernels/igemm/igemm.h"

namespace moe {

#define MOE_KERNEL(name, isa) extern const IgemmKernels igemm_##name;
#include "kernels/igemm/kernels.inc"
#undef MOE_KERNEL

inline constexpr KernelRow<IgemmKernels> igemm_kernel_list[] = {
#define MOE_KERNEL(name, isa) {#name, Isa::isa, &igemm_##name},
#include "kernels/igemm/kernels.inc"
#undef MOE_KERNEL
};

}  // namespace moe
