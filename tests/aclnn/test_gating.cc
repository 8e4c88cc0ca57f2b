#include "aclnnop/aclnn_moe_compute_expert_tokens.h"
#include "aclnnop/aclnn_moe_gating_top_k.h"
#include "aclnnop/aclnn_moe_gating_top_k_softmax.h"
#include "aclnnop/aclnn_moe_gating_top_k_softmax_v2.h"
#include "moe_native/gating.h"
#include "operands.h"

using namespace client;

namespace {

constexpr aclDataType floats[] = {ACL_FLOAT, ACL_FLOAT16, ACL_BF16};

// Outputs of these operators are dense: individual ones write so.
constexpr Layout input_layouts[] = {Layout::dense, Layout::strided, Layout::flat};

Data flags(const Shape& shape) {
    Data data = Data::blank(shape, ACL_BOOL);
    for (size_t i = 0; i < data.bytes.size(); ++i) data.bytes[i] = i % 3 == 1;
    return data;
}

struct Softmax {
    Data x, finished, y, ids, third;
    int64_t k = 3;

    Softmax(const Shape& rows, aclDataType dtype, bool with_rows) {
        const auto with = [&](int64_t last) {
            Shape shape = rows;
            shape.push_back(last);
            return shape;
        };
        x = Data::random(with(8), dtype, 1);
        finished = flags(rows);
        y = Data::blank(with(k), dtype);
        ids = Data::blank(with(k), ACL_INT32);
        third = with_rows ? Data::blank(with(k), ACL_INT32) : Data::blank(with(8), ACL_FLOAT);
    }
};

}  // namespace

TEST_CASE("top-k softmax gives the bits of the core, silently, in every mode and layout") {
    Findings findings;
    for (const moe_aclnn_mode mode : every_mode)
        for (const Layout layout : input_layouts)
            for (const aclDataType dtype : floats)
                for (const Shape& rows : {Shape{5}, Shape{2, 3}}) {
                    const InMode in_mode(mode);
                    Session session;
                    Softmax of(rows, dtype, true);
                    const OnDevice x(of.x, layout), finished(of.finished, layout);
                    OnDevice y(of.y), ids(of.ids), row_idx(of.third);
                    CHECK(run(
                              session,
                              [&](uint64_t* size, aclOpExecutor** executor) {
                                  return aclnnMoeGatingTopKSoftmaxGetWorkspaceSize(x, finished, of.k, y, ids, row_idx,
                                                                                   size, executor);
                              },
                              aclnnMoeGatingTopKSoftmax) == 0);
                    moe_tensor t_x = of.x.core(), t_finished = of.finished.core(), t_y = of.y.core(),
                               t_ids = of.ids.core(), t_rows = of.third.core();
                    const moe_gating_top_k_softmax_args args = {&t_x, &t_finished, of.k, &t_y, &t_ids, &t_rows};
                    REQUIRE(MOE_RUN_CORE(moe_gating_top_k_softmax, args) == 0);
                    CHECK(y.read() == of.y.bytes);
                    CHECK(ids.read() == of.ids.bytes);
                    CHECK(row_idx.read() == of.third.bytes);
                }
    CHECK_MESSAGE(findings.rules(true).empty(), findings.text());
}

TEST_CASE("its second version: both orders, with and without the softmax") {
    Findings findings;
    for (const moe_aclnn_mode mode : every_mode)
        for (const aclDataType dtype : floats)
            for (const int64_t renorm : {0, 1})
                for (const bool flag : {false, true}) {
                    const InMode in_mode(mode);
                    Session session;
                    Softmax of({5}, dtype, false);
                    const OnDevice x(of.x, Layout::strided);
                    OnDevice y(of.y), ids(of.ids), softmax(of.third);
                    const bool writes = flag && renorm == 0;
                    CHECK(run(
                              session,
                              [&](uint64_t* size, aclOpExecutor** executor) {
                                  return aclnnMoeGatingTopKSoftmaxV2GetWorkspaceSize(
                                      x, nullptr, of.k, renorm, flag, y, ids, writes ? softmax.handle : nullptr, size,
                                      executor);
                              },
                              aclnnMoeGatingTopKSoftmaxV2) == 0);
                    moe_tensor t_x = of.x.core(), t_y = of.y.core(), t_ids = of.ids.core(), t_softmax = of.third.core();
                    const moe_gating_top_k_softmax_v2_args args = {
                        &t_x, nullptr, of.k, renorm, flag, &t_y, &t_ids, writes ? &t_softmax : nullptr};
                    REQUIRE(MOE_RUN_CORE(moe_gating_top_k_softmax_v2, args) == 0);
                    CHECK(y.read() == of.y.bytes);
                    CHECK(ids.read() == of.ids.bytes);
                    CHECK(softmax.read() == of.third.bytes);
                }
    CHECK_MESSAGE(findings.rules(true).empty(), findings.text());
}

