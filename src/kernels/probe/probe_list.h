// Every implementation of the probes.
#pragma once

#include "core/cpu.h"
#include "kernels/probe/probe.h"

namespace moe {

#define MOE_KERNEL(name, isa) extern const ProbeKernels probe_##name;
#include "kernels/probe/kernels.inc"
#undef MOE_KERNEL

inline constexpr KernelRow<ProbeKernels> probe_kernel_list[] = {
#define MOE_KERNEL(name, isa) {#name, Isa::isa, &probe_##name},
#include "kernels/probe/kernels.inc"
#undef MOE_KERNEL
};

}  // namespace moe
