#include <memory>

#include "aclnnop/aclnn_ffn.h"
#include "aclnnop/aclnn_ffn_v2.h"
#include "aclnnop/aclnn_ffn_v3.h"
#include "moe_native/ffn.h"
#include "operands.h"

using namespace client;

namespace {

// Contents of a call; what is not there has no shape and no bytes.
struct Problem {
    Data x, weight1, weight2, bias1, bias2, scale, offset, deq_scale1, deq_scale2, antiquant_scale1, antiquant_scale2,
        antiquant_offset1, antiquant_offset2, y;
    std::vector<int64_t> tokens;  // counts; none without experts
    std::string activation = "relu";
    int64_t inner_precise = 0;
    bool tokens_index = false;

    static bool there(const Data& data) { return !data.bytes.empty(); }

    std::vector<int64_t> listed() const {
        std::vector<int64_t> list = tokens;
        for (size_t e = 1; tokens_index && e < list.size(); ++e) list[e] += list[e - 1];
        return list;
    }

    std::vector<char> expected() const {
        Problem of = *this;
        std::vector<int64_t> list = listed();
        const auto experts = static_cast<int64_t>(list.size());
        std::vector<moe_tensor> made;
        made.reserve(32);
        const auto view = [&](Data& data) -> moe_tensor* {
            if (!there(data)) return nullptr;
            made.push_back(data.core());
            return &made.back();
        };
        made.push_back(moe_tensor_make(list.data(), MOE_INT64, 1, &experts));
        moe_ffn_args args = {};
        args.expert_tokens = &made.back();
        args.x = view(of.x);
        args.weight1 = view(of.weight1);
        args.weight2 = view(of.weight2);
        args.bias1 = view(of.bias1);
        args.bias2 = view(of.bias2);
        args.scale = view(of.scale);
        args.offset = view(of.offset);
        args.deq_scale1 = view(of.deq_scale1);
        args.deq_scale2 = view(of.deq_scale2);
        args.antiquant_scale1 = view(of.antiquant_scale1);
        args.antiquant_scale2 = view(of.antiquant_scale2);
        args.antiquant_offset1 = view(of.antiquant_offset1);
        args.antiquant_offset2 = view(of.antiquant_offset2);
        args.activation = activation.c_str();
        args.inner_precise = inner_precise;
        args.output_dtype = static_cast<moe_dtype>(y.dtype);
        args.tokens_index = tokens_index;
        args.y = view(of.y);
        REQUIRE(MOE_RUN_CORE(moe_ffn, args) == 0);
        return of.y.bytes;
    }
};

constexpr int64_t rows = 7, k = 12, hidden = 10;

Problem floating(aclDataType dtype, std::vector<int64_t> tokens = {}) {
    Problem of;
    const aclDataType bias = dtype == ACL_BF16 ? ACL_FLOAT : dtype;
    const auto experts = static_cast<int64_t>(tokens.size());
    const auto shaped = [&](Shape shape) {
        if (experts > 0) shape.insert(shape.begin(), experts);
        return shape;
    };
    of.tokens = std::move(tokens);
    of.x = Data::random({rows, k}, dtype, 1);
    of.weight1 = Data::random(shaped({k, hidden}), dtype, 2);
    of.weight2 = Data::random(shaped({hidden, k}), dtype, 3);
    of.bias1 = Data::random(shaped({hidden}), bias, 4);
    of.bias2 = Data::random(shaped({k}), bias, 5);
    of.y = Data::blank({rows, k}, dtype);
    return of;
}

Problem gated() {
    Problem of = floating(ACL_FLOAT16);
    of.weight2 = Data::random({hidden / 2, k}, ACL_FLOAT16, 3);
    of.activation = "SwiGLU";
    of.inner_precise = 1;
    return of;
}

Problem quantised(aclDataType y, aclDataType deq, std::vector<int64_t> tokens = {}) {
    Problem of = floating(ACL_INT8, std::move(tokens));
    const auto experts = static_cast<int64_t>(of.tokens.size());
    of.bias1 = Data::random(of.bias1.shape, ACL_INT32, 4);
    of.bias2 = Data::random(of.bias2.shape, ACL_INT32, 5);
    for (Data* bias : {&of.bias1, &of.bias2})
        for (size_t i = 0; i < bias->bytes.size(); i += 4) bias->bytes[i + 2] = bias->bytes[i + 3] = 0;
    of.scale = Data::random({std::max<int64_t>(1, experts)}, ACL_FLOAT, 6);
    of.offset = Data::random({std::max<int64_t>(1, experts)}, ACL_FLOAT, 7);
    of.deq_scale1 = Data::random(of.bias1.shape, deq, 8);
    of.deq_scale2 = Data::random(of.bias2.shape, deq, 9);
    of.y = Data::blank({rows, k}, y);
    return of;
}

Problem antiquantised(aclDataType dtype, aclDataType weight, std::vector<int64_t> tokens = {}, bool groups = false) {
    Problem of = floating(dtype, std::move(tokens));
    of.weight1 = Data::random(of.weight1.shape, weight, 2);
    of.weight2 = Data::random(of.weight2.shape, weight, 3);
    Shape first = of.bias1.shape, second = of.bias2.shape;
    if (groups) first.insert(first.end() - 1, 3), second.insert(second.end() - 1, 5);
    of.antiquant_scale1 = Data::random(first, dtype, 10);
    of.antiquant_scale2 = Data::random(second, dtype, 11);
    of.antiquant_offset1 = Data::random(first, dtype, 12);
    of.antiquant_offset2 = Data::random(second, dtype, 13);
    return of;
}

using Made = std::unique_ptr<OnDevice>;

// The same on the device. Members may be replaced or left out.
struct Call {
    Made x, weight1, weight2, tensor_tokens, bias1, bias2, scale, offset, deq_scale1, deq_scale2, antiquant_scale1,
        antiquant_scale2, antiquant_offset1, antiquant_offset2, y;
    std::vector<int64_t> tokens;
    const char* activation;
    int64_t inner_precise;
    bool tokens_index;

