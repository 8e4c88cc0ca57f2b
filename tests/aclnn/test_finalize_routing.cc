#include "aclnnop/aclnn_moe_finalize_routing.h"
#include "aclnnop/aclnn_moe_finalize_routing_v2.h"
#include "client.h"
#include "moe_native/finalize.h"

using namespace client;

namespace {

const std::vector<float> rows = {0.1f, 0.2f, 0.3f, 0.4f, 1.1f, 1.2f, 1.3f, 1.4f, 2.1f, 2.2f, 2.3f, 2.4f,
                                 3.1f, 3.2f, 3.3f, 3.4f, 4.1f, 4.2f, 4.3f, 4.4f, 5.1f, 5.2f, 5.3f, 5.4f};
const std::vector<float> skip = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

struct Case {
    Array<float> x{{6, 4}, rows}, x1{{3, 4}, skip}, x2{{3, 4}, skip};
    Array<float> bias{{2, 4}, {0.5f, 1, 1.5f, 2, 2.5f, 3, 3.5f, 4}};
    Array<float> scales{{3, 2}, {0.25f, 0.75f, 0.5f, 0.125f, 2, 3}};
    Array<int32_t> row_idx{{6}, {2, 1, 4, 3, 0, 5}}, expert_idx{{3, 2}, {0, 1, 1, 0, 0, 1}};
    Array<float> out{{3, 4}, -1.0f};

    aclnnStatus plan(uint64_t* size, aclOpExecutor** executor, int64_t mode = 0) {
        return aclnnMoeFinalizeRoutingV2GetWorkspaceSize(x, row_idx, x1, x2, bias, scales, expert_idx, mode, out, size,
                                                         executor);
    }
};

// The same through the core.
std::vector<float> expected(std::vector<int32_t> index) {
    std::vector<float> bias = {0.5f, 1, 1.5f, 2, 2.5f, 3, 3.5f, 4}, scales = {0.25f, 0.75f, 0.5f, 0.125f, 2, 3};
    std::vector<int32_t> experts = {0, 1, 1, 0, 0, 1};
    std::vector<float> x = rows, x1 = skip, out(12, -1.0f);
    const int64_t x_shape[] = {6, 4}, token_shape[] = {3, 4}, bias_shape[] = {2, 4}, k_shape[] = {3, 2}, flat[] = {6};
    moe_tensor tensors[] = {moe_tensor_make(x.data(), MOE_FLOAT32, 2, x_shape),
                            moe_tensor_make(x1.data(), MOE_FLOAT32, 2, token_shape),
                            moe_tensor_make(bias.data(), MOE_FLOAT32, 2, bias_shape),
                            moe_tensor_make(scales.data(), MOE_FLOAT32, 2, k_shape),
                            moe_tensor_make(index.data(), MOE_INT32, 1, flat),
                            moe_tensor_make(experts.data(), MOE_INT32, 2, k_shape),
                            moe_tensor_make(out.data(), MOE_FLOAT32, 2, token_shape)};
    const moe_finalize_routing_args args = {&tensors[0], &tensors[1], &tensors[1], &tensors[2], &tensors[3],
                                            &tensors[4], &tensors[5], 0,           1,           &tensors[6]};
    moe_plan plan;
    REQUIRE(moe_finalize_routing_plan(&args, &plan) == MOE_OK);
    std::vector<char> workspace(plan.workspace_size);
    const moe_run_options options = {MOE_DATA_SKIP, MOE_UNDEFINED_KEEP, nullptr};
    REQUIRE(moe_finalize_routing_run(&args, &plan, workspace.data(), workspace.size(), &options) == MOE_OK);
    return out;
}

}  // namespace

