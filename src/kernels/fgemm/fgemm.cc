#include "kernels/fgemm/fgemm.h"

#include "kernels/fgemm/fgemm_list.h"

namespace moe {

const FgemmKernels& fgemm_kernels() {
    return choose(fgemm_kernel_list);
}

}  // namespace moe
