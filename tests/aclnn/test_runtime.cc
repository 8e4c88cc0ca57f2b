// Devices, contexts, memory, streams and events.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "aclnnop/aclnn_moe_compute_expert_tokens.h"
#include "client.h"

using namespace client;

namespace {

// Queues aclnnMoeComputeExpertTokens of 0, 0, 1, 1, 2, 2: the result is 2, 4, 6.
struct Tokens {
    Array<int32_t> in{{6}, {0, 0, 1, 1, 2, 2}};
    Array<int32_t> out{{3}, -7};

    void launch(aclrtStream stream, aclTensor* from = nullptr) {
        uint64_t size = 0;
        aclOpExecutor* executor = nullptr;
        REQUIRE(aclnnMoeComputeExpertTokensGetWorkspaceSize(from == nullptr ? in.handle : from, 3, out, &size,
                                                            &executor) == 0);
        REQUIRE(size == 0);
        REQUIRE(aclnnMoeComputeExpertTokens(nullptr, 0, executor, stream) == 0);
    }
};

const std::vector<int32_t> ends = {2, 4, 6};

}  // namespace

TEST_CASE("initialisation is counted") {
    Findings findings;
    CHECK(aclInit(nullptr) == 0);
    CHECK(aclInit(nullptr) == 100002);
    CHECK(aclFinalize() == 0);
    CHECK(aclFinalize() == 100037);
    CHECK(findings.rules(true) == Rules{"unbalanced", "error-text", "unbalanced"});
    CHECK(aclInit(nullptr) == 0);
    CHECK(aclInit(nullptr) == 100002);
    uint64_t left = 9;
    CHECK(aclFinalizeReference(&left) == 0);
    CHECK(left == 1);
    CHECK(aclFinalizeReference(&left) == 0);
    CHECK(left == 0);
    CHECK(aclnnInit(nullptr) == 0);
    CHECK(aclnnFinalize() == 0);
    aclGetRecentErrMsg();
}

TEST_CASE("a thread without a device is told so") {
    const Session session;
    Findings findings;
    std::thread([] {
        void* data = nullptr;
        CHECK(aclrtMalloc(&data, 64, ACL_MEM_MALLOC_HUGE_FIRST) == 107002);
        CHECK(contains(error_text(), "aclrtSetDevice"));
        CHECK(aclrtPeekAtLastError(ACL_RT_THREAD_LEVEL) == 107002);
        CHECK(aclrtGetLastError(ACL_RT_THREAD_LEVEL) == 107002);
        CHECK(aclrtGetLastError(ACL_RT_THREAD_LEVEL) == 0);
        CHECK(data == nullptr);
        CHECK(aclrtSetDevice(8) == 107001);
        CHECK(aclrtSetDevice(0) == 0);
        int32_t device = -1;
        CHECK(aclrtGetDevice(&device) == 0);
        CHECK(device == 0);
        CHECK(aclrtResetDevice(0) == 0);
    }).join();
    CHECK(findings.rules(true) == Rules{"no-device", "argument"});
    CHECK(aclrtResetDevice(1) == 107002);
    CHECK(findings.rules(true) == Rules{"unbalanced"});
}

TEST_CASE("contexts: streams belong to theirs") {
    Session session;
    Findings findings;
    aclrtContext first = nullptr, second = nullptr, current = nullptr;
    REQUIRE(aclrtGetCurrentContext(&first) == 0);
    REQUIRE(aclrtCreateContext(&second, 0) == 0);
    CHECK(aclrtGetCurrentContext(&current) == 0);
    CHECK(current == second);
    CHECK(aclrtSynchronizeStream(session.stream) == 107003);
    CHECK(findings.rules(true) == Rules{"stream-handle"});
    CHECK(aclrtDestroyContext(first) == 100000);
    CHECK(aclrtDestroyContext(second) == 0);
    CHECK(aclrtDestroyContext(second) == 107017);
    CHECK(aclrtGetCurrentContext(&current) == 107002);
    CHECK(aclrtSetCurrentContext(second) == 107017);
    CHECK(aclrtSetCurrentContext(first) == 0);
    CHECK(session.synchronise() == 0);
    aclGetRecentErrMsg();
}