    explicit Call(const Problem& of, Layout layout = Layout::dense)
        : tokens(of.listed()), inner_precise(of.inner_precise), tokens_index(of.tokens_index), name_(of.activation) {
        const auto made = [&](const Data& data) {
            return Problem::there(data) ? std::make_unique<OnDevice>(data, layout) : nullptr;
        };
        x = made(of.x);
        weight1 = made(of.weight1);
        weight2 = made(of.weight2);
        if (!tokens.empty()) tensor_tokens = made(Data::of<int64_t>({static_cast<int64_t>(tokens.size())}, tokens));
        bias1 = made(of.bias1);
        bias2 = made(of.bias2);
        scale = made(of.scale);
        offset = made(of.offset);
        deq_scale1 = made(of.deq_scale1);
        deq_scale2 = made(of.deq_scale2);
        antiquant_scale1 = made(of.antiquant_scale1);
        antiquant_scale2 = made(of.antiquant_scale2);
        antiquant_offset1 = made(of.antiquant_offset1);
        antiquant_offset2 = made(of.antiquant_offset2);
        y = made(of.y);
        activation = name_.c_str();
    }
    ~Call() {
        for (const aclIntArray* array : arrays_) CHECK(aclDestroyIntArray(array) == 0);
    }

    FirstPhase v1() {
        return [this](uint64_t* size, aclOpExecutor** executor) {
            return aclnnFFNGetWorkspaceSize(get(x), get(weight1), get(weight2), array(), get(bias1), get(bias2),
                                            get(scale), get(offset), get(deq_scale1), get(deq_scale2),
                                            get(antiquant_scale1), get(antiquant_scale2), get(antiquant_offset1),
                                            get(antiquant_offset2), activation, inner_precise, get(y), size, executor);
        };
    }
    FirstPhase v2() {
        return [this](uint64_t* size, aclOpExecutor** executor) {
            return aclnnFFNV2GetWorkspaceSize(
                get(x), get(weight1), get(weight2), array(), get(bias1), get(bias2), get(scale), get(offset),
                get(deq_scale1), get(deq_scale2), get(antiquant_scale1), get(antiquant_scale2), get(antiquant_offset1),
                get(antiquant_offset2), activation, inner_precise, tokens_index, get(y), size, executor);
        };
    }
    FirstPhase v3() {
        return [this](uint64_t* size, aclOpExecutor** executor) {
            return aclnnFFNV3GetWorkspaceSize(
                get(x), get(weight1), get(weight2), get(tensor_tokens), get(bias1), get(bias2), get(scale), get(offset),
                get(deq_scale1), get(deq_scale2), get(antiquant_scale1), get(antiquant_scale2), get(antiquant_offset1),
                get(antiquant_offset2), activation, inner_precise, tokens_index, get(y), size, executor);
        };
    }

