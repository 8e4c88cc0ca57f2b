#include "aclnnop/aclnn_moe_init_routing_v2.h"
#include "aclnnop/aclnn_moe_init_routing_v3.h"
#include "client.h"
#include "moe_native/init_routing.h"

using namespace client;

namespace {

// x (3, 4), two experts a token.
const std::vector<float> values = {0.1f, 0.2f, 0.3f, 0.4f, 1.1f, 1.2f, 1.3f, 1.4f, 2.1f, 2.2f, 2.3f, 2.4f};
const std::vector<int32_t> ids = {1, 2, 0, 1, 0, 2};

std::vector<float> rows(const std::vector<int>& tokens) {
    std::vector<float> out;
    for (const int token : tokens)
        for (int column = 0; column < 4; ++column)
            out.push_back(token < 0 ? 0.0f : values[static_cast<size_t>(token * 4 + column)]);
    return out;
}

struct V2 {
    Array<float> x{{3, 4}, values};
    Array<int32_t> idx{{3, 2}, ids}, row_idx{{6}, -9}, counts{{3}, -9}, before{{3}, -9};
    int64_t active = 0, capacity = 0, experts = 3, mode = 0, flag = 0;
    bool before_flag = false;

    aclnnStatus plan(aclTensor* out, aclTensor* count_out, aclTensor* before_out, uint64_t* size,
                     aclOpExecutor** executor) {
        return aclnnMoeInitRoutingV2GetWorkspaceSize(x, idx, active, capacity, experts, mode, flag, before_flag, out,
                                                     row_idx, count_out, before_out, size, executor);
    }
};

struct V3 {
    explicit V3(const std::vector<int64_t>& of = {0, 3}) : range(aclCreateIntArray(of.data(), of.size())) {}
    ~V3() { aclDestroyIntArray(range); }
    V3(const V3&) = delete;
    V3& operator=(const V3&) = delete;

    Array<float> x{{3, 4}, values};
    Array<int32_t> idx{{3, 2}, ids}, row_idx{{6}, -9};
    Array<float> scale{{3}, {2, 3, 4}}, out_scale{{6}, -1.0f};
    Array<int64_t> counts{{3}, -9};
    aclIntArray* range;
    int64_t quant = -1, type = 1;

    aclnnStatus plan(aclTensor* out, uint64_t* size, aclOpExecutor** executor) {
        return aclnnMoeInitRoutingV3GetWorkspaceSize(x, idx, scale, nullptr, 6, 0, 3, 0, type, true, quant, range, 0,
                                                     out, row_idx, counts, out_scale, size, executor);
    }
};

}  // namespace

TEST_CASE("V2 without padding: rows, positions, counts and ends as int32") {
    Findings findings;
    for (const moe_aclnn_mode mode : {MOE_ACLNN_COMPAT, MOE_ACLNN_REAL, MOE_ACLNN_STRICT}) {
        const InMode in_mode(mode);
        Session session;
        for (const int64_t flag : {0, 1, 2}) {
            V2 of;
            of.flag = flag;
            Array<float> out({6, 4}, -1.0f);
            uint64_t size = 0;
            aclOpExecutor* executor = nullptr;
            REQUIRE(of.plan(out, flag == 0 ? nullptr : of.counts.handle, nullptr, &size, &executor) == 0);
            CHECK(run(session, aclnnMoeInitRoutingV2, size, executor) == 0);
            CHECK(out.read() == rows({1, 2, 0, 1, 0, 2}));
            CHECK(of.row_idx.read() == std::vector<int32_t>{2, 4, 0, 3, 1, 5});
            CHECK(of.counts.read() == (flag == 0   ? std::vector<int32_t>(3, -9)
                                       : flag == 1 ? std::vector<int32_t>{2, 4, 6}
                                                   : std::vector<int32_t>{2, 2, 2}));
        }
        V2 of;
        of.active = 4;
        of.experts = 0;
        Array<float> out({4, 4});
        uint64_t size = 0;
        aclOpExecutor* executor = nullptr;
        REQUIRE(of.plan(out, nullptr, nullptr, &size, &executor) == 0);
        CHECK(run(session, aclnnMoeInitRoutingV2, size, executor) == 0);
        CHECK(out.read() == rows({1, 2, 0, 1}));
    }
    CHECK(findings.rules(true) == Rules{});
}

