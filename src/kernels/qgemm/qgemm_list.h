// Every implementation of the int8 matrix products, for the choice, the tests and the benchmark.
#pragma once

#include "core/cpu.h"
#include "kernels/qgemm/qgemm.h"

namespace moe {

#define MOE_KERNEL(name, isa) extern const QgemmKernels qgemm_##name;
#include "kernels/qgemm/kernels.inc"
#undef MOE_KERNEL

inline constexpr KernelRow<QgemmKernels> qgemm_kernel_list[] = {
#define MOE_KERNEL(name, isa) {#name, Isa::isa, &qgemm_##name},
#include "kernels/qgemm/kernels.inc"
#undef MOE_KERNEL
};

}  // namespace moe
