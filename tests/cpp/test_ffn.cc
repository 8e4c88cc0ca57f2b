// npu_ffn through the C API: what Python cannot reach.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <random>

#include "call.h"
#include "kernels/numeric.h"

using namespace moe_test;

namespace {

constexpr moe_status null_pointer = MOE_ERROR_NULL;
constexpr moe_status invalid = MOE_ERROR_INVALID;

std::string last_argument() {
    return moe_last_error()->argument;
}

std::vector<uint16_t> f16(const std::vector<float>& values) {
    std::vector<uint16_t> out;
    for (const float value : values) out.push_back(moe::narrow_f16(value));
    return out;
}

// Three experts, of which the second has no rows.
struct Layer {
    std::vector<float> x{1, 2, 3, 4, -1, 1, 2, -2};
    std::vector<float> weight1{1, .5, -1, 2, -.25, .75, -1, -.5, 1, -2, .25, -.75, 2, 1, -2, 4, -.5, 1.5};
    std::vector<float> weight2{1, 0, .5, -1, 2, 1, 1, 0, .5, -1, 2, 1, -1, 0, -.5, 1, -2, -1};
    std::vector<int64_t> tokens{2, 0, 2};
    std::vector<float> bias1 = std::vector<float>(9, 0.0f);
    std::vector<float> bias2 = std::vector<float>(6, 0.0f);
    std::vector<float> y = std::vector<float>(8, -7.0f);
    const std::vector<float> needed{6, .5, 11.25, -.5, -9, -3.5, -1.5, 3};
    const std::vector<float> poison = std::vector<float>(8, -7.0f);

    moe_tensor t_x = tensor(x, MOE_FLOAT32, {4, 2});
    moe_tensor t_weight1 = tensor(weight1, MOE_FLOAT32, {3, 2, 3});
    moe_tensor t_weight2 = tensor(weight2, MOE_FLOAT32, {3, 3, 2});
    moe_tensor t_tokens = tensor(tokens, MOE_INT64, {3});
    moe_tensor t_bias1 = tensor(bias1, MOE_FLOAT32, {3, 3});
    moe_tensor t_bias2 = tensor(bias2, MOE_FLOAT32, {3, 2});
    moe_tensor t_y = tensor(y, MOE_FLOAT32, {4, 2});
    moe_ffn_args args = make();

    moe_ffn_args make() {
        moe_ffn_args made = {};
        made.x = &t_x;
        made.weight1 = &t_weight1;
        made.weight2 = &t_weight2;
        made.expert_tokens = &t_tokens;
        made.bias1 = &t_bias1;
        made.bias2 = &t_bias2;
        made.activation = "relu";
        made.y = &t_y;
        return made;
    }
    moe_status check() { return moe_ffn_check(&args); }
    moe_status run(const moe_run_options* options = nullptr) {
        return plan_and_run(args, moe_ffn_plan, moe_ffn_run, options);
    }
};

// int8 rows and weights, no experts.
struct Quantised {
    std::vector<int8_t> x{10, -20, 30, 5, 6, -7};
    std::vector<int8_t> weight1{1, 2, 3, -4, 5, 6};
    std::vector<int8_t> weight2{7, -8, 1, 9, 10, -2};
    std::vector<float> scale{2}, offset{3}, deq_scale1{.03125f, .0625f}, deq_scale2{.5f, .25f, .125f};
    std::vector<uint16_t> y = std::vector<uint16_t>(6, 0xAAAA);

    moe_tensor t_x = tensor(x, MOE_INT8, {2, 3});
    moe_tensor t_weight1 = tensor(weight1, MOE_INT8, {3, 2});
    moe_tensor t_weight2 = tensor(weight2, MOE_INT8, {2, 3});
    moe_tensor t_scale = tensor(scale, MOE_FLOAT32, {1});
    moe_tensor t_offset = tensor(offset, MOE_FLOAT32, {1});
    moe_tensor t_deq_scale1 = tensor(deq_scale1, MOE_FLOAT32, {2});
    moe_tensor t_deq_scale2 = tensor(deq_scale2, MOE_FLOAT32, {3});
    moe_tensor t_y = tensor(y, MOE_FLOAT16, {2, 3});
    moe_ffn_args args = make();

