// One executor that runs many times, on new memory each time, and from another thread than the one that made it.
#include <thread>

#include "aclnnop/aclnn_moe_compute_expert_tokens.h"
#include "client.h"

int main() {
    return client::program([] {
        const client::Device device;
        const auto first = client::int32s({4}, {0, 0, 1, 2});
        const auto second = client::int32s({4}, {1, 1, 2, 2});
        const client::Tensor<int32_t> ends({3}, ACL_INT32);
        const client::Tensor<int32_t> other_ends({3}, ACL_INT32);

        uint64_t size = 0;
        aclOpExecutor* executor = nullptr;
        CLIENT_CHECK(aclnnMoeComputeExpertTokensGetWorkspaceSize(first, 3, ends, &size, &executor));
        CLIENT_CHECK(aclSetAclOpExecutorRepeatable(executor));
        const client::Buffer workspace(size);
        CLIENT_CHECK(aclnnMoeComputeExpertTokens(workspace.data(), size, executor, device.stream()));
        device.synchronize();
        client::expect_equal("first run", ends.read(), {2, 3, 4});

        CLIENT_CHECK(aclSetInputTensorAddr(executor, 0, first, second.data()));
        CLIENT_CHECK(aclSetOutputTensorAddr(executor, 0, ends, other_ends.data()));
        int status = 0;
        std::thread([&] {
            status = aclrtSetDevice(0);
            if (status == 0) status = aclnnMoeComputeExpertTokens(workspace.data(), size, executor, device.stream());
            aclrtResetDevice(0);
        }).join();
        client::check(status, "aclnnMoeComputeExpertTokens on another thread");
        device.synchronize();
        client::expect_equal("second run, other memory", other_ends.read(), {0, 2, 4});
        client::expect_equal("the first memory", ends.read(), {2, 3, 4});
        CLIENT_CHECK(aclDestroyAclOpExecutor(executor));
    });
}
