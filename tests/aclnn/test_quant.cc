#include "aclnnop/aclnn_dynamic_quant.h"
#include "aclnnop/aclnn_dynamic_quant_v2.h"
#include "aclnnop/aclnn_swi_glu.h"
#include "moe_native/quant.h"
#include "operands.h"

using namespace client;

namespace {

constexpr aclDataType halves[] = {ACL_FLOAT16, ACL_BF16};
constexpr Layout layouts[] = {Layout::dense, Layout::strided, Layout::flat};

struct Problem {
    Data x, smooth, group_index, y, scale;

    explicit Problem(aclDataType dtype, bool groups = false)
        : x(Data::random({2, 3, 8}, dtype, 1)),
          smooth(Data::random(groups ? Shape{3, 8} : Shape{8}, dtype, 2)),
          group_index(Data::of<int32_t>({3}, {2, 2, 6})),
          y(Data::blank({2, 3, 8}, ACL_INT8)),
          scale(Data::blank({2, 3}, ACL_FLOAT)) {}

    void compute(bool with_smooth, bool with_groups) {
        moe_tensor t_x = x.core(), t_smooth = smooth.core(), t_index = group_index.core(), t_y = y.core(),
                   t_scale = scale.core();
        const moe_dynamic_quant_args args = {&t_x, with_smooth ? &t_smooth : nullptr, with_groups ? &t_index : nullptr,
                                             &t_y, &t_scale};
        REQUIRE(MOE_RUN_CORE(moe_dynamic_quant, args) == 0);
    }
};

FirstPhase quant(const aclTensor* x, const aclTensor* smooth, const aclTensor* y, const aclTensor* scale) {
    return [=](uint64_t* size, aclOpExecutor** executor) {
        return aclnnDynamicQuantGetWorkspaceSize(x, smooth, y, scale, size, executor);
    };
}
FirstPhase quant_v2(const aclTensor* x, const aclTensor* smooth, const aclTensor* groups, const aclTensor* y,
                    const aclTensor* scale, int64_t type = ACL_INT8, const aclTensor* offset = nullptr) {
    return [=](uint64_t* size, aclOpExecutor** executor) {
        return aclnnDynamicQuantV2GetWorkspaceSize(x, smooth, groups, type, y, scale, offset, size, executor);
    };
}
FirstPhase glu(const aclTensor* x, int64_t dim, const aclTensor* out) {
    return [=](uint64_t* size, aclOpExecutor** executor) {
        return aclnnSwiGluGetWorkspaceSize(x, dim, out, size, executor);
    };
}

}  // namespace

TEST_CASE("dynamic quantisation gives the bits of the core, silently, in every mode and layout") {
    Findings findings;
    for (const moe_aclnn_mode mode : every_mode)
        for (const Layout layout : layouts)
            for (const aclDataType dtype : halves) {
                const InMode in_mode(mode);
                Session session;
                for (const bool with_smooth : {false, true}) {
                    Problem of(dtype);
                    const OnDevice x(of.x, layout), smooth(of.smooth, layout);
                    OnDevice y(of.y, layout), scale(of.scale, layout);
                    const aclTensor* factor = with_smooth ? smooth.handle : nullptr;
                    of.compute(with_smooth, false);
                    CHECK(run(session, quant(x, factor, y, scale), aclnnDynamicQuant) == 0);
                    CHECK(y.read() == of.y.bytes);
                    CHECK(scale.read() == of.scale.bytes);
                    CHECK(run(session, quant_v2(x, factor, nullptr, y, scale), aclnnDynamicQuantV2) == 0);
                    CHECK(y.read() == of.y.bytes);
                    CHECK(scale.read() == of.scale.bytes);
                }
                Problem of(dtype, true);
                const OnDevice x(of.x, layout), smooth(of.smooth, layout), groups(of.group_index, layout);
                OnDevice y(of.y, layout), scale(of.scale, layout);
                of.compute(true, true);
                CHECK(run(session, quant_v2(x, smooth, groups, y, scale), aclnnDynamicQuantV2) == 0);
                CHECK(y.read() == of.y.bytes);
                CHECK(scale.read() == of.scale.bytes);
            }
    CHECK_MESSAGE(findings.rules(true).empty(), findings.text());
}

TEST_CASE("swiglu gives the bits of the core along every dimension, silently, in every mode") {
    Findings findings;
    for (const moe_aclnn_mode mode : every_mode)
        for (const Layout layout : layouts)
            for (const aclDataType dtype : {ACL_FLOAT, ACL_FLOAT16, ACL_BF16})
                for (const int64_t dim : {-1, 0, 1}) {
                    const InMode in_mode(mode);
                    Session session;
                    Data in = Data::random({4, 6, 8}, dtype, 1);
                    Shape shape = in.shape;
                    shape[static_cast<size_t>(dim < 0 ? 2 : dim)] /= 2;
                    Data result = Data::blank(shape, dtype);
                    const OnDevice x(in, layout);
                    OnDevice out(result);
                    CHECK(run(session, glu(x, dim, out), aclnnSwiGlu) == 0);
                    moe_tensor t_in = in.core(), t_out = result.core();
                    const moe_swiglu_args args = {&t_in, dim, &t_out};
                    REQUIRE(MOE_RUN_CORE(moe_swiglu, args) == 0);
                    CHECK(out.read() == result.bytes);
                }
    CHECK_MESSAGE(findings.rules(true).empty(), findings.text());
}