    moe_ffn_args make() {
        moe_ffn_args made = {};
        made.x = &t_x;
        made.weight1 = &t_weight1;
        made.weight2 = &t_weight2;
        made.scale = &t_scale;
        made.offset = &t_offset;
        made.deq_scale1 = &t_deq_scale1;
        made.deq_scale2 = &t_deq_scale2;
        made.activation = "relu";
        made.output_dtype = MOE_FLOAT16;
        made.y = &t_y;
        return made;
    }
};

// float16 rows, int4 weights: x (rows, k) selects, weight2 is the identity, so that y shows rows of weight1.
struct Int4 {
    int64_t k, n, groups;
    std::vector<uint16_t> x;
    std::vector<unsigned char> weight1, weight2;
    std::vector<uint16_t> scale1, offset1, scale2, offset2;
    std::vector<uint16_t> y;
    moe_tensor t_x, t_weight1, t_weight2, t_scale1, t_offset1, t_scale2, t_offset2, t_y;
    moe_ffn_args args = {};

    // `codes` (k, n); scales and offsets (groups1, n).
    Int4(int64_t k_, int64_t n_, int64_t groups_, const std::vector<int>& codes, const std::vector<float>& scale,
         const std::vector<float>& offset)
        : k(k_),
          n(n_),
          groups(groups_),
          x(identity(k_)),
          weight1(packed(codes)),
          weight2(packed_identity(n_)),
          scale1(f16(scale)),
          offset1(f16(offset)),
          scale2(static_cast<size_t>(n_), moe::narrow_f16(1.0f)),
          offset2(static_cast<size_t>(n_), moe::narrow_f16(0.0f)),
          y(static_cast<size_t>(k_ * n_), 0xAAAA) {
        t_x = tensor(x, MOE_FLOAT16, {k, k});
        t_weight1 = tensor(weight1, MOE_INT4, {k, n});
        t_weight2 = tensor(weight2, MOE_INT4, {n, n});
        t_scale1 = tensor(scale1, MOE_FLOAT16, {groups, n});
        t_offset1 = tensor(offset1, MOE_FLOAT16, {groups, n});
        t_scale2 = tensor(scale2, MOE_FLOAT16, {1, n});
        t_offset2 = tensor(offset2, MOE_FLOAT16, {1, n});
        t_y = tensor(y, MOE_FLOAT16, {k, n});
        args.x = &t_x;
        args.weight1 = &t_weight1;
        args.weight2 = &t_weight2;
        args.antiquant_scale1 = &t_scale1;
        args.antiquant_offset1 = &t_offset1;
        args.antiquant_scale2 = &t_scale2;
        args.antiquant_offset2 = &t_offset2;
        args.activation = "relu";
        args.y = &t_y;
    }

    static std::vector<uint16_t> identity(int64_t size) {
        std::vector<uint16_t> out(static_cast<size_t>(size * size), 0);
        for (int64_t i = 0; i < size; ++i) out[static_cast<size_t>(i * (size + 1))] = moe::narrow_f16(1.0f);
        return out;
    }
    static std::vector<unsigned char> packed(const std::vector<int>& codes) {
        std::vector<unsigned char> out(codes.size() / 2);
        for (size_t i = 0; i < codes.size(); ++i)
            out[i / 2] = static_cast<unsigned char>(out[i / 2] | (codes[i] & 15) << (i % 2 * 4));
        return out;
    }
    static std::vector<unsigned char> packed_identity(int64_t size) {
        std::vector<int> codes(static_cast<size_t>(size * size), 0);
        for (int64_t i = 0; i < size; ++i) codes[static_cast<size_t>(i * (size + 1))] = 1;
        return packed(codes);
    }
    std::vector<float> result() {
        REQUIRE(plan_and_run(args, moe_ffn_plan, moe_ffn_run) == MOE_OK);
        std::vector<float> out;
        for (const uint16_t value : y) out.push_back(moe::widen_f16(value));
        return out;
    }
};

}  // namespace

TEST_CASE("worked numbers") {
    Layer layer;
    CHECK(layer.run() == MOE_OK);
    CHECK(layer.y == layer.needed);
    layer.y = layer.poison;
    layer.tokens = {2, 2, 4};
    layer.args.tokens_index = true;
    CHECK(layer.run() == MOE_OK);
    CHECK(layer.y == layer.needed);

    Quantised quantised;
    CHECK(plan_and_run(quantised.args, moe_ffn_plan, moe_ffn_run) == MOE_OK);
    CHECK(quantised.y == f16({202.5f, 77.0f, -8.375f, 24.0f, 1.5f, -0.375f}));
}

