// The list of rules: each is told in the documentation, and found where its mistake is made, alone.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "aclnnop/aclnn_ffn.h"
#include "aclnnop/aclnn_moe_compute_expert_tokens.h"
#include "aclnnop/aclnn_moe_init_routing_v2.h"
#include "aclnnop/aclnn_moe_init_routing_v3.h"
#include "aclnnop/aclnn_npu_format_cast.h"
#include "aclnnop/aclnn_trans_matmul_weight.h"
#include "client.h"

using namespace client;

namespace {

struct Listed {
    const char* number;
    const char* name;
    bool finding;
};

constexpr Listed rules[] = {
#define MOE_RULE(identifier, number, name, what) {number, name, true},
#define MOE_CONTRACT(number, name, what) {number, name, false},
#include MOE_RULES
#undef MOE_CONTRACT
#undef MOE_RULE
};

std::string contents(const std::filesystem::path& path) {
    std::ifstream file(path);
    REQUIRE_MESSAGE(file.good(), path.string());
    return {std::istreambuf_iterator<char>(file), {}};
}

// aclnnMoeComputeExpertTokens of 0, 0, 1, 1, 2, 2, and what can be done wrong with it.
struct Scene {
    Session session;
    Buffer in{std::vector<int32_t>{0, 0, 1, 1, 2, 2}}, out{std::vector<int32_t>(3)};
    aclTensor* from = make_tensor({6}, ACL_INT32, in.data);
    aclTensor* to = make_tensor({3}, ACL_INT32, out.data);
    uint64_t size = 0;
    aclOpExecutor* executor = nullptr;