namespace {

struct Grouped {
    Data x, bias, y, ids, norm;
    explicit Grouped(aclDataType dtype)
        : x(Data::random({5, 16}, dtype, 1)),
          bias(Data::random({16}, dtype, 2)),
          y(Data::blank({5, 3}, dtype)),
          ids(Data::blank({5, 3}, ACL_INT32)),
          norm(Data::blank({5, 16}, ACL_FLOAT)) {}
};

}  // namespace

TEST_CASE("grouped top-k gives the bits of the core; without its flag the last output stays as it was") {
    Findings findings;
    for (const moe_aclnn_mode mode : every_mode)
        for (const Layout layout : input_layouts)
            for (const aclDataType dtype : floats)
                for (const bool flag : {false, true}) {
                    const InMode in_mode(mode);
                    Session session;
                    Grouped of(dtype);
                    const OnDevice x(of.x, layout), bias(of.bias, layout);
                    OnDevice y(of.y), ids(of.ids), norm(of.norm);
                    CHECK(run(
                              session,
                              [&](uint64_t* size, aclOpExecutor** executor) {
                                  return aclnnMoeGatingTopKGetWorkspaceSize(x, flag ? bias.handle : nullptr, 3, 2, 4, 1,
                                                                            0, flag, flag, 2.5, 1e-20, y, ids, norm,
                                                                            size, executor);
                              },
                              aclnnMoeGatingTopK) == 0);
                    moe_tensor t_x = of.x.core(), t_bias = of.bias.core(), t_y = of.y.core(), t_ids = of.ids.core(),
                               t_norm = of.norm.core();
                    const moe_gating_top_k_args args = {
                        &t_x, flag ? &t_bias : nullptr, 3, 2, 4, 1, 0, flag, flag, 2.5, 1e-20, &t_y, &t_ids, &t_norm};
                    REQUIRE(MOE_RUN_CORE(moe_gating_top_k, args) == 0);
                    CHECK(y.read() == of.y.bytes);
                    CHECK(ids.read() == of.ids.bytes);
                    CHECK(norm.read() == of.norm.bytes);
                }
    CHECK_MESSAGE(findings.rules(true).empty(), findings.text());
}

TEST_CASE("expert tokens, strided and without ids") {
    Findings findings;
    for (const moe_aclnn_mode mode : every_mode)
        for (const Layout layout : input_layouts) {
            const InMode in_mode(mode);
            Session session;
            const OnDevice ids(Data::of<int32_t>({7}, {0, 0, 2, 2, 2, 5, 9}), layout),
                none(Data::blank({0}, ACL_INT32));
            Array<int32_t> out({6}, -1);
            const auto of = [&](const aclTensor* sorted) {
                return [&, sorted](uint64_t* size, aclOpExecutor** executor) {
                    return aclnnMoeComputeExpertTokensGetWorkspaceSize(sorted, 6, out, size, executor);
                };
            };
            CHECK(run(session, of(ids), aclnnMoeComputeExpertTokens) == 0);
            CHECK(out.read() == std::vector<int32_t>{2, 2, 5, 5, 5, 6});
            CHECK(run(session, of(none), aclnnMoeComputeExpertTokens) == 0);
            CHECK(out.read() == std::vector<int32_t>(6, 0));
        }
    CHECK_MESSAGE(findings.rules(true).empty(), findings.text());
}