TEST_CASE("options are remembered") {
    const Session session;
    int64_t value = 5;
    CHECK(aclrtCtxGetSysParamOpt(ACL_OPT_DETERMINISTIC, &value) == 107021);
    CHECK(aclrtCtxSetSysParamOpt(ACL_OPT_DETERMINISTIC, 1) == 0);
    CHECK(aclrtCtxGetSysParamOpt(ACL_OPT_DETERMINISTIC, &value) == 0);
    CHECK(value == 1);
    CHECK(aclrtSetSysParamOpt(static_cast<aclSysParamOpt>(9), 1) == 100000);
    CHECK(aclrtSetSysParamOpt(ACL_OPT_ENABLE_DEBUG_KERNEL, 2) == 100000);
    CHECK(std::string(aclrtGetSocName()) == "Ascend910B1");
    int32_t major = 0, minor = 0, patch = -1;
    CHECK(aclrtGetVersion(&major, &minor, &patch) == 0);
    CHECK(major == 1);
    CHECK(minor == 13);
    aclCANNPackageVersion version;
    CHECK(aclsysGetCANNVersion(ACL_PKG_NAME_CANN, &version) == 0);
    CHECK(std::strcmp(version.majorVersion, "8") == 0);
    uint32_t count = 0;
    CHECK(aclrtGetDeviceCount(&count) == 0);
    CHECK(count >= 1);
    aclrtRunMode run_mode = ACL_DEVICE;
    CHECK(aclrtGetRunMode(&run_mode) == 0);
    CHECK(run_mode == ACL_HOST);
    aclGetRecentErrMsg();
}

TEST_CASE("allocations: sizes, alignment, attributes, memory info") {
    const Session session;
    Findings findings;
    void* data = nullptr;
    CHECK(aclrtMalloc(nullptr, 64, ACL_MEM_MALLOC_HUGE_FIRST) == 100000);
    CHECK(aclrtMalloc(&data, 0, ACL_MEM_MALLOC_HUGE_FIRST) == 100000);
    CHECK(aclrtMalloc(&data, size_t{1} << 60, ACL_MEM_MALLOC_HUGE_FIRST) == 207001);
    CHECK(data == nullptr);
    CHECK(findings.rules(true) == Rules{"null-argument", "free-misuse", "argument"});
    size_t free_before = 0, free_now = 0, total = 0;
    CHECK(aclrtGetMemInfo(ACL_HBM_MEM, &free_before, &total) == 0);
    CHECK(free_before <= total);
    for (const size_t size : {1, 31, 32, 33, 4096, 1 << 20}) {
        REQUIRE(aclrtMalloc(&data, size, ACL_MEM_MALLOC_HUGE_FIRST) == 0);
        CHECK(reinterpret_cast<uintptr_t>(data) % 512 == 0);
        aclrtPtrAttributes attributes;
        CHECK(aclrtPointerGetAttributes(data, &attributes) == 0);
        CHECK(attributes.location.type == ACL_MEM_LOCATION_TYPE_DEVICE);
        CHECK(aclrtMemset(data, size, 0x12, size) == 0);
        CHECK(aclrtGetMemInfo(ACL_HBM_MEM, &free_now, &total) == 0);
        CHECK(free_now < free_before);
        CHECK(aclrtFree(data) == 0);
    }
    CHECK(aclrtGetMemInfo(ACL_HBM_MEM, &free_now, &total) == 0);
    CHECK(free_now == free_before);
    REQUIRE(aclrtMallocHost(&data, 100) == 0);
    aclrtPtrAttributes attributes;
    CHECK(aclrtPointerGetAttributes(data, &attributes) == 0);
    CHECK(attributes.location.type == ACL_MEM_LOCATION_TYPE_HOST);
    CHECK(aclrtFreeHost(data) == 0);
    CHECK(findings.rules(true) == Rules{});
    aclGetRecentErrMsg();
}