TEST_CASE("shapes need no output") {
    Layer layer;
    layer.args.y = nullptr;
    moe_tensor shape;
    REQUIRE(moe_ffn_shapes(&layer.args, &shape) == MOE_OK);
    CHECK(shape.dtype == MOE_FLOAT32);
    CHECK(shape.rank == 2);
    CHECK(shape.shape[0] == 4);
    CHECK(shape.shape[1] == 2);
    CHECK(moe_ffn_shapes(&layer.args, nullptr) == null_pointer);

    Quantised quantised;
    for (const auto& [asked, given] : {std::pair{MOE_UNDEFINED, MOE_FLOAT16}, std::pair{MOE_FLOAT16, MOE_FLOAT16}}) {
        quantised.args.output_dtype = asked;
        REQUIRE(moe_ffn_shapes(&quantised.args, &shape) == MOE_OK);
        CHECK(shape.dtype == given);
    }
    quantised.args.output_dtype = MOE_BFLOAT16;  // the scales are not
    CHECK(moe_ffn_shapes(&quantised.args, &shape) == invalid);
}

TEST_CASE("null pointers") {
    CHECK(moe_ffn_check(nullptr) == null_pointer);
    for (const auto member : {&moe_ffn_args::x, &moe_ffn_args::weight1, &moe_ffn_args::weight2}) {
        Layer layer;
        layer.args.*member = nullptr;
        CHECK(layer.check() == null_pointer);
        CHECK(moe_last_error()->kind == MOE_KIND_MISSING);
    }
    Layer layer;
    layer.args.y = nullptr;
    CHECK(layer.check() == null_pointer);
    CHECK(last_argument() == "y");
    layer.args = layer.make();
    layer.args.activation = nullptr;
    CHECK(layer.check() == null_pointer);
    CHECK(last_argument() == "activation");
    layer.args = layer.make();
    layer.args.bias1 = layer.args.bias2 = nullptr;
    CHECK(layer.run() == MOE_OK);
    CHECK(layer.y == layer.needed);
    for (moe_tensor* without_memory :
         {&layer.t_x, &layer.t_weight1, &layer.t_weight2, &layer.t_tokens, &layer.t_bias1, &layer.t_y}) {
        layer.args = layer.make();
        void* memory = without_memory->data;
        without_memory->data = nullptr;
        CHECK(layer.check() == MOE_OK);
        CHECK(layer.run() == null_pointer);
        without_memory->data = memory;
    }
    layer.t_tokens.data = nullptr;
    layer.args.tokens_known = true;
    CHECK(layer.check() == null_pointer);
}

TEST_CASE("output dtype and shape") {
    Layer layer;
    layer.t_y.dtype = MOE_FLOAT16;
    CHECK(layer.check() == invalid);
    CHECK(moe_last_error()->kind == MOE_KIND_DTYPE);
    CHECK(last_message() == "y: dtype float16, needed float32");
    layer.t_y = tensor(layer.y, MOE_FLOAT32, {2, 4});
    CHECK(layer.check() == invalid);
    CHECK(last_message() == "y: shape (2, 4), needed that of x with the columns of weight2: (4, 2)");
    layer.t_y = tensor(layer.y, MOE_FLOAT32, {2, 2, 2});
    CHECK(layer.check() == invalid);
    CHECK(last_message() == "y: shape (2, 2, 2), needed 2 dimensions as x has");
    // x.shape[:-1], not only as many rows
    layer.t_x = tensor(layer.x, MOE_FLOAT32, {2, 2, 2});
    CHECK(layer.check() == MOE_OK);
    layer.t_y = tensor(layer.y, MOE_FLOAT32, {4, 1, 2});
    CHECK(layer.check() == invalid);

    Quantised quantised;
    quantised.t_y.dtype = MOE_BFLOAT16;
    CHECK(moe_ffn_check(&quantised.args) == invalid);
    CHECK(last_argument() == "y");
}

TEST_CASE("formats") {
    for (const auto member :
         {&Layer::t_x, &Layer::t_weight1, &Layer::t_weight2, &Layer::t_tokens, &Layer::t_bias1, &Layer::t_y}) {
        Layer layer;
        (layer.*member).format = MOE_FORMAT_NZ;
        CHECK(layer.check() == invalid);
        (layer.*member).format = static_cast<moe_format>(4);
        CHECK(layer.check() == invalid);
    }
    Layer layer;
    layer.t_weight1.format = MOE_FORMAT_NZ;
    layer.t_weight1.storage_rank = 5;
    const int64_t storage[] = {3, 1, 1, 16, 8};
    std::copy(std::begin(storage), std::end(storage), layer.t_weight1.storage_shape);
    CHECK(layer.check() == invalid);
    CHECK(last_message() == "weight1: storage format 29, needed 2 (ND)");
    Quantised quantised;
    quantised.t_deq_scale2.format = MOE_FORMAT_NZ;
    CHECK(moe_ffn_check(&quantised.args) == invalid);
    CHECK(last_argument() == "deq_scale2");
}

