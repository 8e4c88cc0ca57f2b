#include "kernels/fgemm/fgemm.h"

#include "kernels/fgemm/fgemm_list.h"

namespace moe {

const FgemmKernels& fgemm_kernels() {
    return choose(fgemm_kernel_list);
}

const FgemmKernels* fgemm_pairs_kernels() {
    const FgemmKernels& best = choose(fgemm_pairs_kernel_list);
    return &best == fgemm_pairs_kernel_list[0].table ? nullptr : &best;
}

}  // namespace moe