TEST_CASE("both versions give the bits of the core, silently, in every mode") {
    Findings findings;
    for (const moe_aclnn_mode mode : {MOE_ACLNN_COMPAT, MOE_ACLNN_REAL, MOE_ACLNN_STRICT}) {
        const InMode in_mode(mode);
        {
            Session session;
            Case of;
            uint64_t size = 77;
            aclOpExecutor* executor = nullptr;
            REQUIRE(of.plan(&size, &executor) == 0);
            CHECK(size % 512 == 0);
            CHECK(run(session, aclnnMoeFinalizeRoutingV2, size, executor) == 0);
            CHECK(of.out.read() == expected({2, 1, 4, 3, 0, 5}));
            REQUIRE(aclnnMoeFinalizeRoutingGetWorkspaceSize(of.x, of.x1, of.x2, of.bias, of.scales, of.row_idx,
                                                            of.expert_idx, of.out, &size, &executor) == 0);
            CHECK(run(session, aclnnMoeFinalizeRouting, size, executor) == 0);
            CHECK(of.out.read() == expected({2, 1, 4, 3, 0, 5}));
        }
        CHECK_MESSAGE(findings.rules(true).empty(), findings.text());
    }
}

TEST_CASE("null, dtype and shape errors have the codes of an individual operator") {
    Findings findings;
    {
        Session session;
        Case of;
        uint64_t size = 77;
        aclOpExecutor* const untouched = reinterpret_cast<aclOpExecutor*>(0x1234);
        aclOpExecutor* executor = untouched;
        CHECK(aclnnMoeFinalizeRoutingV2GetWorkspaceSize(nullptr, of.row_idx, nullptr, nullptr, nullptr, nullptr,
                                                        nullptr, 0, of.out, &size, &executor) == 161001);
        const std::string message = error_text();
        CHECK_MESSAGE(contains(message, "expandedX: null"), message);
        CHECK(contains(message, "EZ1001"));
        CHECK(error_text() == "");
        CHECK(of.plan(nullptr, &executor) == 161001);
        CHECK(of.plan(&size, nullptr) == 161001);
        CHECK(of.plan(&size, &executor, 4) == 561002);
        CHECK(contains(error_text(), "dropPadMode: 4, needed 0 to 3"));
        CHECK(aclnnMoeFinalizeRoutingV2GetWorkspaceSize(of.x, of.scales, nullptr, nullptr, nullptr, nullptr, nullptr, 0,
                                                        of.out, &size, &executor) == 161002);
        CHECK(executor == untouched);
        CHECK(size == 77);
    }
    CHECK(findings.rules() == Rules{});
}

TEST_CASE("indices out of range: skipped, faulted or refused") {
    Findings findings;
    for (const moe_aclnn_mode mode : {MOE_ACLNN_COMPAT, MOE_ACLNN_REAL, MOE_ACLNN_STRICT}) {
        const InMode in_mode(mode);
        Session session;
        Case of;
        Array<int32_t> bad({6}, {2, 1, 4, 6, 0, -1});
        uint64_t size;
        aclOpExecutor* executor;
        REQUIRE(aclnnMoeFinalizeRoutingV2GetWorkspaceSize(of.x, bad, of.x1, of.x2, of.bias, of.scales, of.expert_idx, 0,
                                                          of.out, &size, &executor) == 0);
        const Buffer workspace(size);
        const aclnnStatus status =
            aclnnMoeFinalizeRoutingV2(size == 0 ? nullptr : workspace.data, size, executor, session.stream);
        CHECK(status == (mode == MOE_ACLNN_STRICT ? 161002 : 0));
        CHECK(session.synchronise() == (mode == MOE_ACLNN_REAL ? 507015 : 0));
        CHECK(findings.rules(true) == Rules{"data-range"});
        CHECK(of.out.read() == (mode == MOE_ACLNN_COMPAT ? expected({2, 1, 4, 6, 0, -1}) : std::vector<float>(12, -1)));
        if (mode != MOE_ACLNN_COMPAT) CHECK(contains(error_text(), "expandedRowIdx"));
    }
}
