// Two streams: the second one waits for an event of the first, and asynchronous copies keep the order.
#include "aclnnop/aclnn_swi_glu.h"
#include "client.h"

int main() {
    return client::program([] {
        const client::Device device;
        aclrtStream other = nullptr;
        aclrtEvent ready = nullptr;
        CLIENT_CHECK(aclrtCreateStream(&other));
        CLIENT_CHECK(aclrtCreateEvent(&ready));

        const auto x = client::floats({1, 8}, {1, 2, 3, 4, 1, 1, 1, 1});
        const client::Tensor<float> half({1, 4}, ACL_FLOAT);
        const client::Tensor<float> quarter({1, 2}, ACL_FLOAT);
        uint64_t sizes[2] = {0, 0};
        aclOpExecutor* executors[2] = {nullptr, nullptr};
        CLIENT_CHECK(aclnnSwiGluGetWorkspaceSize(x, -1, half, &sizes[0], &executors[0]));
        CLIENT_CHECK(aclnnSwiGluGetWorkspaceSize(half, -1, quarter, &sizes[1], &executors[1]));
        const client::Buffer workspaces[2] = {client::Buffer(sizes[0]), client::Buffer(sizes[1])};

        CLIENT_CHECK(aclnnSwiGlu(workspaces[0].data(), sizes[0], executors[0], device.stream()));
        CLIENT_CHECK(aclrtRecordEvent(ready, device.stream()));
        CLIENT_CHECK(aclrtStreamWaitEvent(other, ready));
        CLIENT_CHECK(aclnnSwiGlu(workspaces[1].data(), sizes[1], executors[1], other));
        void* host = nullptr;
        CLIENT_CHECK(aclrtMallocHost(&host, 2 * sizeof(float)));
        CLIENT_CHECK(aclrtMemcpyAsync(host, 2 * sizeof(float), quarter.data(), 2 * sizeof(float),
                                      ACL_MEMCPY_DEVICE_TO_HOST, other));
        CLIENT_CHECK(aclrtSynchronizeStream(other));

        std::vector<float> seen(2);
        std::memcpy(seen.data(), host, 2 * sizeof(float));
        const auto silu = [](double value) { return value / (1 + std::exp(-value)); };
        client::expect_close("swiglu of swiglu", seen, {silu(silu(1)) * silu(3), silu(silu(2)) * silu(4)},
                             [](size_t) { return 8 * 1.2e-7 * 8; });
        CLIENT_CHECK(aclrtFreeHost(host));
        device.synchronize();
        CLIENT_CHECK(aclrtDestroyEvent(ready));
        CLIENT_CHECK(aclrtDestroyStream(other));
    });
}