  private:
    static aclTensor* get(const Made& tensor) { return tensor == nullptr ? nullptr : tensor->handle; }
    const aclIntArray* array() {
        if (tokens.empty()) return nullptr;
        arrays_.push_back(aclCreateIntArray(tokens.data(), tokens.size()));
        return arrays_.back();
    }

    const std::string name_;
    std::vector<const aclIntArray*> arrays_;
};

const std::vector<int64_t> counts = {3, 0, 4};

std::vector<Problem> every_scenario() {
    std::vector<Problem> all = {floating(ACL_FLOAT16),
                                floating(ACL_FLOAT16, counts),
                                floating(ACL_BF16),
                                floating(ACL_BF16, counts),
                                gated(),
                                quantised(ACL_FLOAT16, ACL_UINT64),
                                quantised(ACL_FLOAT16, ACL_INT64, counts),
                                quantised(ACL_FLOAT16, ACL_FLOAT),
                                quantised(ACL_BF16, ACL_BF16, counts),
                                antiquantised(ACL_FLOAT16, ACL_INT8),
                                antiquantised(ACL_BF16, ACL_INT8, counts),
                                antiquantised(ACL_FLOAT16, ACL_INT4),
                                antiquantised(ACL_BF16, ACL_INT4, counts, true)};
    all.push_back(floating(ACL_FLOAT16));
    all.back().inner_precise = 1;
    all.back().activation = "fastgelu";
    all.push_back(floating(ACL_FLOAT16));
    all.back().bias1 = all.back().bias2 = {};
    all.back().activation = "GELU";
    all.push_back(floating(ACL_FLOAT16, counts));
    all.back().x.shape = all.back().y.shape = {1, rows, k};
    all.back().activation = "silu";
    return all;
}

}  // namespace

TEST_CASE("every scenario gives the bits of the core in three versions, silently, in every mode and layout") {
    Findings findings;
    for (const moe_aclnn_mode mode : every_mode)
        for (const Layout layout : {Layout::dense, Layout::strided, Layout::flat}) {
            const InMode in_mode(mode);
            for (Problem& of : every_scenario()) {
                Session session;
                const std::vector<char> expected = of.expected();
                {
                    Call call(of, layout);
                    CHECK(run(session, call.v1(), aclnnFFN) == 0);
                    CHECK(call.y->read() == expected);
                }
                of.tokens_index = true;
                CHECK(of.expected() == expected);
                {
                    Call call(of, layout);
                    CHECK(run(session, call.v2(), aclnnFFNV2) == 0);
                    CHECK(call.y->read() == expected);
                }
                Call call(of, layout);
                CHECK(run(session, call.v3(), aclnnFFNV3) == 0);
                CHECK(call.y->read() == expected);
            }
            CHECK_MESSAGE(findings.rules(true).empty(), findings.text());
        }
}

TEST_CASE("an empty x asks for nothing and changes nothing, after every check") {
    Findings findings;
    Session session;
    Problem of = floating(ACL_FLOAT16);
    Call call(of);
    call.x = std::make_unique<OnDevice>(Data::blank({0, k}, ACL_FLOAT16));
    call.y = std::make_unique<OnDevice>(Data::blank({0, k}, ACL_FLOAT16));
    call.inner_precise = 5;  // which nobody looks at any more
    uint64_t size = 77;
    aclOpExecutor* executor = nullptr;
    REQUIRE(call.v1()(&size, &executor) == 0);
    CHECK(size == 0);
    CHECK(run(session, aclnnFFN, size, executor) == 0);
    CHECK(findings.rules(true).empty());
    call.bias1 = std::make_unique<OnDevice>(Data::blank({hidden + 1}, ACL_FLOAT16));
    refused(findings, 161002, "bias1", call.v1());
}

