#include "kernels/gating/gating.h"

#include "kernels/gating/gating_list.h"

namespace moe {

int64_t selection_size(int64_t n) {
    int64_t size = 0;
    do {
        n = (n + 15) / 16;
        size += n * 16;
    } while (n > 1);
    return size;
}

const GatingKernels& gating_kernels() {
    return choose(gating_kernel_list);
}

}  // namespace moe