    ~Scene() {
        session.synchronise();
        CHECK(aclDestroyTensor(from) == 0);
        CHECK(aclDestroyTensor(to) == 0);
    }
    aclnnStatus plan(int64_t experts = 3) {
        return aclnnMoeComputeExpertTokensGetWorkspaceSize(from, experts, to, &size, &executor);
    }
    aclnnStatus launch(void* workspace = nullptr) {
        return aclnnMoeComputeExpertTokens(workspace, size, executor, session.stream);
    }
    void remake(aclTensor** tensor, const Shape& shape, void* data, const Shape& strides = {}, int64_t offset = 0) {
        CHECK(aclDestroyTensor(*tensor) == 0);
        *tensor = aclCreateTensor(shape.data(), shape.size(), ACL_INT32, strides.empty() ? nullptr : strides.data(),
                                  offset, ACL_FORMAT_ND, shape.data(), shape.size(), data);
    }
    // Both phases and the synchronisation, of a call whose mistake lets it pass.
    void run_through() {
        REQUIRE(plan() == 0);
        CHECK(launch() == 0);
        CHECK(session.synchronise() == 0);
    }
};

void leave_executor() {
    aclOpExecutor* executor = nullptr;
    {
        const Session session;
        const int64_t lengths[] = {6, 3};
        uint64_t size = 0;
        aclTensor* tensors[2];
        for (int i = 0; i < 2; ++i)
            tensors[i] = aclCreateTensor(lengths + i, 1, ACL_INT32, nullptr, 0, ACL_FORMAT_ND, lengths + i, 1, nullptr);
        CHECK(aclnnMoeComputeExpertTokensGetWorkspaceSize(tensors[0], 3, tensors[1], &size, &executor) == 0);
        for (const aclTensor* tensor : tensors) CHECK(aclDestroyTensor(tensor) == 0);
    }
    CHECK(aclDestroyAclOpExecutor(executor) == 0);
}

void transpose_in_name(int times) {
    Session session;
    const Buffer memory(std::vector<int8_t>(16 * 32));
    aclTensor* const weight = make_tensor({16, 32}, ACL_INT8, memory.data);
    uint64_t size = 0;
    aclOpExecutor* executor = nullptr;
    for (int i = 0; i < times; ++i) {
        aclOpExecutor* const before = executor;
        const aclnnStatus status = aclnnTransMatmulWeightGetWorkspaceSize(weight, &size, &executor);
        CHECK(status == (i == 0 ? 0 : 161002));
        CHECK((i == 0 || executor == before));
    }
    if (times == 1) {
        const Buffer plain(std::vector<int8_t>(16 * 32));
        aclTensor* const back = make_tensor({16, 32}, ACL_INT8, plain.data);
        aclOpExecutor* early = nullptr;
        CHECK(aclnnNpuFormatCastGetWorkspaceSize(weight, back, &size, &early) == 0);
        CHECK(run(session, aclnnNpuFormatCast, size, early) == 0);
        CHECK(aclDestroyTensor(back) == 0);
    }
    CHECK(aclDestroyAclOpExecutor(executor) == 0);
    CHECK(aclDestroyTensor(weight) == 0);
}

// A program that makes one mistake, in compat, where everything runs to its end; `findings` are all that it gives.
struct Provocation {
    const char* rule;
    void (*program)();
    Rules findings = {rule};
};

const Provocation provocations[] = {
    {"workspace-null",
     [] {
         Scene of;
         REQUIRE(of.plan() == 0);
         of.size = 64;
         CHECK(of.launch() == 161001);
         CHECK(aclDestroyAclOpExecutor(of.executor) == 0);
     }},
    {"workspace-size",
     [] {
         const WithOption padded(MOE_ACLNN_OPTION_WORKSPACE);
         Scene of;
         const Buffer workspace(1024);
         REQUIRE(of.plan() == 0);
         of.size /= 2;
         CHECK(of.launch(workspace.data) == 161002);
     }},
    {"workspace-buffer",
     [] {
         const WithOption padded(MOE_ACLNN_OPTION_WORKSPACE);
         Scene of;
         const Buffer workspace(64);
         REQUIRE(of.plan() == 0);
         CHECK(of.launch(workspace.data) == 0);
         CHECK(of.session.synchronise() == 0);
     }},
    {"overrun",
     [] {
         const Session session;
         const Buffer buffer(64);
         static_cast<volatile char*>(buffer.data)[-1] = 7;
     }},
    {"host-pointer",
     [] {
         Scene of;
         std::vector<int32_t> host(6);
         of.remake(&of.from, {6}, host.data());
         REQUIRE(of.plan() == 0);
         CHECK(of.launch() == 0);
         CHECK(of.session.synchronise() == 507015);
     }},
    {"device-pointer",
     [] {
         const Session session;
         void* gone = nullptr;
         {
             const Buffer buffer(64);
             gone = buffer.data;
         }
         char host[64];
         CHECK(aclrtMemcpy(host, 64, gone, 64, ACL_MEMCPY_DEVICE_TO_HOST) == 107000);
     }},
    {"memcpy-kind",
     [] {
         const Session session;
         char from[8] = {}, to[8];
         CHECK(aclrtMemcpy(to, 8, from, 8, ACL_MEMCPY_HOST_TO_DEVICE) == 107000);
     }},
    {"memcpy-size",
     [] {
         const Session session;
         const Buffer buffer(64);
         char host[64] = {};
         CHECK(aclrtMemcpy(buffer.data, 32, host, 64, ACL_MEMCPY_HOST_TO_DEVICE) == 107000);
     }},
    {"tensor-extent",
     [] {
         Scene of;
         of.remake(&of.to, {9}, of.out.data);
         REQUIRE(of.plan(9) == 0);
         CHECK(of.launch() == 0);
         CHECK(of.session.synchronise() == 0);
     }},
    {"output-mismatch",
     [] {
         const Session session;
         const Array<float> x({3, 4}), scales({6});
         const Array<int32_t> ids({3, 2}, {1, 2, 0, 1, 0, 2}), rows({6});
         const Array<int8_t> out({6, 4});
         const Array<int64_t> counts({3});
         const int64_t range[] = {0, 3};
         const aclIntArray* const active = aclCreateIntArray(range, 2);
         uint64_t size = 0;
         aclOpExecutor* executor = nullptr;
         REQUIRE(aclnnMoeInitRoutingV3GetWorkspaceSize(x, ids, nullptr, nullptr, 6, 0, 3, 0, 1, true, -1, active, 0,
                                                       out, rows, counts, scales, &size, &executor) == 0);
         CHECK(aclDestroyAclOpExecutor(executor) == 0);
         CHECK(aclDestroyIntArray(active) == 0);
     }},
    {"tensor-layout",
     [] {
         Scene of;
         of.remake(&of.from, {6}, of.in.data, {-1}, 5);
         REQUIRE(of.plan() == 0);
         CHECK(aclDestroyAclOpExecutor(of.executor) == 0);
     }},
    {"strided-output",
     [] {
         Scene of;
         of.remake(&of.to, {3}, of.out.data, {2});
         REQUIRE(of.plan() == 0);
         CHECK(aclDestroyAclOpExecutor(of.executor) == 0);
     }},
    {"tensor-destroyed",
     [] {
         Scene of;
         REQUIRE(of.plan() == 0);
         of.remake(&of.from, {6}, of.in.data);
         CHECK(of.launch() == 0);
     }},
    {"double-destroy",
     [] {
         int on_stack = 0;
         CHECK(aclDestroyTensor(reinterpret_cast<aclTensor*>(&on_stack)) == 0);
     }},
    {"executor-spent",
     [] {
         Scene of;
         of.run_through();
         CHECK(of.launch() == 561000);
     }},
    {"executor-mixed",
     [] {
         Scene of;
         REQUIRE(of.plan() == 0);
         CHECK(aclnnTransMatmulWeight(nullptr, 0, of.executor, of.session.stream) == 561000);
         CHECK(aclDestroyAclOpExecutor(of.executor) == 0);
     }},
    {"executor-leak", leave_executor},
    {"executor-unknown",
     [] {
         Scene of;
         of.executor = reinterpret_cast<aclOpExecutor*>(&of);
         CHECK(of.launch() == 561000);
     }},
    {"repeatable", [] { CHECK(aclSetAclOpExecutorRepeatable(nullptr) == 561103); }},
    {"repeatable-change",
     [] {
         Scene of;
         REQUIRE(of.plan() == 0);
         CHECK(aclSetInputTensorAddr(of.executor, 9, of.from, of.in.data) == 161002);
         CHECK(aclDestroyAclOpExecutor(of.executor) == 0);
     }},
    {"raw-address",
     [] {
         Scene of;
         REQUIRE(of.plan() == 0);
         CHECK(aclSetRawTensorAddr(of.from, of.in.data) == 0);
         CHECK(of.launch() == 0);
     }},
    {"unsynchronised",
     [] {
         Scene of;
         REQUIRE(of.plan() == 0);
         CHECK(of.launch() == 0);
         of.out.read<int32_t>();
     }},
    {"unordered-streams",
     [] {
         Scene of;
         aclrtStream other = nullptr;
         CHECK(aclrtCreateStream(&other) == 0);
         CHECK(aclrtMemsetAsync(of.out.data, 12, 1, 12, of.session.stream) == 0);
         CHECK(aclrtMemsetAsync(of.out.data, 12, 2, 12, other) == 0);
         CHECK(aclrtDestroyStream(other) == 0);
     }},
    {"stream-handle",
     [] {
         const Session session;
         int on_stack = 0;
         CHECK(aclrtSynchronizeStream(&on_stack) == 107017);
     }},
    {"no-device", [] { std::thread([] { CHECK(aclrtSynchronizeDevice() == 107002); }).join(); }},
    {"unbalanced", [] { CHECK(aclrtResetDevice(1) == 107002); }},
    {"free-misuse",
     [] {
         const Session session;
         CHECK(aclrtFree(nullptr) == 100000);
     }},
    {"null-argument",
     [] {
         const Session session;
         CHECK(aclrtMalloc(nullptr, 64, ACL_MEM_MALLOC_HUGE_FIRST) == 100000);
     }},
    {"argument", [] { CHECK(aclrtSetDevice(99) == 107001); }},
    {"null-crash",
     [] {
         uint64_t size = 0;
         aclOpExecutor* executor = nullptr;
         CHECK(aclnnFFNGetWorkspaceSize(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                                        nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 0, nullptr, &size,
                                        &executor) == 161001);
     }},
    {"data-range",
     [] {
         Session session;
         const Array<float> x({3, 4}), out({6, 4});
         const Array<int32_t> ids({3, 2}, {1, 2, 0, 7, 0, 2}), rows({6}), counts({3});
         uint64_t size = 0;
         aclOpExecutor* executor = nullptr;
         REQUIRE(aclnnMoeInitRoutingV2GetWorkspaceSize(x, ids, 0, 0, 3, 0, 2, false, out, rows, counts, nullptr, &size,
                                                       &executor) == 0);
         CHECK(run(session, aclnnMoeInitRoutingV2, size, executor) == 0);
     }},
    {"aliasing",
     [] {
         Scene of;
         of.remake(&of.to, {3}, of.in.data);
         of.run_through();
     }},
    {"mutated", [] { transpose_in_name(2); }},
    {"nz-not-ready", [] { transpose_in_name(1); }},
    // Told beside what was left behind.
    {"getter-array",
     [] {
         int64_t* dims = nullptr;
         uint64_t rank = 0;
         aclTensor* left = nullptr;
         {
             const Session session;
             left = make_tensor({3}, ACL_INT32, nullptr);
             CHECK(aclGetViewShape(left, &dims, &rank) == 0);
         }
         delete[] dims;
         CHECK(aclDestroyTensor(left) == 0);
     },
     {"unbalanced", "getter-array"}},
    {"uninitialised",
     [] {
         const Session session;
         const Buffer fresh(64);
         fresh.read<char>();
     }},
    // Of an error, which is a finding too.
    {"error-text",
     [] {
         CHECK(aclInit(nullptr) == 0);
         CHECK(aclrtSetDevice(99) == 107001);
         CHECK(aclFinalize() == 0);
     },
     {"argument", "error-text"}},
    {"plan-cache",
     [] {
         Scene of;
         aclOpExecutor* executors[2] = {};
         for (aclOpExecutor*& executor : executors) {
             REQUIRE(of.plan() == 0);
             executor = of.executor;
         }
         CHECK(executors[0] != executors[1]);
         CHECK(aclSetAclOpExecutorRepeatable(executors[1]) == 0);
         const Array<int32_t> other({3});
         for (aclOpExecutor* const executor : executors) {
             of.executor = executor;
             if (executor == executors[1]) CHECK(aclSetOutputTensorAddr(executor, 0, of.to, other.buffer.data) == 0);
             CHECK(of.launch() == 0);
             CHECK(of.session.synchronise() == 0);
         }
         CHECK(of.out.read<int32_t>() == std::vector<int32_t>{2, 4, 6});
         CHECK(other.read() == std::vector<int32_t>{2, 4, 6});
         CHECK(aclDestroyAclOpExecutor(executors[1]) == 0);
     },
     {}},
    {"workspace-honesty",
     [] {
         Scene of;
         of.run_through();
         CHECK(of.size == 0);
         const WithOption padded(MOE_ACLNN_OPTION_WORKSPACE), poisoned(MOE_ACLNN_OPTION_POISON);
         REQUIRE(of.plan() == 0);
         CHECK(of.size > 0);
         CHECK(of.size % 512 == 0);
         CHECK(run(of.session, aclnnMoeComputeExpertTokens, of.size, of.executor) == 0);
         CHECK(of.out.read<int32_t>() == std::vector<int32_t>{2, 4, 6});
     },
     {}},
};

}  // namespace