TEST_CASE("senseless tensors are refused") {
    Layer layer;
    layer.t_x.rank = 9;
    CHECK(layer.check() == invalid);
    layer.t_x.rank = 2;
    layer.t_x.shape[0] = -4;
    CHECK(layer.check() == invalid);
    layer.t_x.shape[0] = INT64_MAX / 2;
    CHECK(layer.check() == invalid);
    layer.t_x.shape[0] = 4;
    layer.t_weight2.dtype = static_cast<moe_dtype>(99);
    CHECK(layer.check() == invalid);
}

TEST_CASE("hidden values that no address space holds") {
    std::vector<float> none(1);
    moe_tensor x = tensor(none, MOE_FLOAT32, {int64_t{1} << 54, 0});
    moe_tensor weight1 = tensor(none, MOE_FLOAT32, {0, int64_t{1} << 54});
    moe_tensor weight2 = tensor(none, MOE_FLOAT32, {int64_t{1} << 54, 0});
    moe_tensor y = tensor(none, MOE_FLOAT32, {int64_t{1} << 54, 0});
    moe_ffn_args args = {};
    args.x = &x;
    args.weight1 = &weight1;
    args.weight2 = &weight2;
    args.activation = "relu";
    args.y = &y;
    moe_plan plan;
    CHECK(moe_ffn_plan(&args, &plan) == invalid);
    CHECK(last_message().find("more than can be addressed") != std::string::npos);
}

TEST_CASE("token tensors") {
    Layer layer;
    layer.t_tokens.dtype = MOE_INT32;
    CHECK(layer.check() == invalid);
    CHECK(moe_last_error()->kind == MOE_KIND_DTYPE);
    layer.t_tokens = tensor(layer.tokens, MOE_INT64, {3, 1});
    CHECK(layer.check() == invalid);
    CHECK(moe_last_error()->kind == MOE_KIND_SHAPE);
    layer.t_tokens = tensor(layer.tokens, MOE_INT64, {0});
    CHECK(layer.check() == invalid);  // the weights have experts
    layer.t_weight1 = tensor(layer.weight1, MOE_FLOAT32, {2, 3});
    layer.t_weight2 = tensor(layer.weight2, MOE_FLOAT32, {3, 2});
    layer.args.bias1 = layer.args.bias2 = nullptr;
    CHECK(layer.run() == MOE_OK);
    CHECK(layer.y[0] == 6);
    CHECK(layer.y[4] != layer.needed[4]);
}

TEST_CASE("bad tokens: known ones at the check, others at the run step, which writes nothing") {
    struct Bad {
        bool index;
        std::vector<int64_t> tokens;
        const char* message;
    };
    for (const Bad& bad : {
             Bad{false, {2, -1, 3}, "expert_tokens: -1 at position 1, needed a count >= 0"},
             Bad{false, {2, 1, 2}, "expert_tokens: 2 at position 2, needed at most 1, the rows of x that are left"},
             Bad{false, {2, 0, 1}, "expert_tokens: 3 rows in total, needed the 4 of x"},
             Bad{false,
                 {INT64_MAX, INT64_MAX, 4},
                 "expert_tokens: 9223372036854775807 at position 0, needed at most 4, "
                 "the rows of x that are left"},
             Bad{false, {0, INT64_MIN, 4}, "expert_tokens: -9223372036854775808 at position 1, needed a count >= 0"},
             Bad{true,
                 {2, 1, 4},
                 "expert_tokens_index: 1 at position 1, needed an end row >= 2, that of the expert "
                 "before"},
             Bad{true, {2, 5, 4}, "expert_tokens_index: 5 at position 1, needed at most 4, the rows of x"},
             Bad{true, {2, 2, 3}, "expert_tokens_index: 3 rows in total, needed the 4 of x"},
         }) {
        Layer layer;
        layer.tokens = bad.tokens;
        layer.t_tokens.data = layer.tokens.data();
        layer.args.tokens_index = bad.index;
        CHECK(layer.check() == MOE_OK);
        CHECK(layer.run() == invalid);
        CHECK(moe_last_error()->kind == MOE_KIND_DATA);
        CHECK(last_message() == bad.message);
        CHECK(layer.y == layer.poison);
        layer.args.tokens_known = true;
        CHECK(layer.check() == invalid);
        CHECK(last_message() == bad.message);
    }
}

