// Every implementation of the gating kernels, for the choice, the tests and the benchmark.
#pragma once

#include "core/cpu.h"
#include "kernels/gating/gating.h"

namespace moe {

#define MOE_KERNEL(name, isa) extern const GatingKernels gating_##name;
#include "kernels/gating/kernels.inc"
#undef MOE_KERNEL

inline constexpr KernelRow<GatingKernels> gating_kernel_list[] = {
#define MOE_KERNEL(name, isa) {#name, Isa::isa, &gating_##name},
#include "kernels/gating/kernels.inc"
#undef MOE_KERNEL
};

}  // namespace moe