TEST_CASE("freeing: null, twice, from the middle, by the wrong function") {
    const Session session;
    Findings findings;
    for (const moe_aclnn_mode mode : {MOE_ACLNN_COMPAT, MOE_ACLNN_STRICT}) {
        const InMode in_mode(mode);
        const aclError refused = mode == MOE_ACLNN_STRICT ? 107000 : 0;
        void *data = nullptr, *host = nullptr;
        int on_stack = 0;
        REQUIRE(aclrtMalloc(&data, 64, ACL_MEM_MALLOC_HUGE_FIRST) == 0);
        REQUIRE(aclrtMallocHost(&host, 64) == 0);
        CHECK(aclrtFree(nullptr) == 100000);
        CHECK(aclrtFree(static_cast<char*>(data) + 16) == refused);
        CHECK(aclrtFreeHost(data) == refused);
        CHECK(aclrtFree(host) == refused);
        CHECK(aclrtFree(&on_stack) == refused);
        CHECK(aclrtFree(data) == 0);
        CHECK(aclrtFree(data) == refused);
        CHECK(contains(findings.text(), "freed by aclrtFree"));
        CHECK(aclrtFreeHost(host) == 0);
        CHECK(aclrtFreeHost(host) == refused);
        CHECK(findings.rules() == Rules(6, "free-misuse"));
    }
    aclGetRecentErrMsg();
}

TEST_CASE("copies: sizes, kinds and pointers") {
    const Session session;
    Findings findings;
    Buffer device(std::vector<int32_t>{1, 2, 3, 4});
    std::vector<int32_t> host(4);
    CHECK(aclrtMemcpy(nullptr, 16, device.data, 16, ACL_MEMCPY_DEVICE_TO_HOST) == 100000);
    CHECK(aclrtMemcpy(host.data(), 8, device.data, 16, ACL_MEMCPY_DEVICE_TO_HOST) == 107000);
    CHECK(aclrtMemcpy(host.data(), 16, device.data, 16, static_cast<aclrtMemcpyKind>(6)) == 100000);
    CHECK(findings.rules(true) == Rules{"null-argument", "memcpy-size", "memcpy-kind"});
    CHECK(aclrtMemcpy(device.data, 4096, host.data(), 4096, ACL_MEMCPY_HOST_TO_DEVICE) == 107000);
    CHECK(findings.rules(true) == Rules{"memcpy-size"});
    // A host pointer where the kind says device, and the other way round.
    CHECK(aclrtMemcpy(host.data(), 16, host.data(), 16, ACL_MEMCPY_HOST_TO_DEVICE) == 107000);
    CHECK(findings.rules(true) == Rules{"memcpy-kind"});
    CHECK(aclrtMemcpy(host.data(), 16, device.data, 16, ACL_MEMCPY_HOST_TO_HOST) == 0);
    CHECK(findings.rules(true) == Rules{"memcpy-kind"});
    CHECK(host == std::vector<int32_t>{1, 2, 3, 4});
    {
        const InMode strict(MOE_ACLNN_STRICT);
        CHECK(aclrtMemcpy(host.data(), 16, device.data, 16, ACL_MEMCPY_HOST_TO_HOST) == 100000);
        CHECK(findings.rules(true) == Rules{"memcpy-kind"});
    }
    CHECK(aclrtMemcpy(host.data(), 16, device.data, 0, ACL_MEMCPY_DEVICE_TO_HOST) == 0);
    CHECK(aclrtMemcpy(host.data(), 16, device.data, 16, ACL_MEMCPY_DEFAULT) == 0);
    void* freed = nullptr;
    REQUIRE(aclrtMalloc(&freed, 64, ACL_MEM_MALLOC_HUGE_FIRST) == 0);
    CHECK(aclrtMemcpy(host.data(), 16, freed, 16, ACL_MEMCPY_DEVICE_TO_HOST) == 0);
    CHECK(findings.rules(true) == Rules{"uninitialised"});
    REQUIRE(aclrtFree(freed) == 0);
    CHECK(aclrtMemcpy(host.data(), 16, freed, 16, ACL_MEMCPY_DEVICE_TO_HOST) == 107000);
    CHECK(aclrtMemcpy(host.data(), 16, freed, 16, ACL_MEMCPY_HOST_TO_HOST) == 107000);
    CHECK(findings.rules(true) == Rules{"device-pointer", "device-pointer"});
    CHECK(aclrtMemset(host.data(), 16, 1, 16) == 107000);
    CHECK(aclrtMemset(device.data, 8, 1, 16) == 107000);
    CHECK(findings.rules(true) == Rules{"memcpy-kind", "memcpy-size"});
    // Sizes that lead around the address space.
    for (const size_t count : {SIZE_MAX, SIZE_MAX - 4096}) {
        CHECK(aclrtMemset(device.data, SIZE_MAX, 1, count) == 107000);
        CHECK(aclrtMemcpy(device.data, SIZE_MAX, device.data, count, ACL_MEMCPY_DEVICE_TO_DEVICE) == 107000);
        CHECK(aclrtMemcpy(static_cast<char*>(device.data) + 8, SIZE_MAX, device.data, count, ACL_MEMCPY_DEFAULT) ==
              107000);
    }
    CHECK(findings.rules(true) == Rules(6, "memcpy-size"));
    aclGetRecentErrMsg();
}