TEST_CASE("the run step reads the tokens anew") {
    Layer layer;
    moe_plan plan;
    layer.tokens = {0, 0, 0};
    REQUIRE(moe_ffn_plan(&layer.args, &plan) == MOE_OK);
    layer.tokens = {2, 0, 2};
    std::vector<char> memory(plan.workspace_size);
    CHECK(moe_ffn_run(&layer.args, &plan, memory.data(), plan.workspace_size, nullptr) == MOE_OK);
    CHECK(layer.y == layer.needed);
}

TEST_CASE("bad tokens can be skipped and reported") {
    moe_data_report report;
    moe_run_options options{MOE_DATA_SKIP, MOE_UNDEFINED_KEEP, &report};
    Layer layer;
    CHECK(layer.run(&options) == MOE_OK);
    CHECK(report.count == 0);
    CHECK(layer.y == layer.needed);

    // A negative count gives no rows, a large one gets those that are left, and the last expert none.
    layer.tokens = {-5, 9, 1};
    CHECK(layer.run(&options) == MOE_OK);
    CHECK(report.count == 3);
    CHECK(report.index == 0);
    CHECK(report.value == -5);
    const std::vector<float> all = layer.y;
    layer.tokens = {0, 4, 0};
    CHECK(layer.run() == MOE_OK);
    CHECK(layer.y == all);

    // Rows that no expert owns are undefined.
    layer.y = layer.poison;
    layer.tokens = {2, 0, 1};
    CHECK(layer.run(&options) == MOE_OK);
    CHECK(report.count == 1);
    CHECK(report.value == 3);
    std::vector<float> needed = layer.needed;
    needed[6] = needed[7] = -7.0f;
    CHECK(layer.y == needed);
    options.undefined_policy = MOE_UNDEFINED_ZERO;
    CHECK(layer.run(&options) == MOE_OK);
    needed[6] = needed[7] = 0.0f;
    CHECK(layer.y == needed);

    // An end below the one before it gives its expert no rows.
    layer.args.tokens_index = true;
    layer.tokens = {2, 1, 99};
    CHECK(layer.run(&options) == MOE_OK);
    CHECK(report.count == 2);
    CHECK(std::string(report.argument) == "expert_tokens_index");
    CHECK(layer.y == layer.needed);
}

TEST_CASE("workspace") {
    Layer layer;
    moe_plan plan;
    REQUIRE(moe_ffn_plan(&layer.args, &plan) == MOE_OK);
    CHECK(plan.workspace_size > 0);
    std::vector<char> memory(plan.workspace_size);
    CHECK(moe_ffn_run(&layer.args, &plan, nullptr, plan.workspace_size, nullptr) == null_pointer);
    CHECK(moe_ffn_run(&layer.args, &plan, memory.data(), plan.workspace_size - 1, nullptr) == invalid);
    CHECK(moe_ffn_run(&layer.args, nullptr, memory.data(), plan.workspace_size, nullptr) == null_pointer);
    CHECK(layer.y == layer.poison);
    CHECK(moe_ffn_run(&layer.args, &plan, memory.data(), plan.workspace_size, nullptr) == MOE_OK);
    Quantised other;
    CHECK(moe_ffn_run(&other.args, &plan, memory.data(), plan.workspace_size, nullptr) == invalid);

    // A plan made under one instruction set serves another.
    const std::string limit = moe_get_isa_limit();
    REQUIRE(moe_set_isa_limit("baseline") == MOE_OK);
    layer.y = layer.poison;
    CHECK(moe_ffn_run(&layer.args, &plan, memory.data(), plan.workspace_size, nullptr) == MOE_OK);
    CHECK(layer.y == layer.needed);
    REQUIRE(moe_set_isa_limit(limit.c_str()) == MOE_OK);
}