TEST_CASE("null arguments are 161001, dtypes 161002, shapes and attributes 561002") {
    Findings findings;
    Session session;
    Softmax of({5}, ACL_FLOAT, true);
    const OnDevice x(of.x), finished(of.finished), y(of.y), ids(of.ids), rows(of.third);
    const OnDevice half(Data::blank({5, 3}, ACL_FLOAT16)), wide(Data::blank({5, 4}, ACL_FLOAT)),
        flat(Data::blank({8}, ACL_FLOAT)), none(Data::blank({0, 8}, ACL_FLOAT)), ints(Data::blank({5, 8}, ACL_INT32)),
        six(flags({6})), tiles(Data{{5, 8}, ACL_FLOAT, std::vector<char>(160), {5, 8}});
    const auto softmax = [&](const aclTensor* in, const aclTensor* done, int64_t k, const aclTensor* to,
                             const aclTensor* chosen, const aclTensor* numbers) -> FirstPhase {
        return [=](uint64_t* size, aclOpExecutor** executor) {
            return aclnnMoeGatingTopKSoftmaxGetWorkspaceSize(in, done, k, to, chosen, numbers, size, executor);
        };
    };
    refused(findings, 161001, "x: null", softmax(nullptr, finished, 3, y, ids, rows), "null-argument");
    refused(findings, 161001, "yOut: null", softmax(x, finished, 3, nullptr, ids, rows), "null-argument");
    refused(findings, 161001, "expertIdxOut: null", softmax(x, finished, 3, y, nullptr, rows), "null-argument");
    refused(findings, 161001, "rowIdxOut: null", softmax(x, finished, 3, y, ids, nullptr), "null-argument");
    refused(findings, 161002, "x", softmax(ints, finished, 3, y, ids, rows));
    refused(findings, 161002, "x: format 29", softmax(tiles, finished, 3, y, ids, rows));
    refused(findings, 161002, "finished", softmax(x, ids, 3, y, ids, rows));
    refused(findings, 161002, "yOut", softmax(x, finished, 3, half, ids, rows));
    refused(findings, 161002, "expertIdxOut", softmax(x, finished, 3, y, y, rows));
    refused(findings, 161002, "rowIdxOut", softmax(x, finished, 3, y, ids, y));
    refused(findings, 561002, "x", softmax(flat, nullptr, 3, y, ids, rows));
    refused(findings, 561002, "finished", softmax(x, six, 3, y, ids, rows));
    refused(findings, 561002, "yOut", softmax(x, finished, 3, wide, ids, rows));
    refused(findings, 561002, "k: 9", softmax(x, finished, 9, y, ids, rows));
    refused(findings, 561002, "k: -1", softmax(x, finished, -1, y, ids, rows));
    const OnDevice no_y(Data::blank({5, 0}, ACL_FLOAT)), no_ids(Data::blank({5, 0}, ACL_INT32)),
        empty_y(Data::blank({0, 3}, ACL_FLOAT)), empty_ids(Data::blank({0, 3}, ACL_INT32));
    refused(findings, 561002, "k: 0", softmax(x, finished, 0, no_y, no_ids, no_ids));
    refused(findings, 561002, "x", softmax(none, nullptr, 3, empty_y, empty_ids, empty_ids));

    const auto v2 = [&](const aclTensor* in, int64_t k, int64_t renorm, bool flag,
                        const aclTensor* result) -> FirstPhase {
        return [=, &y, &ids](uint64_t* size, aclOpExecutor** executor) {
            return aclnnMoeGatingTopKSoftmaxV2GetWorkspaceSize(in, nullptr, k, renorm, flag, y, ids, result, size,
                                                               executor);
        };
    };
    refused(findings, 161001, "x: null", v2(nullptr, 3, 0, false, nullptr), "null-argument");
    refused(findings, 561002, "renorm: 2", v2(x, 3, 2, false, nullptr));
    refused(findings, 161001, "softmaxResultOut", v2(x, 3, 0, true, nullptr), "null-argument");
    refused(findings, 161002, "softmaxResultOut", v2(x, 3, 0, true, ints));
    refused(findings, 561002, "softmaxResultOut", v2(x, 3, 0, true, wide));
    refused(findings, 561002, "k: 0", [&](uint64_t* size, aclOpExecutor** executor) {
        return aclnnMoeGatingTopKSoftmaxV2GetWorkspaceSize(x, nullptr, 0, 0, false, no_y, no_ids, nullptr, size,
                                                           executor);
    });

    struct Attributes {
        int64_t k = 3, k_group = 2, group_count = 4, mode = 1, renorm = 0, norm = 1;
        bool flag = true;
    };
    Grouped grouped(ACL_FLOAT);
    const OnDevice g_x(grouped.x), bias(grouped.bias), g_y(grouped.y), g_ids(grouped.ids), norm(grouped.norm);
    const auto top_k = [&](const aclTensor* in, const aclTensor* shift, const Attributes& attributes,
                           const aclTensor* result) -> FirstPhase {
        return [=, &g_y, &g_ids](uint64_t* size, aclOpExecutor** executor) {
            return aclnnMoeGatingTopKGetWorkspaceSize(
                in, shift, attributes.k, attributes.k_group, attributes.group_count, attributes.mode, attributes.renorm,
                attributes.norm, attributes.flag, 1, 1, g_y, g_ids, result, size, executor);
        };
    };
    refused(findings, 161001, "x: null", top_k(nullptr, bias, {}, norm), "null-argument");
    refused(findings, 161001, "outOut: null", top_k(g_x, bias, {}, nullptr), "null-argument");
    refused(findings, 161002, "bias", top_k(g_x, half, {}, norm));
    refused(findings, 161002, "outOut", top_k(g_x, bias, {}, ints));
    refused(findings, 561002, "bias", top_k(g_x, flat, {}, norm));
    refused(findings, 561002, "outOut", top_k(g_x, bias, {}, wide));
    const auto with = [](int64_t Attributes::*which, int64_t value) {
        Attributes attributes;
        attributes.*which = value;
        return attributes;
    };
    refused(findings, 561002, "k: 0", top_k(g_x, bias, with(&Attributes::k, 0), norm));
    refused(findings, 561002, "k: 9", top_k(g_x, bias, with(&Attributes::k, 9), norm));
    refused(findings, 561002, "kGroup: 5", top_k(g_x, bias, with(&Attributes::k_group, 5), norm));
    refused(findings, 561002, "groupCount: 3", top_k(g_x, bias, with(&Attributes::group_count, 3), norm));
    refused(findings, 561002, "groupSelectMode: 2", top_k(g_x, bias, with(&Attributes::mode, 2), norm));
    refused(findings, 561002, "renorm: 1", top_k(g_x, bias, with(&Attributes::renorm, 1), norm));
    refused(findings, 561002, "normType: 2", top_k(g_x, bias, with(&Attributes::norm, 2), norm));

    const OnDevice sorted(Data::blank({7}, ACL_INT32)), longs(Data::blank({7}, ACL_INT64)),
        matrix(Data::blank({7, 1}, ACL_INT32)), ends(Data::blank({6}, ACL_INT32));
    const auto tokens = [&](const aclTensor* in, int64_t experts, const aclTensor* out) -> FirstPhase {
        return [=](uint64_t* size, aclOpExecutor** executor) {
            return aclnnMoeComputeExpertTokensGetWorkspaceSize(in, experts, out, size, executor);
        };
    };
    refused(findings, 161001, "sortedExperts: null", tokens(nullptr, 6, ends), "null-argument");
    refused(findings, 161001, "out: null", tokens(sorted, 6, nullptr), "null-argument");
    refused(findings, 161002, "sortedExperts", tokens(longs, 6, ends));
    refused(findings, 561002, "sortedExperts", tokens(matrix, 6, ends));
    refused(findings, 561002, "numExperts: 0", tokens(sorted, 0, ends));
    refused(findings, 561002, "numExperts: 2049", tokens(sorted, 2049, ends));
    refused(findings, 561002, "out", tokens(sorted, 7, ends));
}