TEST_CASE("bytes written beside an allocation are found when it is freed, or used") {
    Session session;
    Findings findings;
    void* data = nullptr;
    REQUIRE(aclrtMalloc(&data, 64, ACL_MEM_MALLOC_HUGE_FIRST) == 0);
    static_cast<char*>(data)[-1] = 0;
    CHECK(aclrtFree(data) == 0);
    CHECK(findings.rules() == Rules{"overrun"});
    Tokens tokens;
    static_cast<char*>(tokens.out.buffer.data)[12 + 20 + 32] = 0;
    tokens.launch(session.stream);
    CHECK(session.synchronise() == 0);
    CHECK(findings.rules() == Rules{"overrun"});
}

TEST_CASE("protected memory faults when the host touches it, and works otherwise") {
    const WithOption protect(MOE_ACLNN_OPTION_PROTECT), poisoned(MOE_ACLNN_OPTION_POISON);
    Session session;
    Findings findings;
    Tokens tokens;
    tokens.launch(session.stream);
    CHECK(session.synchronise() == 0);
    CHECK(tokens.out.read() == ends);
    CHECK(aclrtMemset(tokens.out.buffer.data, 12, 0, 12) == 0);
    CHECK(aclrtMemsetAsync(tokens.out.buffer.data, 12, 1, 4, session.stream) == 0);
    CHECK(session.synchronise() == 0);
    CHECK(tokens.out.read() == std::vector<int32_t>{0x01010101, 0, 0});
    CHECK(findings.rules(true) == Rules{});
    const pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, [](int) { _exit(42); });
        static_cast<volatile char*>(tokens.in.buffer.data)[0] = 1;
        _exit(0);
    }
    REQUIRE(child > 0);
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 42);
}

TEST_CASE("a forgotten synchronisation is a finding, and shows in deferred mode") {
    Findings findings;
    for (const bool deferred : {false, true}) {
        if (deferred) moe_aclnn_set_option(MOE_ACLNN_OPTION_DEFERRED, 1);
        {
            Session session;
            Tokens tokens;
            tokens.launch(session.stream);
            const std::vector<int32_t> early = tokens.out.read();
            CHECK(findings.rules() == Rules{"unsynchronised"});
            if (deferred) CHECK(early == std::vector<int32_t>(3, -7));
            {
                const InMode strict(MOE_ACLNN_STRICT);
                std::vector<int32_t> host(3);
                CHECK(aclrtMemcpy(host.data(), 12, tokens.out.buffer.data, 12, ACL_MEMCPY_DEVICE_TO_HOST) == 100000);
                CHECK(aclrtFree(tokens.in.buffer.data) == 100000);
                CHECK(findings.rules() == Rules{"unsynchronised", "unsynchronised"});
            }
            CHECK(session.synchronise() == 0);
            CHECK(tokens.out.read() == ends);
            CHECK(findings.rules() == Rules{});
        }
        moe_aclnn_set_option(MOE_ACLNN_OPTION_DEFERRED, 0);
    }
    aclGetRecentErrMsg();
}

