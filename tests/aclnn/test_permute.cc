#include "aclnnop/aclnn_moe_token_permute_with_routing_map.h"
#include "aclnnop/aclnn_moe_token_unpermute_with_routing_map.h"
#include "client.h"

using namespace client;

namespace {

// Three tokens, four experts, two of them each.
const std::vector<float> tokens = {1, 2, 3, 4, 5, 6};
const std::vector<int8_t> map = {1, 0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1};
const std::vector<float> probs = {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f, 0.7f, 0.8f, 0.9f, 1.0f, 1.1f, 1.2f};
const std::vector<float> permuted = {1, 2, 5, 6, 3, 4, 1, 2, 3, 4, 5, 6};
const std::vector<int32_t> indices = {0, 3, 2, 4, 1, 5};

struct Permute {
    Array<float> in{{3, 2}, tokens}, weight{{3, 4}, probs}, out{{6, 2}, -1.0f}, out_probs{{6}, -1.0f};
    Array<int8_t> routing{{3, 4}, map};
    Array<int32_t> sorted{{6}, -1};

    aclnnStatus plan(uint64_t* size, aclOpExecutor** executor, int64_t count = 6) {
        return aclnnMoeTokenPermuteWithRoutingMapGetWorkspaceSize(in, routing, weight, count, false, out, out_probs,
                                                                  sorted, size, executor);
    }
};

struct Unpermute {
    explicit Unpermute(bool pads) : padded(pads) {}

    Array<float> in{{6, 2}, permuted}, weight{{3, 4}, probs}, out{{3, 2}, -1.0f}, out_probs{{6}, -1.0f};
    Array<int8_t> routing{{3, 4}, map};
    Array<int32_t> sorted{{6}, indices}, index{{6}, -1}, ids{{6}, -1};
    bool padded;

    aclnnStatus plan(aclTensor* by, const aclIntArray* shape, uint64_t* size, aclOpExecutor** executor) {
        return aclnnMoeTokenUnpermuteWithRoutingMapGetWorkspaceSize(in, sorted, routing, by, padded, shape, out, index,
                                                                    ids, out_probs, size, executor);
    }
};

}  // namespace

TEST_CASE("permute: tokens, probabilities and indices, silently, in every mode") {
    Findings findings;
    for (const moe_aclnn_mode mode : {MOE_ACLNN_COMPAT, MOE_ACLNN_REAL, MOE_ACLNN_STRICT}) {
        const InMode in_mode(mode);
        Session session;
        Permute of;
        uint64_t size = 0;
        aclOpExecutor* executor = nullptr;
        REQUIRE(of.plan(&size, &executor) == 0);
        CHECK(run(session, aclnnMoeTokenPermuteWithRoutingMap, size, executor) == 0);
        CHECK(of.out.read() == permuted);
        CHECK(of.out_probs.read() == std::vector<float>{0.1f, 0.9f, 0.6f, 0.3f, 0.7f, 1.2f});
        CHECK(of.sorted.read() == indices);
    }
    CHECK(findings.rules(true) == Rules{});
}

TEST_CASE("permute: a ragged map is best effort, or refused in strict") {
    Findings findings;
    for (const moe_aclnn_mode mode : {MOE_ACLNN_COMPAT, MOE_ACLNN_REAL, MOE_ACLNN_STRICT}) {
        const InMode in_mode(mode);
        Session session;
        Permute of;
        const std::vector<int8_t> ragged = {1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0};
        REQUIRE(aclrtMemcpy(of.routing.buffer.data, 12, ragged.data(), 12, ACL_MEMCPY_HOST_TO_DEVICE) == 0);
        uint64_t size = 0;
        aclOpExecutor* executor = nullptr;
        REQUIRE(of.plan(&size, &executor) == 0);
        CHECK(run(session, aclnnMoeTokenPermuteWithRoutingMap, size, executor) ==
              (mode == MOE_ACLNN_STRICT ? 161002 : 0));
        CHECK(findings.rules(true) == Rules{"data-range"});
        if (mode == MOE_ACLNN_STRICT)
            CHECK(of.sorted.read() == std::vector<int32_t>(6, -1));
        else
            CHECK(of.out.read() == std::vector<float>{1, 2, 1, 2, 3, 4, 1, 2, 0, 0, 0, 0});
    }
    aclGetRecentErrMsg();
}

TEST_CASE("permute: what is refused, and what is empty") {
    Session session;
    Permute of;
    uint64_t size = 0;
    aclOpExecutor* executor = nullptr;
    const auto plan = [&](aclTensor* in, aclTensor* routing, aclTensor* weight, aclTensor* out, aclTensor* out_probs) {
        return aclnnMoeTokenPermuteWithRoutingMapGetWorkspaceSize(in, routing, weight, 6, false, out, out_probs,
                                                                  of.sorted, &size, &executor);
    };
    CHECK(plan(nullptr, of.routing, of.weight, of.out, of.out_probs) == 161001);
    CHECK(plan(of.in, of.routing, of.weight, of.out, nullptr) == 161001);
    CHECK(plan(of.in, of.routing, nullptr, of.out, of.out_probs) == 161001);
    CHECK(contains(error_text(), "null-crash"));
    CHECK(plan(of.sorted, of.routing, nullptr, of.out, nullptr) == 161002);
    CHECK(plan(of.in, of.in, nullptr, of.out, nullptr) == 161002);
    CHECK(of.plan(&size, &executor, 13) == 161002);
    CHECK(contains(error_text(), "numOutTokens: 13"));
    CHECK(of.plan(&size, &executor, 3) == 161002);  // rows of the output
    const Array<float> wide({6, 3});
    CHECK(plan(of.in, of.routing, nullptr, wide, nullptr) == 561002);
    const Array<float> nothing({0, 7});
    REQUIRE(aclnnMoeTokenPermuteWithRoutingMapGetWorkspaceSize(of.in, of.routing, nullptr, 0, false, nothing, nullptr,
                                                               of.sorted, &size, &executor) == 0);
    CHECK(run(session, aclnnMoeTokenPermuteWithRoutingMap, size, executor) == 0);
    aclGetRecentErrMsg();
}