TEST_CASE("the order of the first checks: activation, null, dtypes of the scales, places, tokens, shapes, attributes") {
    Findings findings;
    Session session;
    Problem of = quantised(ACL_FLOAT16, ACL_UINT64, counts);
    Call call(of);
    uint64_t size = 0;
    aclOpExecutor* executor = nullptr;
    // From the last to the first, each beside those that come after it.
    call.inner_precise = 2;
    refused(findings, 561103, "innerPrecise: 2", call.v1());
    call.weight2 = std::make_unique<OnDevice>(Data::random({3, hidden, k + 1}, ACL_INT8, 1));
    call.y = std::make_unique<OnDevice>(Data::blank({rows, k + 1}, ACL_FLOAT16));
    call.bias2 = std::make_unique<OnDevice>(Data::blank({3, k + 1}, ACL_INT32));
    call.deq_scale2 = std::make_unique<OnDevice>(Data::blank({3, k + 1}, ACL_UINT64));
    refused(findings, 161002, "as many columns as x has: 12", call.v1());
    CHECK(call.v1()(nullptr, &executor) == 161001);
    CHECK(call.v1()(&size, nullptr) == 161001);
    CHECK(findings.rules(true) == Rules{"null-argument", "null-argument"});
    call.deq_scale2 = std::make_unique<OnDevice>(Data::blank({3, k}, ACL_FLOAT));
    refused(findings, 161002, "deqScale2: float32 (3, 12), needed the dtype of deqScale1", call.v1());
    refused(findings, 161002, "deqScale2Optional", call.v3());
    CHECK(call.v1()(nullptr, nullptr) == 161002);
    CHECK(findings.rules(true) == Rules{"argument"});
    for (Made Call::*which : {&Call::x, &Call::weight1, &Call::weight2, &Call::y}) {
        Made kept = std::move(call.*which);
        refused(findings, 161001, ": null", call.v1(), "null-argument");
        refused(findings, 161001, ": null", call.v2(), "null-argument");
        refused(findings, 161001, ": null", call.v3(), "null-argument");
        call.*which = std::move(kept);
    }
    call.x = nullptr;
    for (const char* name : {"", "fast_gelu", "relu ", "swish"}) {
        call.activation = name;
        refused(findings, 161002, "activation", call.v1());
    }
    call.activation = nullptr;
    refused(findings, 161001, "crashes a real host", call.v1(), "null-crash");
    refused(findings, 161001, "crashes a real host", call.v3(), "null-crash");
}