TEST_CASE("memory that is freed under queued work stays until the work is done") {
    const WithOption deferred(MOE_ACLNN_OPTION_DEFERRED);
    Session session;
    Findings findings;
    Tokens tokens;
    tokens.launch(session.stream);
    CHECK(aclrtFree(tokens.in.buffer.data) == 0);
    CHECK(findings.rules() == Rules{"unsynchronised"});
    tokens.in.buffer.data = nullptr;
    CHECK(session.synchronise() == 0);
    CHECK(tokens.out.read() == ends);
}

TEST_CASE("deferred streams: a query runs one task") {
    const WithOption deferred(MOE_ACLNN_OPTION_DEFERRED);
    Session session;
    Tokens first, second;
    first.launch(session.stream);
    second.launch(session.stream);
    aclrtStreamStatus status;
    CHECK(aclrtStreamQuery(session.stream, &status) == 0);
    CHECK(status == ACL_STREAM_STATUS_NOT_READY);
    CHECK(aclrtStreamQuery(session.stream, &status) == 0);
    CHECK(status == ACL_STREAM_STATUS_COMPLETE);
    Findings findings;
    CHECK(first.out.read() == ends);
    CHECK(second.out.read() == ends);
    CHECK(findings.rules() == Rules{});
}

TEST_CASE("two streams on one buffer need an event") {
    Findings findings;
    for (const bool deferred : {false, true}) {
        moe_aclnn_set_option(MOE_ACLNN_OPTION_DEFERRED, deferred ? 1 : 0);
        {
            Session session;
            aclrtStream other = nullptr;
            aclrtEvent event = nullptr;
            REQUIRE(aclrtCreateStream(&other) == 0);
            REQUIRE(aclrtCreateEvent(&event) == 0);
            Tokens tokens;
            Array<int32_t> copy({3}, 0);
            tokens.launch(session.stream);
            CHECK(aclrtMemcpyAsync(copy.buffer.data, 12, tokens.out.buffer.data, 12, ACL_MEMCPY_DEVICE_TO_DEVICE,
                                   other) == 0);
            CHECK(findings.rules() == Rules{"unordered-streams"});
            CHECK(aclrtSynchronizeDevice() == 0);
            tokens.launch(session.stream);
            CHECK(aclrtRecordEvent(event, session.stream) == 0);
            CHECK(aclrtStreamWaitEvent(other, event) == 0);
            CHECK(aclrtMemcpyAsync(copy.buffer.data, 12, tokens.out.buffer.data, 12, ACL_MEMCPY_DEVICE_TO_DEVICE,
                                   other) == 0);
            // The one stream waited for the other: it is enough to wait for the last.
            CHECK(aclrtSynchronizeStream(other) == 0);
            CHECK(copy.read() == ends);
            CHECK(tokens.out.read() == ends);
            CHECK(findings.rules() == Rules{});
            CHECK(aclrtDestroyEvent(event) == 0);
            CHECK(aclrtDestroyEvent(event) == 107017);
            CHECK(aclrtDestroyStream(other) == 0);
            CHECK(aclrtDestroyStream(other) == 107017);
            CHECK(aclrtDestroyStream(nullptr) == 100000);
            findings.rules();
        }
        moe_aclnn_set_option(MOE_ACLNN_OPTION_DEFERRED, 0);
    }
    aclGetRecentErrMsg();
}