TEST_CASE("unpermute: dropless and padded, silently, in every mode") {
    Findings findings;
    for (const moe_aclnn_mode mode : {MOE_ACLNN_COMPAT, MOE_ACLNN_REAL, MOE_ACLNN_STRICT}) {
        const InMode in_mode(mode);
        Session session;
        uint64_t size = 0;
        aclOpExecutor* executor = nullptr;
        Unpermute dropless(false);
        const int64_t shape[] = {3, 2};
        aclIntArray* restore = aclCreateIntArray(shape, 2);
        REQUIRE(dropless.plan(nullptr, restore, &size, &executor) == 0);
        CHECK(run(session, aclnnMoeTokenUnpermuteWithRoutingMap, size, executor) == 0);
        CHECK(dropless.out.read() == std::vector<float>{2, 4, 6, 8, 10, 12});
        CHECK(dropless.index.read() == std::vector<int32_t>(6, -1));
        CHECK(dropless.out_probs.read() == std::vector<float>(6, -1.0f));
        // With probabilities the shape is theirs, whatever the array says.
        REQUIRE(dropless.plan(dropless.weight, nullptr, &size, &executor) == 0);
        CHECK(run(session, aclnnMoeTokenUnpermuteWithRoutingMap, size, executor) == 0);
        CHECK(dropless.out_probs.read() == std::vector<float>{0.1f, 0.3f, 0.6f, 0.7f, 0.9f, 1.2f});
        Array<float> ones({2, 2}, 1.0f), out({2, 2}, -1.0f), out_probs({2});
        Array<int32_t> sorted({2}, {1, 1}), index({2}), ids({2});
        Array<int8_t> routing({2, 2});
        REQUIRE(aclnnMoeTokenUnpermuteWithRoutingMapGetWorkspaceSize(ones, sorted, routing, ones, true, restore, out,
                                                                     index, ids, out_probs, &size, &executor) == 0);
        CHECK(run(session, aclnnMoeTokenUnpermuteWithRoutingMap, size, executor) == 0);
        CHECK(out.read() == std::vector<float>{0, 0, 2, 2});
        CHECK(index.read() == std::vector<int32_t>{0, 1});
        CHECK(ids.read() == std::vector<int32_t>{1, 1});
        CHECK(aclDestroyIntArray(restore) == 0);
    }
    CHECK(findings.rules(true) == Rules{});
}

TEST_CASE("unpermute: what is refused, and indices out of range") {
    Findings findings;
    for (const moe_aclnn_mode mode : {MOE_ACLNN_COMPAT, MOE_ACLNN_REAL, MOE_ACLNN_STRICT}) {
        const InMode in_mode(mode);
        Session session;
        uint64_t size = 0;
        aclOpExecutor* executor = nullptr;
        Unpermute of(false);
        CHECK(of.plan(nullptr, nullptr, &size, &executor) == 161001);
        const int64_t one[] = {3};
        aclIntArray* restore = aclCreateIntArray(one, 1);
        CHECK(of.plan(nullptr, restore, &size, &executor) == 561002);
        CHECK(aclDestroyIntArray(restore) == 0);
        Unpermute padded(true);
        CHECK(aclnnMoeTokenUnpermuteWithRoutingMapGetWorkspaceSize(
                  padded.in, padded.sorted, padded.routing, padded.weight, true, nullptr, padded.out, nullptr,
                  padded.ids, padded.out_probs, &size, &executor) == 161001);
        CHECK(of.plan(of.sorted, nullptr, &size, &executor) == 161002);
        const Array<float> flat({12}, 0.5f);
        findings.rules();
        CHECK(of.plan(flat, nullptr, &size, &executor) == (mode == MOE_ACLNN_REAL ? 0 : 561002));
        if (mode == MOE_ACLNN_REAL)
            CHECK(aclnnMoeTokenUnpermuteWithRoutingMap(nullptr, 0, executor, session.stream) == 561000);
        const int32_t beyond = 6;
        REQUIRE(aclrtMemcpy(of.sorted.buffer.data, 4, &beyond, 4, ACL_MEMCPY_HOST_TO_DEVICE) == 0);
        REQUIRE(of.plan(of.weight, nullptr, &size, &executor) == 0);
        findings.rules();
        const aclnnStatus status = run(session, aclnnMoeTokenUnpermuteWithRoutingMap, size, executor);
        CHECK(status == (mode == MOE_ACLNN_COMPAT ? 0 : mode == MOE_ACLNN_REAL ? 507015 : 161002));
        CHECK(findings.rules(true) == Rules{"data-range"});
        aclGetRecentErrMsg();
    }
}
