#include "kernels/igemm/igemm.h"

#include "kernels/igemm/igemm_list.h"

namespace moe {

const IgemmKernels& igemm_kernels() {
    return choose(igemm_kernel_list);
}

namespace igemm {
namespace {

int64_t padded(const IgemmKernels& kernels, int64_t k) {
    return (k + kernels.k_step - 1) / kernels.k_step * kernels.k_step;
}

}  // namespace

int64_t panel_bytes(const IgemmKernels& kernels, int64_t k) {
    return padded(kernels, k) * columns * kernels.item_size;
}

int64_t row_bytes(const IgemmKernels& kernels, int64_t k) {
    return padded(kernels, k) * kernels.item_size + kernels.row_suffix;
}

}  // namespace igemm
}  // namespace moe