TEST_CASE("events: status, time, waiting") {
    Session session;
    aclrtEvent start = nullptr, end = nullptr;
    REQUIRE(aclrtCreateEventWithFlag(&start, ACL_EVENT_TIME_LINE) == 0);
    REQUIRE(aclrtCreateEvent(&end) == 0);
    aclrtEventRecordedStatus status = ACL_EVENT_RECORDED_STATUS_NOT_READY;
    CHECK(aclrtQueryEventStatus(start, &status) == 0);
    CHECK(status == ACL_EVENT_RECORDED_STATUS_COMPLETE);
    float ms = -1;
    CHECK(aclrtEventElapsedTime(&ms, start, end) == 107000);
    Tokens tokens;
    CHECK(aclrtRecordEvent(start, session.stream) == 0);
    tokens.launch(session.stream);
    CHECK(aclrtRecordEvent(end, session.stream) == 0);
    CHECK(aclrtSynchronizeEvent(end) == 0);
    CHECK(aclrtQueryEventStatus(end, &status) == 0);
    CHECK(status == ACL_EVENT_RECORDED_STATUS_COMPLETE);
    CHECK(aclrtEventElapsedTime(&ms, start, end) == 0);
    CHECK(ms >= 0);
    Findings findings;
    CHECK(tokens.out.read() == ends);
    CHECK(findings.rules() == Rules{});
    CHECK(aclrtDestroyEvent(start) == 0);
    CHECK(aclrtDestroyEvent(end) == 0);
    aclGetRecentErrMsg();
}

TEST_CASE("asynchronous copies follow the order of their stream; pinned memory stays while they need it") {
    for (const bool deferred : {false, true}) {
        moe_aclnn_set_option(MOE_ACLNN_OPTION_DEFERRED, deferred ? 1 : 0);
        {
            Session session;
            Findings findings;
            Tokens tokens;
            void *from = nullptr, *to = nullptr;
            REQUIRE(aclrtMallocHost(&from, 24) == 0);
            REQUIRE(aclrtMallocHost(&to, 12) == 0);
            const int32_t values[] = {0, 1, 1, 1, 1, 2};
            std::memcpy(from, values, sizeof values);
            CHECK(aclrtMemcpyAsync(tokens.in.buffer.data, 24, from, 24, ACL_MEMCPY_HOST_TO_DEVICE, session.stream) ==
                  0);
            tokens.launch(session.stream);
            CHECK(aclrtMemcpyAsync(to, 12, tokens.out.buffer.data, 12, ACL_MEMCPY_DEVICE_TO_HOST, session.stream) == 0);
            CHECK(findings.rules() == Rules{});
            CHECK(aclrtFreeHost(from) == 0);
            CHECK(findings.rules() == Rules{"unsynchronised"});
            CHECK(session.synchronise() == 0);
            CHECK(std::vector<int32_t>(static_cast<int32_t*>(to), static_cast<int32_t*>(to) + 3) ==
                  std::vector<int32_t>{1, 5, 6});
            CHECK(aclrtFreeHost(to) == 0);
            // Pageable memory is the client's again at once.
            std::vector<int32_t> host(3);
            CHECK(aclrtMemcpyAsync(host.data(), 12, tokens.out.buffer.data, 12, ACL_MEMCPY_DEVICE_TO_HOST,
                                   session.stream) == 0);
            CHECK(host == std::vector<int32_t>{1, 5, 6});
            CHECK(aclrtMemsetAsync(tokens.out.buffer.data, 12, 0, 12, session.stream) == 0);
            CHECK(session.synchronise() == 0);
            CHECK(tokens.out.read() == std::vector<int32_t>(3, 0));
            CHECK(findings.rules() == Rules{});
        }
        moe_aclnn_set_option(MOE_ACLNN_OPTION_DEFERRED, 0);
    }
}

TEST_CASE("host memory that two streams copy from is in use until both are through") {
    const Session session;
    const WithOption deferred(MOE_ACLNN_OPTION_DEFERRED);
    Findings findings;
    const Buffer device(64);
    aclrtStream streams[2];
    void* host = nullptr;
    REQUIRE(aclrtMallocHost(&host, 64) == 0);
    std::memset(host, 1, 64);
    for (int i = 0; i < 2; ++i) {
        REQUIRE(aclrtCreateStream(&streams[i]) == 0);
        CHECK(aclrtMemcpyAsync(static_cast<char*>(device.data) + 32 * i, 32, static_cast<char*>(host) + 32 * i, 32,
                               ACL_MEMCPY_HOST_TO_DEVICE, streams[i]) == 0);
    }
    CHECK(aclrtSynchronizeStream(streams[1]) == 0);
    CHECK(findings.rules() == Rules{});
    CHECK(aclrtFreeHost(host) == 0);
    CHECK(findings.rules() == Rules{"unsynchronised"});
    for (const aclrtStream stream : streams) CHECK(aclrtDestroyStream(stream) == 0);
    CHECK(device.read<char>() == std::vector<char>(64, 1));
    CHECK(findings.rules() == Rules{});
}