TEST_CASE("refusals") {
    Findings findings;
    Session session;
    const Problem of(ACL_FLOAT16), grouped(ACL_FLOAT16, true);
    const OnDevice x(of.x), smooth(of.smooth), smooths(grouped.smooth), groups(of.group_index), y(of.y),
        scale(of.scale);
    const OnDevice single(Data::blank({2, 3, 8}, ACL_FLOAT)), vector(Data::blank({8}, ACL_FLOAT16)),
        other(Data::blank({8}, ACL_BF16)), words(Data::blank({3}, ACL_FLOAT)), wide(Data::blank({2, 3, 9}, ACL_INT8)),
        bytes(Data::blank({2, 3, 8}, ACL_UINT8)), long_scale(Data::blank({2, 4}, ACL_FLOAT)),
        half_scale(Data::blank({2, 3}, ACL_FLOAT16));
    const auto both = [&](aclnnStatus status, const std::string& part, const aclTensor* in, const aclTensor* factor,
                          const aclTensor* to, const aclTensor* to_scale, const char* rule = "argument") {
        refused(findings, status, part, quant(in, factor, to, to_scale), rule);
        refused(findings, status, part, quant_v2(in, factor, nullptr, to, to_scale), rule);
    };
    both(161001, "x: null", nullptr, smooth, y, scale, "null-argument");
    both(161001, "yOut: null", x, smooth, nullptr, scale, "null-argument");
    both(161001, "scaleOut: null", x, smooth, y, nullptr, "null-argument");
    both(161002, "x", single, nullptr, y, scale);
    both(161002, "x", vector, nullptr, y, scale);
    both(161002, "smoothScalesOptional", x, other, y, scale);
    both(161002, "smoothScalesOptional", x, smooths, y, scale);
    both(161002, "yOut", x, smooth, wide, scale);
    both(161002, "yOut", x, smooth, bytes, scale);
    both(161002, "scaleOut", x, smooth, y, long_scale);
    both(161002, "scaleOut", x, smooth, y, half_scale);
    refused(findings, 161002, "groupIndexOptional", quant_v2(x, nullptr, groups, y, scale));
    refused(findings, 161002, "groupIndexOptional", quant_v2(x, smooths, words, y, scale));
    refused(findings, 161002, "smoothScalesOptional", quant_v2(x, smooth, groups, y, scale));
    refused(findings, 161002, "dstType: 29", quant_v2(x, smooth, nullptr, y, scale, ACL_INT4));
    refused(findings, 161002, "offsetOut", quant_v2(x, smooth, nullptr, y, scale, ACL_INT8, scale));

    const OnDevice out(Data::blank({2, 3, 4}, ACL_FLOAT16)), single_out(Data::blank({2, 3, 4}, ACL_FLOAT)),
        ints(Data::blank({2, 4}, ACL_INT8)), empty(Data::blank({0, 4}, ACL_FLOAT16)),
        empty_out(Data::blank({0, 2}, ACL_FLOAT16)), scalar(Data::blank({}, ACL_FLOAT16));
    refused(findings, 161001, "x: null", glu(nullptr, -1, out), "null-argument");
    refused(findings, 161001, "out: null", glu(x, -1, nullptr), "null-argument");
    refused(findings, 161002, "x", glu(ints, -1, out));
    refused(findings, 161002, "out", glu(x, -1, single_out));
    refused(findings, 561002, "dim: 3", glu(x, 3, out));
    refused(findings, 561002, "dim: -4", glu(x, -4, out));
    refused(findings, 561002, "x", glu(x, 1, out));
    refused(findings, 561002, "x", glu(empty, 1, empty_out));
    refused(findings, 561002, "x", glu(scalar, 0, scalar));
    refused(findings, 561002, "out", glu(x, 0, out));
}

TEST_CASE("an x without rows") {
    Findings findings;
    for (const moe_aclnn_mode mode : every_mode) {
        const InMode in_mode(mode);
        Session session;
        const OnDevice x(Data::blank({0, 8}, ACL_FLOAT16)), y(Data::blank({0, 8}, ACL_INT8)),
            scale(Data::blank({0}, ACL_FLOAT));
        CHECK(run(session, quant(x, nullptr, y, scale), aclnnDynamicQuant) == 0);
    }
    CHECK(findings.rules(true).empty());
}

TEST_CASE("ends of groups out of range: skipped, faulted or refused") {
    for (const moe_aclnn_mode mode : every_mode)
        for (const std::vector<int32_t>& bad : {std::vector<int32_t>{2, 1, 6}, {-1, 2, 6}, {2, 2, 7}, {2, 2, 5}}) {
            const InMode in_mode(mode);
            Findings findings;
            Session session;
            Problem of(ACL_BF16, true);
            of.group_index = Data::of<int32_t>({3}, bad);
            const OnDevice x(of.x), smooth(of.smooth), groups(of.group_index);
            OnDevice y(of.y), scale(of.scale);
            uint64_t size = 0;
            aclOpExecutor* executor = nullptr;
            REQUIRE(quant_v2(x, smooth, groups, y, scale)(&size, &executor) == 0);
            const Buffer workspace(size);
            error_text();
            CHECK(aclnnDynamicQuantV2(workspace.data, size, executor, session.stream) ==
                  (mode == MOE_ACLNN_STRICT ? 161002 : 0));
            CHECK(session.synchronise() == (mode == MOE_ACLNN_REAL ? 507015 : 0));
            CHECK(findings.rules(true) == Rules{"data-range"});
            if (mode == MOE_ACLNN_COMPAT)
                of.compute(true, true);
            else
                CHECK(contains(error_text(), "groupIndexOptional"));
            CHECK(y.read() == of.y.bytes);
            CHECK(scale.read() == of.scale.bytes);
        }
}
