// The list of rules: each is told in the documentation, and expected by name in a test.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "aclnnop/aclnn_moe_compute_expert_tokens.h"
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

}  // namespace

TEST_CASE("every rule is documented and tested") {
    std::string tests;
    for (const auto& entry : std::filesystem::directory_iterator(MOE_TESTS))
        if (entry.path().extension() == ".cc") tests += contents(entry.path());
    const std::string documentation = contents(MOE_DOCUMENTATION);
    size_t findings = 0, tested = 0;
    for (const Listed& rule : rules) {
        CAPTURE(rule.name);
        CHECK(contains(documentation, std::string("`") + rule.name + "`"));
        // Expected findings stand in quotes, proven contracts in the name of their test.
        const bool expected = contains(
            tests, rule.finding ? std::string("\"") + rule.name + "\"" : std::string("TEST_CASE(\"") + rule.name);
        CHECK(expected);
        tested += expected ? 1 : 0;
        if (rule.finding) CHECK(std::string(moe_aclnn_rule(static_cast<uint32_t>(findings++))) == rule.name);
    }
    CHECK(std::size(rules) == 39);
    CHECK(moe_aclnn_rule(static_cast<uint32_t>(findings)) == nullptr);
    std::printf("rules: %zu, of which %zu make findings and %zu are tested\n", std::size(rules), findings, tested);
}

TEST_CASE("plan-cache: executors of equal arguments are apart") {
    Session session;
    const Array<int32_t> in({6}, {0, 0, 1, 1, 2, 2}), out({3}), other({3});
    uint64_t size = 0;
    aclOpExecutor* executors[2] = {};
    for (aclOpExecutor*& executor : executors)
        REQUIRE(aclnnMoeComputeExpertTokensGetWorkspaceSize(in, 3, out, &size, &executor) == 0);
    CHECK(executors[0] != executors[1]);
    CHECK(aclSetAclOpExecutorRepeatable(executors[1]) == 0);
    CHECK(run(session, aclnnMoeComputeExpertTokens, size, executors[0]) == 0);
    CHECK(out.read() == std::vector<int32_t>{2, 4, 6});
    CHECK(aclSetOutputTensorAddr(executors[1], 0, out, other.buffer.data) == 0);
    CHECK(run(session, aclnnMoeComputeExpertTokens, size, executors[1]) == 0);
    CHECK(other.read() == std::vector<int32_t>{2, 4, 6});
    CHECK(aclDestroyAclOpExecutor(executors[1]) == 0);
}

TEST_CASE("workspace-honesty: a workspace is asked for in units of 512 bytes when it has to be") {
    Session session;
    const Array<int32_t> in({6}, {0, 0, 1, 1, 2, 2}), out({3});
    uint64_t size = 1;
    aclOpExecutor* executor = nullptr;
    REQUIRE(aclnnMoeComputeExpertTokensGetWorkspaceSize(in, 3, out, &size, &executor) == 0);
    CHECK(size == 0);
    CHECK(run(session, aclnnMoeComputeExpertTokens, size, executor) == 0);
    const WithOption padded(MOE_ACLNN_OPTION_WORKSPACE), poisoned(MOE_ACLNN_OPTION_POISON);
    REQUIRE(aclnnMoeComputeExpertTokensGetWorkspaceSize(in, 3, out, &size, &executor) == 0);
    CHECK(size > 0);
    CHECK(size % 512 == 0);
    CHECK(run(session, aclnnMoeComputeExpertTokens, size, executor) == 0);
    CHECK(out.read() == std::vector<int32_t>{2, 4, 6});
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
    std::filesystem::remove(file);
    aclGetRecentErrMsg();
}