TEST_CASE("the default stream, timeouts, forced destruction") {
    Session session;
    Findings findings;
    Tokens tokens;
    tokens.launch(nullptr);
    CHECK(aclrtSynchronizeStream(nullptr) == 0);
    CHECK(tokens.out.read() == ends);
    CHECK(aclrtSynchronizeStreamWithTimeout(session.stream, -2) == 107000);
    CHECK(aclrtSynchronizeStreamWithTimeout(session.stream, 1000) == 0);
    CHECK(aclrtSynchronizeDeviceWithTimeout(1000) == 0);
    aclrtStream other = nullptr;
    REQUIRE(aclrtCreateStreamWithConfig(&other, 0, ACL_STREAM_FAST_LAUNCH | ACL_STREAM_FAST_SYNC) == 0);
    tokens.launch(other);
    CHECK(aclrtDestroyStreamForce(other) == 0);
    CHECK(findings.rules() == Rules{});
    CHECK(aclrtSynchronizeStream(other) == 107017);
    aclGetRecentErrMsg();
}

TEST_CASE("deferred streams and others wait for each other") {
    Session session;
    aclrtStream deferred[2] = {};
    {
        const WithOption option(MOE_ACLNN_OPTION_DEFERRED);
        for (aclrtStream& stream : deferred) REQUIRE(aclrtCreateStream(&stream) == 0);
    }
    aclrtEvent events[2] = {};
    for (aclrtEvent& event : events) REQUIRE(aclrtCreateEvent(&event) == 0);
    // The second deferred one waits for the worker, which waits for the first.
    CHECK(aclrtRecordEvent(events[0], deferred[0]) == 0);
    for (const aclrtStream stream : {session.stream, deferred[1]}) {
        const size_t at = stream == session.stream ? 0 : 1;
        CHECK(aclrtStreamWaitEvent(stream, events[at]) == 0);
        if (at == 0) CHECK(aclrtRecordEvent(events[1], stream) == 0);
    }
    CHECK(aclrtSynchronizeStream(deferred[1]) == 0);
    for (const aclrtEvent event : events) CHECK(aclrtDestroyEvent(event) == 0);
    for (const aclrtStream stream : deferred) CHECK(aclrtDestroyStream(stream) == 0);
}

TEST_CASE("what is left at the end is reported") {
    Findings findings;
    aclTensor* left = nullptr;
    void* memory = nullptr;
    {
        const Session session;
        REQUIRE(aclrtMalloc(&memory, 64, ACL_MEM_MALLOC_HUGE_FIRST) == 0);
        left = make_tensor({4}, ACL_FLOAT, memory);
        CHECK(findings.rules() == Rules{});
    }
    // The buffer at the reset of its device, the tensor at the end.
    CHECK(findings.rules() == Rules{"unbalanced", "unbalanced"});
    REQUIRE(aclInit(nullptr) == 0);
    int64_t* dims = nullptr;
    uint64_t count = 0;
    CHECK(aclGetViewShape(left, &dims, &count) == 0);
    delete[] dims;
    CHECK(aclrtFree(nullptr) == 100000);
    CHECK(aclFinalize() == 0);
    CHECK(findings.rules() == Rules{"unbalanced", "getter-array", "error-text"});
    aclGetRecentErrMsg();
    CHECK(aclDestroyTensor(left) == 0);
    CHECK(findings.rules() == Rules{});
    CHECK(aclDestroyTensor(left) == 0);
    CHECK(aclrtFree(memory) == 0);
    CHECK(findings.rules() == Rules{"double-destroy", "free-misuse"});
}