TEST_CASE("strided output and inputs") {
    Layer layer;
    std::vector<float> wide(16, -7.0f);
    layer.t_y.data = wide.data();
    layer.t_y.stride[0] = 4 * sizeof(float);
    layer.t_y.stride[1] = 2 * sizeof(float);
    std::vector<float> columns{1, 3, -1, 2, 2, 4, 1, -2};  // x transposed
    layer.t_x.data = columns.data();
    layer.t_x.stride[0] = sizeof(float);
    layer.t_x.stride[1] = 4 * sizeof(float);
    std::vector<int64_t> tokens{2, -1, 0, -1, 2, -1};
    layer.t_tokens.data = tokens.data();
    layer.t_tokens.stride[0] = 2 * sizeof(int64_t);
    REQUIRE(layer.run() == MOE_OK);
    for (size_t i = 0; i < wide.size(); ++i) CHECK(wide[i] == (i % 2 == 0 ? layer.needed[i / 2] : -7.0f));
}

TEST_CASE("attributes") {
    Layer layer;
    layer.args.inner_precise = 2;
    CHECK(layer.check() == MOE_ERROR_INNER_NULL);
    layer.t_x = tensor(layer.x, MOE_FLOAT32, {0, 2});
    layer.t_y = tensor(layer.y, MOE_FLOAT32, {0, 2});
    CHECK(layer.check() == MOE_OK);  // not looked at for an empty x
    layer.tokens = {0, 0, 0};
    CHECK(layer.run() == MOE_OK);
    CHECK(layer.y == layer.poison);
}

TEST_CASE("limits") {
    const moe_limits before = moe_set_limits(MOE_LIMITS_ATLAS_A2);
    std::vector<int8_t> none(1);
    std::vector<int64_t> tokens(1);
    moe_tensor x = tensor(none, MOE_INT8, {2147483616, 1});
    moe_tensor y = tensor(none, MOE_FLOAT16, {2147483616, 1});
    Quantised quantised;
    quantised.args.x = &x;
    quantised.args.y = &y;
    quantised.t_weight1 = tensor(quantised.weight1, MOE_INT8, {1, 2});
    quantised.t_weight2 = tensor(quantised.weight2, MOE_INT8, {2, 1});
    quantised.t_deq_scale2 = tensor(quantised.deq_scale2, MOE_FLOAT32, {1});
    CHECK(moe_ffn_check(&quantised.args) == MOE_OK);
    x.shape[0] = y.shape[0] = 2147483617;
    CHECK(moe_ffn_check(&quantised.args) == MOE_ERROR_INNER_NULL);
    CHECK(last_message() == "x: 2147483617 rows, needed at most 2147483616");
    moe_set_limits(MOE_LIMITS_NONE);
    CHECK(moe_ffn_check(&quantised.args) == MOE_OK);
    moe_set_limits(before);
}

TEST_CASE("int4 weights per group") {
    const std::vector<int> codes{1, -8, 7, 3, -2, 5, 4, 0};
    // x is the identity and relu cuts negative values: an offset of 16 keeps all of them.
    Int4 call(4, 2, 2, codes, {.5f, .25f, 2, .125f}, {1, 8, 2, -1});
    CHECK(call.result() == std::vector<float>{1, 0, 4, 2.75f, 0, .5f, 12, 0});
    // The document's numbers, positive ones.
    Int4 document(4, 2, 2, codes, {.5f, .25f, 2, .125f}, {1, 0, 0, -1});
    CHECK(document.result() == std::vector<float>{1, 0, 4, .75f, 0, .5f, 8, 0});
    // and the negative ones, through weights of the other sign
    Int4 negated(4, 2, 2, codes, {-.5f, -.25f, -2, -.125f}, {1, 0, 0, -1});
    CHECK(negated.result() == std::vector<float>{0, 2, 0, 0, 4, 0, 0, .125f});
}

TEST_CASE("int4 weights: one group, and one per row") {
    const std::vector<int> codes{1, -8, 7, 3, -2, 5, 4, 0};
    Int4 one(4, 2, 1, codes, {.5f, .25f}, {8, 8});
    CHECK(one.result() == std::vector<float>{4.5f, 0, 7.5f, 2.75f, 3, 3.25f, 6, 2});
    Int4 per_row(4, 2, 4, codes, {1, 2, 3, 4, 5, 6, 7, 8}, {8, 8, 8, 8, 8, 8, 8, 8});
    CHECK(per_row.result() == std::vector<float>{9, 0, 45, 44, 30, 78, 84, 64});
    // The same without groups: one dimension less.
    Int4 per_column(4, 2, 1, codes, {.5f, .25f}, {8, 8});
    for (moe_tensor* it : {&per_column.t_scale1, &per_column.t_offset1, &per_column.t_scale2, &per_column.t_offset2}) {
        const int64_t shape[] = {2};
        *it = moe_tensor_make(it->data, MOE_FLOAT16, 1, shape);
    }
    CHECK(per_column.result() == one.result());
}