TEST_CASE("V2 with padding: slots, dropped rows, counts before the capacity") {
    Findings findings;
    {
        Session session;
        V2 of;
        of.mode = 1;
        of.capacity = 1;
        of.before_flag = true;
        Array<float> out({3, 1, 4}, -1.0f);
        uint64_t size = 0;
        aclOpExecutor* executor = nullptr;
        REQUIRE(of.plan(out, nullptr, of.before, &size, &executor) == 0);
        CHECK(run(session, aclnnMoeInitRoutingV2, size, executor) == 0);
        CHECK(out.read() == rows({1, 0, 0}));
        CHECK(of.row_idx.read() == std::vector<int32_t>{1, 2, 0, -1, -1, -1});
        CHECK(of.before.read() == std::vector<int32_t>{2, 2, 2});
    }
    CHECK(findings.rules(true) == Rules{});
}

TEST_CASE("V2: ids that are no expert's are bad data") {
    Findings findings;
    for (const moe_aclnn_mode mode : {MOE_ACLNN_COMPAT, MOE_ACLNN_REAL, MOE_ACLNN_STRICT}) {
        const InMode in_mode(mode);
        Session session;
        V2 of;
        of.flag = 2;
        const Array<int32_t> wrong({3, 2}, {1, 2, 0, 5, -1, 2});
        Array<float> out({6, 4}, -1.0f);
        uint64_t size = 0;
        aclOpExecutor* executor = nullptr;
        REQUIRE(aclnnMoeInitRoutingV2GetWorkspaceSize(of.x, wrong, 0, 0, 3, 0, 2, false, out, of.row_idx, of.counts,
                                                      nullptr, &size, &executor) == 0);
        CHECK(run(session, aclnnMoeInitRoutingV2, size, executor) == (mode == MOE_ACLNN_COMPAT ? 0
                                                                      : mode == MOE_ACLNN_REAL ? 507015
                                                                                               : 161002));
        CHECK(contains(findings.text(), "expertIdx: 5 at position 3"));
        CHECK(findings.rules(true) == Rules{"data-range"});
        if (mode == MOE_ACLNN_COMPAT) {
            CHECK(of.counts.read() == std::vector<int32_t>{1, 1, 2});
            CHECK(of.row_idx.read() == std::vector<int32_t>{1, 2, 0, -1, -1, 3});
        } else {
            CHECK(contains(error_text(), "needed 0 to 2"));
            CHECK(of.counts.read() == std::vector<int32_t>(3, -9));
            CHECK(of.row_idx.read() == std::vector<int32_t>(6, -9));
            CHECK(out.read() == std::vector<float>(24, -1.0f));
        }
        // Without counts nobody asks for the number of experts.
        const Array<int32_t> any({3, 2}, {1, 2, 0, 5, 9, 2});
        REQUIRE(aclnnMoeInitRoutingV2GetWorkspaceSize(of.x, any, 0, 0, 3, 0, 0, false, out, of.row_idx, nullptr,
                                                      nullptr, &size, &executor) == 0);
        CHECK(run(session, aclnnMoeInitRoutingV2, size, executor) == 0);
        CHECK(of.row_idx.read() == std::vector<int32_t>{1, 2, 0, 4, 5, 3});
        CHECK(findings.rules(true) == Rules{});
    }
}

