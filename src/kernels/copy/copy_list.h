// Every implementation of the copy kernels, for the choice, the tests and the benchmark.
#pragma once

#include "core/cpu.h"
#include "kernels/copy/copy.h"

namespace moe {

#define MOE_KERNEL(name, isa) extern const CopyKernels copy_##name;
#include "kernels/copy/kernels.inc"
#undef MOE_KERNEL

inline constexpr KernelRow<CopyKernels> copy_kernel_list[] = {
#define MOE_KERNEL(name, isa) {#name, Isa::isa, &copy_##name},
#include "kernels/copy/kernels.inc"
#undef MOE_KERNEL
};

}  // namespace moe