TEST_CASE("dtypes, shapes and values") {
    Findings findings;
    Session session;
    const auto refuse = [&](const Problem& of, const std::string& part, const std::function<void(Call&)>& change,
                            aclnnStatus status = 161002) {
        Call call(of);
        change(call);
        refused(findings, status, part, call.v1());
        refused(findings, status, part, call.v3());
    };
    const auto made = [](const Shape& shape, aclDataType dtype) {
        return std::make_unique<OnDevice>(Data::random(shape, dtype, 1));
    };
    const Problem half = floating(ACL_FLOAT16), brain = floating(ACL_BF16), experts = floating(ACL_FLOAT16, counts),
                  int8 = quantised(ACL_FLOAT16, ACL_UINT64), anti = antiquantised(ACL_FLOAT16, ACL_INT8),
                  int4 = antiquantised(ACL_FLOAT16, ACL_INT4, {}, true), glu = gated();
    refuse(half, "y", [&](Call& call) { call.y = made({1, rows, k}, ACL_FLOAT16); });
    refuse(half, "y", [&](Call& call) { call.y = made({rows + 1, k}, ACL_FLOAT16); });
    refuse(half, "y", [&](Call& call) { call.y = made({rows, k}, ACL_BF16); });
    refuse(half, "x", [&](Call& call) { call.x = made({k}, ACL_FLOAT16); });
    refuse(half, "weight1", [&](Call& call) { call.weight1 = made({k + 1, hidden}, ACL_FLOAT16); });
    refuse(half, "weight1", [&](Call& call) { call.weight1 = made({1, k, hidden}, ACL_FLOAT16); });
    refuse(half, "weight2", [&](Call& call) { call.weight2 = made({hidden + 1, k}, ACL_FLOAT16); });
    refuse(half, "weight2", [&](Call& call) { call.weight2 = made({hidden, k}, ACL_BF16); });
    refuse(half, "bias1", [&](Call& call) { call.bias1 = made({hidden}, ACL_FLOAT); });
    refuse(half, "scale", [&](Call& call) { call.scale = made({1}, ACL_FLOAT); });
    refuse(half, "antiquantScale1", [&](Call& call) { call.antiquant_scale1 = made({hidden}, ACL_FLOAT16); });
    refuse(half, "weight1", [&](Call& call) {
        call.weight1 = std::make_unique<OnDevice>(Data::random({k, hidden}, ACL_FLOAT16, 1).tiled());
    });
    refuse(brain, "innerPrecise", [](Call& call) { call.inner_precise = 1; });
    refuse(brain, "bias2", [&](Call& call) { call.bias2 = made({k}, ACL_BF16); });
    refuse(glu, "innerPrecise", [](Call& call) { call.inner_precise = 0; });
    refuse(glu, "weight2", [&](Call& call) { call.weight2 = made({hidden, k}, ACL_FLOAT16); });
    refuse(experts, "activation", [&](Call& call) {
        call.activation = "geglu";
        call.weight2 = made({3, hidden / 2, k}, ACL_FLOAT16);
    });
    refuse(int8, "offset", [](Call& call) { call.offset = nullptr; });
    refuse(int8, "deqScale1", [](Call& call) { call.deq_scale1 = nullptr, call.deq_scale2 = nullptr; });
    refuse(int8, "y", [&](Call& call) { call.y = made({rows, k}, ACL_FLOAT); });
    refuse(int8, "deqScale1", [&](Call& call) { call.y = made({rows, k}, ACL_BF16); });
    refuse(anti, "antiquantOffset2", [](Call& call) { call.antiquant_offset2 = nullptr; });
    refuse(anti, "antiquantScale1", [&](Call& call) { call.antiquant_scale1 = made({2, hidden}, ACL_FLOAT16); });
    refuse(int4, "antiquantScale1", [&](Call& call) {
        call.antiquant_scale1 = made({5, hidden}, ACL_FLOAT16);
        call.antiquant_offset1 = made({5, hidden}, ACL_FLOAT16);
    });
    Problem many = floating(ACL_FLOAT16, std::vector<int64_t>(257, 0));
    many.tokens[0] = rows;
    refuse(
        many, "257", [](Call&) {}, 561103);
}

TEST_CASE("tokens of the host are checked in phase 1, in every mode") {
    for (const moe_aclnn_mode mode : every_mode) {
        const InMode in_mode(mode);
        Findings findings;
        Session session;
        const Problem of = floating(ACL_FLOAT16, counts);
        for (const std::vector<int64_t>& bad : {std::vector<int64_t>{3, -1, 5}, {3, 0, 3}, {3, 0, 5}, {7, 7, 7}}) {
            Call call(of);
            call.tokens = bad;
            refused(findings, 161002, "expertTokens", call.v1(), "data-range");
        }
        for (const std::vector<int64_t>& bad : {std::vector<int64_t>{3, 2, 7}, {3, 3, 6}, {3, 3, 8}, {-1, 3, 7}}) {
            Call call(of);
            call.tokens = bad;
            call.tokens_index = true;
            refused(findings, 161002, "expertTokens:", call.v2(), "data-range");
        }
        Call call(of);
        call.tokens = {3, 4};
        refused(findings, 161002, "weight1", call.v1());
        const int64_t* nothing = nullptr;
        aclIntArray* destroyed = aclCreateIntArray(nothing, 0);
        CHECK(aclDestroyIntArray(destroyed) == 0);
        uint64_t size = 0;
        aclOpExecutor* executor = nullptr;
        CHECK(aclnnFFNGetWorkspaceSize(*call.x, *call.weight1, *call.weight2, destroyed, nullptr, nullptr, nullptr,
                                       nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, "relu", 0,
                                       *call.y, &size, &executor) == 161002);
        CHECK(findings.rules(true) == Rules{"double-destroy"});
    }
}

