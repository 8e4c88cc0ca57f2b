// Many threads, streams and executors at once; a child process.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "aclnnop/aclnn_moe_compute_expert_tokens.h"
#include "client.h"

using namespace client;

TEST_CASE("threads with streams of their own, chained by events") {
    Findings findings;
    std::atomic<int> wrong{0};
    {
        const Session session;
        std::vector<std::thread> threads;
        for (int t = 0; t < 8; ++t)
            threads.emplace_back([t, &wrong] {
                const auto ok = [&](aclError status) {
                    if (status != 0) ++wrong;
                };
                ok(aclrtSetDevice(0));
                aclrtStream streams[2] = {};
                aclrtEvent event = nullptr;
                for (aclrtStream& stream : streams) ok(aclrtCreateStream(&stream));
                ok(aclrtCreateEvent(&event));
                const int64_t n = 1000 + t, e = 16;
                std::vector<int32_t> ids(static_cast<size_t>(n)), expected(e), seen(e);
                for (int64_t i = 0; i < n; ++i) ids[static_cast<size_t>(i)] = static_cast<int32_t>(i * e / n);
                for (const int32_t id : ids)
                    for (int64_t i = id; i < e; ++i) ++expected[static_cast<size_t>(i)];
                void *in = nullptr, *out = nullptr, *copy = nullptr;
                ok(aclrtMalloc(&in, ids.size() * 4, ACL_MEM_MALLOC_HUGE_FIRST));
                ok(aclrtMalloc(&out, e * 4, ACL_MEM_MALLOC_HUGE_FIRST));
                ok(aclrtMalloc(&copy, e * 4, ACL_MEM_MALLOC_HUGE_FIRST));
                for (int round = 0; round < 40; ++round) {
                    ok(aclrtMemcpy(in, ids.size() * 4, ids.data(), ids.size() * 4, ACL_MEMCPY_HOST_TO_DEVICE));
                    aclTensor* from = aclCreateTensor(&n, 1, ACL_INT32, nullptr, 0, ACL_FORMAT_ND, &n, 1, in);
                    aclTensor* to = aclCreateTensor(&e, 1, ACL_INT32, nullptr, 0, ACL_FORMAT_ND, &e, 1, out);
                    uint64_t size = 0;
                    aclOpExecutor* executor = nullptr;
                    ok(aclnnMoeComputeExpertTokensGetWorkspaceSize(from, e, to, &size, &executor));
                    ok(aclnnMoeComputeExpertTokens(nullptr, size, executor, streams[0]));
                    ok(aclrtRecordEvent(event, streams[0]));
                    ok(aclrtStreamWaitEvent(streams[1], event));
                    ok(aclrtMemcpyAsync(copy, e * 4, out, e * 4, ACL_MEMCPY_DEVICE_TO_DEVICE, streams[1]));
                    ok(aclrtSynchronizeStream(streams[1]));
                    ok(aclrtMemcpy(seen.data(), e * 4, copy, e * 4, ACL_MEMCPY_DEVICE_TO_HOST));
                    if (seen != expected) ++wrong;
                    ok(aclDestroyTensor(from));
                    ok(aclDestroyTensor(to));
                }
                for (void* memory : {in, out, copy}) ok(aclrtFree(memory));
                ok(aclrtDestroyEvent(event));
                for (aclrtStream stream : streams) ok(aclrtDestroyStream(stream));
                ok(aclrtResetDevice(0));
            });
        for (std::thread& thread : threads) thread.join();
    }
    CHECK(wrong == 0);
    CHECK(findings.rules(true) == Rules{});
}

TEST_CASE("of many threads that run a one-shot executor, one does") {
    Session session;
    Findings findings;
    const Array<int32_t> in({6}, {0, 0, 1, 1, 2, 2}), out({3});
    for (int round = 0; round < 20; ++round) {
        uint64_t size = 0;
        aclOpExecutor* executor = nullptr;
        REQUIRE(aclnnMoeComputeExpertTokensGetWorkspaceSize(in, 3, out, &size, &executor) == 0);
        std::atomic<int> succeeded{0};
        std::vector<std::thread> threads;
        for (int t = 0; t < 4; ++t)
            threads.emplace_back([&] {
                aclrtSetDevice(0);
                if (aclnnMoeComputeExpertTokens(nullptr, 0, executor, session.stream) == 0) ++succeeded;
                aclrtResetDevice(0);
            });
        for (std::thread& thread : threads) thread.join();
        CHECK(succeeded == 1);
    }
    CHECK(session.synchronise() == 0);
    CHECK(findings.rules() == Rules{});
}

TEST_CASE("a worker waits for the part of a deferred stream that another thread runs, not for what is behind it") {
    Session session;
    Findings findings;
    constexpr size_t large = 64 << 20;
    const Buffer slow(large), less(large / 4), shared(64);
    aclrtStream late = nullptr;
    {
        const WithOption deferred(MOE_ACLNN_OPTION_DEFERRED);
        REQUIRE(aclrtCreateStream(&late) == 0);
    }
    for (int round = 0; round < 4; ++round) {
        CHECK(aclrtMemsetAsync(slow.data, large, 0, large, late) == 0);
        CHECK(aclrtMemsetAsync(less.data, less.size, 0, less.size, session.stream) == 0);
        std::thread waits([late] {
            aclrtSetDevice(0);
            aclrtSynchronizeStream(late);
            aclrtResetDevice(0);
        });
        // The worker needs the fill that the thread runs; the last one needs the worker.
        CHECK(aclrtMemcpyAsync(shared.data, 64, slow.data, 64, ACL_MEMCPY_DEVICE_TO_DEVICE, session.stream) == 0);
        CHECK(aclrtMemsetAsync(shared.data, 64, 1, 64, late) == 0);
        waits.join();
        CHECK(session.synchronise() == 0);
        CHECK(aclrtSynchronizeStream(late) == 0);
        CHECK(shared.read<char>() == std::vector<char>(64, 1));
    }
    CHECK(findings.rules().size() == 8);  // two a round: nothing orders the streams
    CHECK(aclrtDestroyStream(late) == 0);
}

TEST_CASE("a forked child finds the device lost, and does not hang") {
    Session session;
    const Array<int32_t> in({6}, {0, 0, 1, 1, 2, 2}), out({3});
    uint64_t size = 0;
    aclOpExecutor* executor = nullptr;
    REQUIRE(aclnnMoeComputeExpertTokensGetWorkspaceSize(in, 3, out, &size, &executor) == 0);
    REQUIRE(aclnnMoeComputeExpertTokens(nullptr, 0, executor, session.stream) == 0);
    const pid_t child = fork();
    if (child == 0) {
        moe_aclnn_set_callback([](const moe_aclnn_finding*, void*) {}, nullptr);
        alarm(20);
        void* data = nullptr;
        const bool lost = aclrtSynchronizeStream(session.stream) == 507899 && aclrtSetDevice(0) == 507899 &&
                          aclrtMalloc(&data, 64, ACL_MEM_MALLOC_HUGE_FIRST) == 507899 && aclInit(nullptr) == 507899 &&
                          aclFinalize() == 507899 && aclnnInit(nullptr) == 361001 &&
                          aclCreateIntArray(nullptr, 0) == nullptr &&
                          aclnnMoeComputeExpertTokens(nullptr, 0, executor, session.stream) == 361001 &&
                          contains(error_text(), "fork");
        _exit(lost ? 0 : 1);
    }
    REQUIRE(child > 0);
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
    CHECK(session.synchronise() == 0);
    CHECK(out.read() == std::vector<int32_t>{2, 4, 6});
}
