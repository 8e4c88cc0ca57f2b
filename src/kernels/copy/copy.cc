#include "kernels/copy/copy.h"

#include "kernels/copy/copy_list.h"

namespace moe {

const CopyKernels& copy_kernels() {
    return choose(copy_kernel_list);
}

}  // namespace moe