TEST_CASE("V2: what is refused") {
    Session session;
    V2 of;
    const Array<float> out({6, 4}), wrong({5, 4});
    const Array<int64_t> long_ids({3, 2});
    const Array<int32_t> whole({3, 4});
    uint64_t size = 0;
    aclOpExecutor* executor = nullptr;
    const auto plan = [&](aclTensor* counts = nullptr, aclTensor* before = nullptr) {
        return of.plan(out, counts, before, &size, &executor);
    };
    CHECK(of.plan(nullptr, nullptr, nullptr, &size, &executor) == 161001);
    CHECK(of.plan(wrong, nullptr, nullptr, &size, &executor) == 561002);
    CHECK(aclnnMoeInitRoutingV2GetWorkspaceSize(of.x, long_ids, 0, 0, 3, 0, 0, false, out, of.row_idx, nullptr, nullptr,
                                                &size, &executor) == 161002);
    CHECK(aclnnMoeInitRoutingV2GetWorkspaceSize(whole, of.idx, 0, 0, 3, 0, 0, false, whole, of.row_idx, nullptr,
                                                nullptr, &size, &executor) == 161002);
    const auto with = [&](int64_t V2::*field, int64_t value) {
        const int64_t before = of.*field;
        of.*field = value;
        const aclnnStatus status = plan();
        of.*field = before;
        return status;
    };
    CHECK(with(&V2::active, -1) == 561002);
    CHECK(with(&V2::capacity, -1) == 561002);
    CHECK(with(&V2::experts, -1) == 561002);
    CHECK(with(&V2::mode, 2) == 561002);
    CHECK(with(&V2::mode, 1) == 561002);  // no capacity
    CHECK(with(&V2::flag, 3) == 561002);
    CHECK(with(&V2::flag, 1) == 561002);  // no output
    CHECK(contains(error_text(), "expertTokensCountOrCumsumOut"));
    of.flag = 1;
    const Array<int64_t> long_counts({3});
    CHECK(plan(long_counts) == 561002);
    of.experts = 0;
    CHECK(plan(of.counts) == 561002);
    aclGetRecentErrMsg();
}

TEST_CASE("V3: copies with their scale, counts as int64, silence in every mode") {
    Findings findings;
    for (const moe_aclnn_mode mode : {MOE_ACLNN_COMPAT, MOE_ACLNN_REAL, MOE_ACLNN_STRICT}) {
        const InMode in_mode(mode);
        Session session;
        V3 of;
        Array<float> out({6, 4}, -1.0f);
        uint64_t size = 0;
        aclOpExecutor* executor = nullptr;
        REQUIRE(of.plan(out, &size, &executor) == 0);
        CHECK(run(session, aclnnMoeInitRoutingV3, size, executor) == 0);
        CHECK(out.read() == rows({1, 2, 0, 1, 0, 2}));
        CHECK(of.row_idx.read() == std::vector<int32_t>{2, 4, 0, 3, 1, 5});
        CHECK(of.counts.read() == std::vector<int64_t>{2, 2, 2});
        CHECK(of.out_scale.read() == std::vector<float>{3, 4, 2, 3, 2, 4});
    }
    CHECK(findings.rules(true) == Rules{});
}

TEST_CASE("V3: dynamic quantisation gives the bits of the core") {
    Findings findings;
    Session session;
    Array<float> x({3, 4}, values);
    Array<int32_t> idx({3, 2}, ids), row_idx({6});
    Array<int8_t> out({6, 4}, int8_t{-9});
    Array<float> out_scale({6});
    Array<int64_t> counts({3});
    const int64_t range[] = {0, 3};
    aclIntArray* experts = aclCreateIntArray(range, 2);
    uint64_t size = 0;
    aclOpExecutor* executor = nullptr;
    REQUIRE(aclnnMoeInitRoutingV3GetWorkspaceSize(x, idx, nullptr, nullptr, -1, 0, 3, 0, 1, true, 1, experts, 0, out,
                                                  row_idx, counts, out_scale, &size, &executor) == 0);
    // The executor has the numbers of the array.
    CHECK(aclDestroyIntArray(experts) == 0);
    CHECK(run(session, aclnnMoeInitRoutingV3, size, executor) == 0);
    std::vector<float> source = values, scale(6);
    std::vector<int32_t> routes = ids, positions(6);
    std::vector<int8_t> codes(24);
    std::vector<int64_t> tokens(3);
    const int64_t x_shape[] = {3, 4}, id_shape[] = {3, 2}, out_shape[] = {6, 4}, six[] = {6}, three[] = {3};
    moe_tensor tensors[] = {
        moe_tensor_make(source.data(), MOE_FLOAT32, 2, x_shape), moe_tensor_make(routes.data(), MOE_INT32, 2, id_shape),
        moe_tensor_make(codes.data(), MOE_INT8, 2, out_shape),   moe_tensor_make(positions.data(), MOE_INT32, 1, six),
        moe_tensor_make(tokens.data(), MOE_INT64, 1, three),     moe_tensor_make(scale.data(), MOE_FLOAT32, 1, six)};
    moe_init_routing_v2_args args = {};
    args.x = &tensors[0];
    args.expert_idx = &tensors[1];
    args.expert_num = 3;
    args.active_num = -1;
    args.expert_tokens_num_type = 1;
    args.expert_tokens_num_flag = true;
    args.quant_mode = 1;
    args.expanded_x = &tensors[2];
    args.expanded_row_idx = &tensors[3];
    args.expert_token_cumsum_or_count = &tensors[4];
    args.expanded_scale = &tensors[5];
    moe_plan plan;
    REQUIRE(moe_init_routing_v2_plan(&args, &plan) == MOE_OK);
    std::vector<char> workspace(plan.workspace_size);
    REQUIRE(moe_init_routing_v2_run(&args, &plan, workspace.data(), workspace.size(), nullptr) == MOE_OK);
    CHECK(out.read() == codes);
    CHECK(out_scale.read() == scale);
    CHECK(counts.read() == tokens);
    CHECK(row_idx.read() == positions);
    CHECK(findings.rules(true) == Rules{});
}