TEST_CASE("int4 equals int8 of the same codes") {
    std::mt19937 engine(1);
    for (const int64_t rows : {1, 3, 4, 40}) {
        constexpr int64_t k = 30, n = 70;
        std::vector<int> codes1(k * n), codes2(n * n);
        for (int& code : codes1) code = static_cast<int>(engine() % 16) - 8;
        for (int& code : codes2) code = static_cast<int>(engine() % 16) - 8;
        std::vector<unsigned char> packed1 = Int4::packed(codes1), packed2 = Int4::packed(codes2);
        std::vector<int8_t> bytes1(codes1.begin(), codes1.end()), bytes2(codes2.begin(), codes2.end());
        std::vector<float> values(static_cast<size_t>(rows * k)), scales(n);
        for (float& value : values) value = static_cast<float>(engine() % 1000) / 500.0f - 1.0f;
        for (float& value : scales) value = static_cast<float>(engine() % 1000) / 50000.0f;
        std::vector<uint16_t> x = f16(values), scale = f16(scales), offset(n, moe::narrow_f16(0.3f));
        std::vector<uint16_t> y4(static_cast<size_t>(rows * n)), y8(y4.size());
        moe_tensor t_x = tensor(x, MOE_FLOAT16, {rows, k});
        moe_tensor t_scale = tensor(scale, MOE_FLOAT16, {n}), t_offset = tensor(offset, MOE_FLOAT16, {n});
        moe_tensor w4[] = {tensor(packed1, MOE_INT4, {k, n}), tensor(packed2, MOE_INT4, {n, n})};
        moe_tensor w8[] = {tensor(bytes1, MOE_INT8, {k, n}), tensor(bytes2, MOE_INT8, {n, n})};
        moe_tensor t_y4 = tensor(y4, MOE_FLOAT16, {rows, n}), t_y8 = tensor(y8, MOE_FLOAT16, {rows, n});
        moe_ffn_args args = {};
        args.x = &t_x;
        args.antiquant_scale1 = args.antiquant_scale2 = &t_scale;
        args.antiquant_offset1 = args.antiquant_offset2 = &t_offset;
        args.activation = "gelu";
        for (const auto& [w, y] : {std::pair{w4, &t_y4}, std::pair{w8, &t_y8}}) {
            args.weight1 = &w[0];
            args.weight2 = &w[1];
            args.y = y;
            REQUIRE(plan_and_run(args, moe_ffn_plan, moe_ffn_run) == MOE_OK);
        }
        CHECK(y4 == y8);
        CHECK(y4[0] != 0);
    }
}