TEST_CASE("a strided output: told, written densely by a real host, refused") {
    for (const moe_aclnn_mode mode : every_mode) {
        const InMode in_mode(mode);
        Findings findings;
        Session session;
        const OnDevice ids(Data::of<int32_t>({7}, {0, 0, 2, 2, 2, 5, 9}));
        const Buffer memory(std::vector<int32_t>(12, -1));
        const int64_t shape = 6, stride = 2, storage = 12;
        aclTensor* out = aclCreateTensor(&shape, 1, ACL_INT32, &stride, 0, ACL_FORMAT_ND, &storage, 1, memory.data);
        const aclnnStatus status = run(
            session,
            [&](uint64_t* size, aclOpExecutor** executor) {
                return aclnnMoeComputeExpertTokensGetWorkspaceSize(ids, 6, out, size, executor);
            },
            aclnnMoeComputeExpertTokens);
        CHECK(findings.rules(true) == Rules{"strided-output"});
        CHECK(status == (mode == MOE_ACLNN_STRICT ? 161002 : 0));
        const std::vector<int32_t> dense = {2, 2, 5, 5, 5, 6, -1, -1, -1, -1, -1, -1};
        const std::vector<int32_t> spread = {2, -1, 2, -1, 5, -1, 5, -1, 5, -1, 6, -1};
        CHECK(memory.read<int32_t>() == (mode == MOE_ACLNN_COMPAT ? spread
                                         : mode == MOE_ACLNN_REAL ? dense
                                                                  : std::vector<int32_t>(12, -1)));
        CHECK(aclDestroyTensor(out) == 0);
    }
}
