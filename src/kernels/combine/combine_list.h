// Every implementation of the combine kernels, for the choice, the tests and the benchmark.
#pragma once

#include "core/cpu.h"
#include "kernels/combine/combine.h"

namespace moe {

#define MOE_KERNEL(name, isa) extern const CombineKernels combine_##name;
#include "kernels/combine/kernels.inc"
#undef MOE_KERNEL

inline constexpr KernelRow<CombineKernels> combine_kernel_list[] = {
#define MOE_KERNEL(name, isa) {#name, Isa::isa, &combine_##name},
#include "kernels/combine/kernels.inc"
#undef MOE_KERNEL
};

}  // namespace moe