TEST_CASE("V3: int8 rows without quantisation are clamped to the buffer in compat, and refused elsewhere") {
    Findings findings;
    for (const moe_aclnn_mode mode : {MOE_ACLNN_COMPAT, MOE_ACLNN_REAL, MOE_ACLNN_STRICT}) {
        const InMode in_mode(mode);
        Session session;
        V3 of;
        // 24 bytes, 56 with padding, for 96.
        Array<int8_t> out({6, 4}, int8_t{-1});
        uint64_t size = 0;
        aclOpExecutor* executor = nullptr;
        CHECK(of.plan(out, &size, &executor) == (mode == MOE_ACLNN_COMPAT ? 0 : 161002));
        if (mode != MOE_ACLNN_COMPAT) continue;
        CHECK(findings.rules(true) == Rules{"output-mismatch"});
        CHECK(run(session, aclnnMoeInitRoutingV3, size, executor) == 0);
        CHECK(findings.rules(true) == Rules{"tensor-extent"});
        std::vector<float> first(6);
        REQUIRE(aclrtMemcpy(first.data(), 24, out.buffer.data, 24, ACL_MEMCPY_DEVICE_TO_HOST) == 0);
        const std::vector<float> all = rows({1, 2, 0, 1, 0, 2});
        CHECK(first == std::vector<float>(all.begin(), all.begin() + 6));
    }
    aclGetRecentErrMsg();
}

TEST_CASE("V3: what is refused") {
    Session session;
    V3 of;
    Array<float> out({6, 4});
    uint64_t size = 0;
    aclOpExecutor* executor = nullptr;
    CHECK(of.plan(nullptr, &size, &executor) == 161001);
    const Array<int32_t> narrow({3});
    CHECK(aclnnMoeInitRoutingV3GetWorkspaceSize(of.x, of.idx, nullptr, nullptr, 6, 0, 3, 0, 1, true, -1, of.range, 0,
                                                out, of.row_idx, narrow, of.out_scale, &size, &executor) == 161002);
    CHECK(aclnnMoeInitRoutingV3GetWorkspaceSize(of.x, of.idx, nullptr, nullptr, 6, 0, 3, 0, 1, true, -1, nullptr, 0,
                                                out, of.row_idx, of.counts, of.out_scale, &size, &executor) == 161001);
    CHECK(contains(error_text(), "null-crash"));
    of.quant = 2;
    CHECK(of.plan(out, &size, &executor) == 561002);
    CHECK(contains(error_text(), "quantMode: 2 is not supported yet"));
    of.quant = -1;
    of.type = 3;
    CHECK(of.plan(out, &size, &executor) == 561002);
    V3 backwards({2, 1});
    CHECK(backwards.plan(out, &size, &executor) == 561002);
    CHECK(contains(error_text(), "activeExpertRange"));
    aclGetRecentErrMsg();
}
