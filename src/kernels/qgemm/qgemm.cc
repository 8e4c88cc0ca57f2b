#include "kernels/qgemm/qgemm.h"

#include "kernels/qgemm/qgemm_list.h"

namespace moe {

const QgemmKernels& qgemm_kernels() {
    return choose(qgemm_kernel_list);
}

}  // namespace moe
