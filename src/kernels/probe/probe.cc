#include "kernels/probe/probe.h"

#include "kernels/probe/probe_list.h"

namespace moe {

const ProbeKernels& probe_kernels() {
    return choose(probe_kernel_list);
}

}  // namespace moe