TEST_CASE("every rule is documented, and its mistake gives its finding and no other") {
    const std::string documentation = contents(MOE_DOCUMENTATION);
    Findings findings;
    size_t implemented = 0, tested = 0;
    for (const Listed& rule : rules) {
        CAPTURE(rule.name);
        CHECK(contains(documentation, std::string("`") + rule.name + "`"));
        if (rule.finding) CHECK(std::string(moe_aclnn_rule(static_cast<uint32_t>(implemented++))) == rule.name);
        for (const Provocation& provocation : provocations) {
            if (std::string(provocation.rule) != rule.name) continue;
            provocation.program();
            aclGetRecentErrMsg();
            const std::string text = findings.text();
            const Rules found = findings.rules(true);
            CHECK_MESSAGE(found == provocation.findings, text);
            tested += found == provocation.findings ? 1 : 0;
        }
    }
    CHECK(std::size(rules) == 39);
    CHECK(moe_aclnn_rule(static_cast<uint32_t>(implemented)) == nullptr);
    CHECK(tested == std::size(rules));
    std::printf("rules: %zu, %zu of which make findings and %zu are contracts; tested %zu\n", std::size(rules),
                implemented, std::size(rules) - implemented, tested);
}

TEST_CASE("switches: modes, options and the findings file") {
    CHECK(moe_aclnn_set_mode(static_cast<moe_aclnn_mode>(3)) == 161002);
    CHECK(moe_aclnn_set_option(static_cast<moe_aclnn_option>(5), 1) == 161002);
    CHECK(moe_aclnn_set_option(MOE_ACLNN_OPTION_DEFERRED, 2) == 161002);
    CHECK(moe_aclnn_get_option(static_cast<moe_aclnn_option>(5)) == -1);
    CHECK(moe_aclnn_get_option(MOE_ACLNN_OPTION_DEFERRED) == 0);
    CHECK(moe_aclnn_set_soc(nullptr) == 161001);
    CHECK(moe_aclnn_set_soc("Ascend1") == 161002);
    CHECK(moe_aclnn_set_soc("Ascend910_93") == 0);
    CHECK(std::string(aclrtGetSocName()) == "Ascend910_93");
    CHECK(moe_aclnn_set_soc("Ascend910B1") == 0);
    CHECK(moe_aclnn_set_findings_file("/nowhere/findings.json") == 361001);
    const std::filesystem::path file = std::filesystem::temp_directory_path() / "moe_aclnn_findings.json";
    std::filesystem::remove(file);
    Findings findings;
    REQUIRE(moe_aclnn_set_findings_file(file.c_str()) == 0);
    moe_aclnn_clear_findings();
    int on_stack = 0;
    CHECK(aclDestroyTensor(reinterpret_cast<aclTensor*>(&on_stack)) == 0);
    CHECK(moe_aclnn_set_findings_file(nullptr) == 0);
    CHECK(moe_aclnn_count_findings("double-destroy") == 1);
    CHECK(moe_aclnn_count_findings(nullptr) == 1);
    const std::string line = contents(file);
    CHECK(contains(line,
                   "{\"rule\": \"double-destroy\", \"severity\": \"mistake\", \"status\": 0, \"api\": "
                   "\"aclDestroyTensor\", \"argument\": \"tensor\""));
    CHECK(std::count(line.begin(), line.end(), '\n') == 1);
    // Whatever a client names, the lines are ASCII.
    REQUIRE(moe_aclnn_set_findings_file(file.c_str()) == 0);
    CHECK(moe_aclnn_set_soc("a\"\\\n\xC3\xA9\xFF") == 161002);
    CHECK(moe_aclnn_set_findings_file(nullptr) == 0);
    CHECK(contains(contents(file), R"("seen": "a\"\\\u000a\u00c3\u00a9\u00ff", )"));
    std::filesystem::remove(file);
    aclGetRecentErrMsg();
}
