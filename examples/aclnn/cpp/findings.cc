// What the CPU device says beyond a card: a callback for findings, and the mode strict. moe_aclnn.h exists only here,
// so a program that is built for a card as well asks for it.
#include "aclnnop/aclnn_swi_glu.h"
#include "client.h"
#if __has_include("moe_aclnn.h")
#include "moe_aclnn.h"
#endif

int main() {
    return client::program([] {
        const client::Device device;
#ifdef MOE_ACLNN_H
        std::vector<std::string> rules;
        moe_aclnn_set_callback(
            [](const moe_aclnn_finding* finding, void* user) {
                static_cast<std::vector<std::string>*>(user)->push_back(finding->rule);
            },
            &rules);
        const moe_aclnn_mode before = moe_aclnn_get_mode();

        // A tensor whose memory is half of what it needs.
        const client::Buffer small(256 * sizeof(float));
        const int64_t shape[2] = {2, 256};
        aclTensor* const x = aclCreateTensor(shape, 2, ACL_FLOAT, nullptr, 0, ACL_FORMAT_ND, shape, 2, small.data());
        const client::Tensor<float> out({2, 128}, ACL_FLOAT);
        CLIENT_CHECK(moe_aclnn_set_mode(MOE_ACLNN_STRICT));
        uint64_t size = 0;
        aclOpExecutor* executor = nullptr;
        CLIENT_CHECK(aclnnSwiGluGetWorkspaceSize(x, -1, out, &size, &executor));
        {
            const client::Buffer workspace(size);
            if (aclnnSwiGlu(workspace.data(), size, executor, device.stream()) != 161002)
                throw std::runtime_error("strict let a tensor pass that reaches beyond its memory");
        }
        std::printf("strict refused: %s\n", aclGetRecentErrMsg());
        CLIENT_CHECK(moe_aclnn_set_mode(before));
        moe_aclnn_set_callback(nullptr, nullptr);
        aclDestroyTensor(x);
        if (rules != std::vector<std::string>{"tensor-extent"}) throw std::runtime_error("another finding, or none");
#endif
    });
}