TEST_CASE("tokens on the device are those of the time of the run; bad ones are skipped, faulted or refused") {
    for (const moe_aclnn_mode mode : every_mode) {
        const InMode in_mode(mode);
        Findings findings;
        Session session;
        Problem of = floating(ACL_FLOAT16, counts);
        Call call(of);
        Array<int64_t> tokens({3}, {0, 0, 0});
        const auto plan = [&](uint64_t* size, aclOpExecutor** executor) {
            return aclnnFFNV3GetWorkspaceSize(*call.x, *call.weight1, *call.weight2, tokens, *call.bias1, *call.bias2,
                                              nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                                              "relu", 0, false, *call.y, size, executor);
        };
        uint64_t size = 0;
        aclOpExecutor* executor = nullptr;
        const auto write = [&](const std::vector<int64_t>& values) {
            REQUIRE(aclrtMemcpy(tokens.buffer.data, 24, values.data(), 24, ACL_MEMCPY_HOST_TO_DEVICE) == 0);
        };
        REQUIRE(plan(&size, &executor) == 0);
        write(counts);
        CHECK(run(session, aclnnFFNV3, size, executor) == 0);
        CHECK(call.y->read() == of.expected());
        CHECK(findings.rules(true).empty());
        for (const std::vector<int64_t>& bad : {std::vector<int64_t>{4, -1, 4}, {4, 0, 2}, {4, 0, 4}}) {
            REQUIRE(plan(&size, &executor) == 0);
            write(bad);
            const Buffer workspace(size);
            const std::vector<char> before = call.y->read();
            error_text();
            const aclnnStatus status = aclnnFFNV3(workspace.data, size, executor, session.stream);
            CHECK(status == (mode == MOE_ACLNN_STRICT ? 561000 : 0));
            CHECK(session.synchronise() == (mode == MOE_ACLNN_REAL ? 507015 : 0));
            CHECK(findings.rules(true) == Rules{"data-range"});
            if (mode != MOE_ACLNN_COMPAT) {
                CHECK(contains(error_text(), "expertTokensOptional"));
                CHECK(call.y->read() == before);
            }
        }
        call.tensor_tokens = std::make_unique<OnDevice>(Data::blank({3}, ACL_INT32));
        refused(findings, 161002, "expertTokensOptional", call.v3());
        call.tensor_tokens = std::make_unique<OnDevice>(Data::blank({3, 1}, ACL_INT64));
        refused(findings, 161002, "expertTokensOptional", call.v3());
    }
}

TEST_CASE("only a real host relabels the scales, and only for float16") {
    for (const moe_aclnn_mode mode : every_mode) {
        const InMode in_mode(mode);
        Findings findings;
        Session session;
        const Problem of = quantised(ACL_FLOAT16, ACL_INT64);
        Call call(of);
        for (int time = 0; time < 2; ++time) CHECK(run(session, call.v2(), aclnnFFNV2) == 0);
        for (const Made* scale : {&call.deq_scale1, &call.deq_scale2}) {
            aclDataType dtype;
            REQUIRE(aclGetDataType((*scale)->handle, &dtype) == 0);
            CHECK(dtype == (mode == MOE_ACLNN_REAL ? ACL_UINT64 : ACL_INT64));
        }
        CHECK(findings.rules(true).empty());
    }
}

TEST_CASE("phase 2 returns 561000 for a null executor, a null workspace and another operator's executor") {
    Findings findings;
    Session session;
    const Problem of = floating(ACL_FLOAT16);
    Call call(of);
    CHECK(aclnnFFN(nullptr, 0, nullptr, session.stream) == 561000);
    CHECK(findings.rules(true) == Rules{"null-argument"});
    uint64_t size = 0;
    aclOpExecutor* executor = nullptr;
    REQUIRE(call.v1()(&size, &executor) == 0);
    REQUIRE(size > 0);
    const Buffer workspace(size);
    CHECK(aclnnFFNV2(workspace.data, size, executor, session.stream) == 561000);
    CHECK(findings.rules(true) == Rules{"executor-mixed"});
    CHECK(aclnnFFN(nullptr, size, executor, session.stream) == 561000);
    CHECK(findings.rules(true) == Rules{"workspace-null"});
}