TEST_CASE("int4 groups of experts") {
    // Two experts with other codes, scales and offsets; bfloat16; 3 groups of 2 rows.
    constexpr int64_t experts = 2, k = 6, n = 4, groups = 3;
    std::mt19937 engine(2);
    std::vector<int> codes(experts * k * n), identity(experts * n * n, 0);
    for (int& code : codes) code = static_cast<int>(engine() % 16) - 8;
    for (size_t e = 0; e < experts; ++e)
        for (size_t i = 0; i < n; ++i) identity[e * n * n + i * (n + 1)] = 1;
    std::vector<unsigned char> weight1 = Int4::packed(codes), weight2 = Int4::packed(identity);
    const auto bf16 = [&](size_t count, float low, float high) {
        std::vector<uint16_t> out(count);
        for (uint16_t& value : out)
            value = moe::narrow_bf16(low + (high - low) * static_cast<float>(engine() % 997) / 997.0f);
        return out;
    };
    std::vector<uint16_t> x(2 * k * k, 0), scale1 = bf16(experts * groups * n, .1f, 2),
                                           offset1 = bf16(experts * groups * n, 8, 20);
    for (size_t row = 0; row < 2 * k; ++row) x[row * k + row % k] = moe::narrow_bf16(1.0f);
    std::vector<uint16_t> scale2(experts * 2 * n, moe::narrow_bf16(1)), offset2(experts * 2 * n, 0);
    std::vector<uint16_t> y(2 * k * n);
    std::vector<int64_t> tokens{k, k};
    moe_tensor t_x = tensor(x, MOE_BFLOAT16, {2 * k, k}), t_y = tensor(y, MOE_BFLOAT16, {2 * k, n});
    moe_tensor t_weight1 = tensor(weight1, MOE_INT4, {experts, k, n});
    moe_tensor t_weight2 = tensor(weight2, MOE_INT4, {experts, n, n});
    moe_tensor t_scale1 = tensor(scale1, MOE_BFLOAT16, {experts, groups, n});
    moe_tensor t_offset1 = tensor(offset1, MOE_BFLOAT16, {experts, groups, n});
    moe_tensor t_scale2 = tensor(scale2, MOE_BFLOAT16, {experts, 2, n});
    moe_tensor t_offset2 = tensor(offset2, MOE_BFLOAT16, {experts, 2, n});
    moe_tensor t_tokens = tensor(tokens, MOE_INT64, {experts});
    moe_ffn_args args = {};
    args.x = &t_x;
    args.weight1 = &t_weight1;
    args.weight2 = &t_weight2;
    args.expert_tokens = &t_tokens;
    args.antiquant_scale1 = &t_scale1;
    args.antiquant_offset1 = &t_offset1;
    args.antiquant_scale2 = &t_scale2;
    args.antiquant_offset2 = &t_offset2;
    args.activation = "relu";
    args.y = &t_y;
    REQUIRE(plan_and_run(args, moe_ffn_plan, moe_ffn_run) == MOE_OK);
    for (size_t e = 0; e < experts; ++e)
        for (size_t p = 0; p < k; ++p)
            for (size_t j = 0; j < n; ++j) {
                const size_t group = (e * groups + p / 2) * n + j;
                const float sum = static_cast<float>(codes[(e * k + p) * n + j]) + moe::widen_bf16(offset1[group]);
                const uint16_t needed = moe::narrow_bf16(sum * moe::widen_bf16(scale1[group]));
                CHECK(y[(e * k + p) * n + j] == needed);
            }

    t_scale1.shape[1] = t_offset1.shape[1] = 4;
    CHECK(moe_ffn_check(&args) == invalid);
    CHECK(last_message() == "antiquant_scale1: 4 groups, needed a divisor of k = 6");
    t_scale1.shape[1] = t_offset1.shape[1] = 0;
    CHECK(moe_ffn_check(&args) == invalid);
    t_scale1.shape[1] = 3;
    CHECK(moe_ffn_check(&args) == invalid);
    CHECK(last_argument() == "antiquant_offset1");
}

TEST_CASE("int4 weights that are refused") {
    const std::vector<int> codes{1, -8, 7, 3, -2, 5, 4, 0};
    {
        Int4 call(4, 2, 2, codes, {1, 1, 1, 1}, {0, 0, 0, 0});
        call.t_weight2.dtype = MOE_INT8;
        CHECK(moe_ffn_check(&call.args) == invalid);
        CHECK(last_argument() == "weight2");
    }
    {
        Int4 call(4, 2, 2, codes, {1, 1, 1, 1}, {0, 0, 0, 0});
        call.t_weight1.dtype = call.t_weight2.dtype = MOE_INT8;
        CHECK(moe_ffn_check(&call.args) == invalid);
        CHECK(last_message().find("needed int4 weights") != std::string::npos);
    }
    {
        Int4 call(4, 2, 2, codes, {1, 1, 1, 1}, {0, 0, 0, 0});
        call.args.antiquant_offset2 = nullptr;
        CHECK(moe_ffn_check(&call.args) == invalid);
        CHECK(last_message() == "antiquant_offset2: missing, needed with int4 weights");
    }
    {
        Int4 call(4, 2, 2, codes, {1, 1, 1, 1}, {0, 0, 0, 0});
        call.args.antiquant_scale1 = call.args.antiquant_scale2 = nullptr;
        call.args.antiquant_offset1 = call.args.antiquant_offset2 = nullptr;
        CHECK(moe_ffn_check(&call.args) == invalid);
    }
    {
        // An odd number of columns of weight2.
        Int4 call(4, 2, 2, codes, {1, 1, 1, 1}, {0, 0, 0, 0});
        call.t_weight2 = tensor(call.weight2, MOE_INT4, {2, 1});
        call.t_scale2 = tensor(call.scale2, MOE_FLOAT16, {1, 1});
        call.t_offset2 = tensor(call.offset2, MOE_FLOAT16, {1, 1});
        call.t_y = tensor(call.y, MOE_FLOAT16, {4, 1});
        CHECK(moe_ffn_check(&call.args) == invalid);
        CHECK(last_message() == "weight2: 1 columns, needed an even number of int4");
    }
}
