#include "kernels/combine/combine.h"

#include "kernels/combine/combine_list.h"

namespace moe {

CombineKernel combine_kernel(Dtype dtype) {
    const CombineKernels& kernels = choose(combine_kernel_list);
    return dtype == MOE_FLOAT16 ? kernels.f16 : dtype == MOE_BFLOAT16 ? kernels.bf16 : kernels.f32;
}

}  // namespace moe
