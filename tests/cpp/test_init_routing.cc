// npu_moe_init_routing_v2 through the C API: what Python cannot reach.
#include <doctest/doctest.h>

#include <algorithm>
#include <random>

#include "call.h"

using namespace moe_test;

namespace {

constexpr float untouched = -7.0f;

// Three tokens with two experts each; of six experts 1 to 3 are here, and get entries 0, 3, 5, 4.
struct Routing {
    std::vector<float> x{1, 2, -3, 4, .5, -.25, .125, 1, -8, 6, 7, 5};
    std::vector<int32_t> ids{2, 5, 0, 2, 3, 2};
    std::vector<float> scale{10, 20, 30};
    std::vector<int64_t> range{1, 4};
    std::vector<float> rows = std::vector<float>(24, untouched);
    std::vector<int8_t> codes = std::vector<int8_t>(24, -7);
    std::vector<int32_t> row_idx = std::vector<int32_t>(6, -7);
    std::vector<int64_t> tokens = std::vector<int64_t>(12, -7);
    std::vector<float> row_scale = std::vector<float>(6, untouched);

    moe_tensor t_x = tensor(x, MOE_FLOAT32, {3, 4});
    moe_tensor t_ids = tensor(ids, MOE_INT32, {3, 2});
    moe_tensor t_scale = tensor(scale, MOE_FLOAT32, {3});
    moe_tensor t_rows = tensor(rows, MOE_FLOAT32, {6, 4});
    moe_tensor t_row_idx = tensor(row_idx, MOE_INT32, {6});
    moe_tensor t_tokens = tensor(tokens, MOE_INT64, {3});
    moe_tensor t_row_scale = tensor(row_scale, MOE_FLOAT32, {6});
    moe_init_routing_v2_args args{};

    Routing() {
        args.x = &t_x;
        args.expert_idx = &t_ids;
        args.scale = &t_scale;
        args.active_num = -1;
        args.expert_capacity = -1;
        args.expert_num = 6;
        args.expert_tokens_num_type = 1;
        args.expert_tokens_num_flag = true;
        args.quant_mode = -1;
        args.active_expert_range = range.data();
        args.active_expert_range_length = 2;
        args.expanded_x = &t_rows;
        args.expanded_row_idx = &t_row_idx;
        args.expert_token_cumsum_or_count = &t_tokens;
        args.expanded_scale = &t_row_scale;
    }

    // Dynamic int8 without factors.
    void quantise() {
        args.quant_mode = 1;
        args.scale = nullptr;
        t_rows = tensor(codes, MOE_INT8, {6, 4});
    }

    // All experts, of which each keeps two entries.
    void pad() {
        args.drop_pad_mode = 1;
        args.expert_capacity = 2;
        args.active_expert_range_length = 0;
        rows.assign(48, untouched);
        row_scale.assign(12, untouched);
        t_rows = tensor(rows, MOE_FLOAT32, {6, 2, 4});
        t_tokens = tensor(tokens, MOE_INT64, {6});
        t_row_scale = tensor(row_scale, MOE_FLOAT32, {12});
    }

    moe_status check() { return moe_init_routing_v2_check(&args); }
    moe_status run(const moe_run_options* options = nullptr) {
        return plan_and_run(args, moe_init_routing_v2_plan, moe_init_routing_v2_run, options);
    }
};

template <class T>
std::vector<T> first(const std::vector<T>& values, size_t count) {
    return {values.begin(), values.begin() + static_cast<std::ptrdiff_t>(count)};
}

// All from `begin` on are what they were.
template <class T>
bool kept(const std::vector<T>& values, size_t begin) {
    return std::all_of(values.begin() + static_cast<std::ptrdiff_t>(begin), values.end(),
                       [](T value) { return value == static_cast<T>(-7); });
}

constexpr moe_run_options zeroing{MOE_DATA_REJECT, MOE_UNDEFINED_ZERO, nullptr};

}  // namespace

TEST_CASE("init_routing: worked numbers; undefined rows keep their contents") {
    Routing routing;
    REQUIRE(routing.run() == MOE_OK);
    CHECK(first(routing.rows, 16) == std::vector<float>{1, 2, -3, 4, .5, -.25, .125, 1, -8, 6, 7, 5, -8, 6, 7, 5});
    CHECK(kept(routing.rows, 16));
    CHECK(routing.row_idx == std::vector<int32_t>{0, -1, -1, 1, 3, 2});
    CHECK(first(routing.tokens, 3) == std::vector<int64_t>{0, 3, 1});
    CHECK(kept(routing.tokens, 3));
    CHECK(first(routing.row_scale, 4) == std::vector<float>{10, 20, 30, 30});
    CHECK(kept(routing.row_scale, 4));
}

TEST_CASE("init_routing: undefined rows become zero when asked for") {
    Routing routing;
    REQUIRE(routing.run(&zeroing) == MOE_OK);
    CHECK(std::vector<float>(routing.rows.begin() + 16, routing.rows.end()) == std::vector<float>(8, 0.0f));
    CHECK(routing.row_scale == std::vector<float>{10, 20, 30, 30, 0, 0});
}

TEST_CASE("init_routing: the scatter tail and the rows behind pairs are always written") {
    Routing routing;
    routing.args.row_idx_type = 1;
    routing.args.expert_tokens_num_type = 2;
    routing.t_tokens = tensor(routing.tokens, MOE_INT64, {6, 2});
    REQUIRE(routing.run() == MOE_OK);
    CHECK(routing.row_idx == std::vector<int32_t>{0, 3, 5, 4, 1, 2});
    CHECK(routing.tokens == std::vector<int64_t>{2, 3, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0});
}

TEST_CASE("init_routing: counts that are not wanted are not looked at") {
    Routing routing;
    routing.args.expert_tokens_num_flag = false;
    routing.t_tokens = tensor(routing.tokens, MOE_INT64, {3, 2, 2});
    REQUIRE(routing.run() == MOE_OK);
    CHECK(kept(routing.tokens, 0));
    routing.t_tokens.data = nullptr;
    REQUIRE(routing.run() == MOE_OK);
    CHECK(routing.run(&zeroing) == MOE_ERROR_NULL);
    routing.t_tokens.data = routing.tokens.data();
    REQUIRE(routing.run(&zeroing) == MOE_OK);
    CHECK(routing.tokens == std::vector<int64_t>(12, 0));
}

TEST_CASE("init_routing: an expanded_scale that stays undefined is not looked at") {
    for (const int64_t quant_mode : {-1, 0}) {
        Routing routing;
        std::vector<float> one{1};
        moe_tensor t_one = tensor(one, MOE_FLOAT32, {1});
        if (quant_mode == 0) {
            routing.quantise();
            routing.args.offset = &t_one;
        }
        routing.args.quant_mode = quant_mode;
        routing.args.scale = quant_mode == 0 ? &t_one : nullptr;
        std::vector<int8_t> other(5, -7);
        routing.t_row_scale = tensor(other, MOE_INT8, {5});
        REQUIRE(routing.run() == MOE_OK);
        CHECK(kept(other, 0));
        REQUIRE(routing.run(&zeroing) == MOE_OK);
        CHECK(other == std::vector<int8_t>(5, 0));
        routing.t_row_scale.data = nullptr;
        CHECK(routing.run() == MOE_OK);
    }
}

TEST_CASE("init_routing: dynamic quantisation") {
    Routing routing;
    routing.quantise();
    REQUIRE(routing.run() == MOE_OK);
    CHECK(first(routing.codes, 16) ==
          std::vector<int8_t>{32, 64, -95, 127, 64, -32, 16, 127, -127, 95, 111, 79, -127, 95, 111, 79});
    CHECK(kept(routing.codes, 16));
    CHECK(first(routing.row_scale, 4) == std::vector<float>{4 / 127.f, 1 / 127.f, 8 / 127.f, 8 / 127.f});
}

TEST_CASE("init_routing: empty slots of padded rows are zero whatever the policy") {
    Routing routing;
    routing.pad();
    REQUIRE(routing.run() == MOE_OK);
    CHECK(routing.row_idx == std::vector<int32_t>{4, 10, 0, 5, 6, -1});
    CHECK(first(routing.tokens, 6) == std::vector<int64_t>{1, 0, 3, 1, 0, 1});
    CHECK(routing.row_scale == std::vector<float>{20, 0, 0, 0, 10, 20, 30, 0, 0, 0, 10, 0});
    CHECK(first(routing.rows, 8) == std::vector<float>{.5, -.25, .125, 1, 0, 0, 0, 0});
    CHECK(std::none_of(routing.rows.begin(), routing.rows.end(), [](float value) { return value == untouched; }));

    // Without a scale to copy along expanded_scale stays undefined as a whole.
    routing.pad();
    routing.args.scale = nullptr;
    REQUIRE(routing.run() == MOE_OK);
    CHECK(kept(routing.row_scale, 0));
}

TEST_CASE("init_routing: shapes need no outputs") {
    Routing routing;
    routing.args.expanded_x = routing.args.expanded_row_idx = nullptr;
    routing.args.expert_token_cumsum_or_count = routing.args.expanded_scale = nullptr;
    moe_tensor out[4];
    const auto is = [&](int i, moe_dtype dtype, std::vector<int64_t> shape) {
        return out[i].dtype == dtype && std::vector<int64_t>(out[i].shape, out[i].shape + out[i].rank) == shape;
    };
    REQUIRE(moe_init_routing_v2_shapes(&routing.args, out) == MOE_OK);
    CHECK(is(0, MOE_FLOAT32, {6, 4}));
    CHECK(is(1, MOE_INT32, {6}));
    CHECK(is(2, MOE_INT64, {3}));
    CHECK(is(3, MOE_FLOAT32, {6}));
    routing.args.expert_tokens_num_type = 2;
    routing.args.active_num = 5;
    routing.quantise();
    REQUIRE(moe_init_routing_v2_shapes(&routing.args, out) == MOE_OK);
    CHECK(is(0, MOE_INT8, {5, 4}));
    CHECK(is(1, MOE_INT32, {6}));
    CHECK(is(2, MOE_INT64, {6, 2}));
    CHECK(is(3, MOE_FLOAT32, {5}));
    routing.pad();
    routing.args.expert_tokens_num_type = 1;
    REQUIRE(moe_init_routing_v2_shapes(&routing.args, out) == MOE_OK);
    CHECK(is(0, MOE_INT8, {6, 2, 4}));
    CHECK(is(1, MOE_INT32, {6}));
    CHECK(is(2, MOE_INT64, {6}));
    CHECK(is(3, MOE_FLOAT32, {12}));
    CHECK(moe_init_routing_v2_shapes(&routing.args, nullptr) == MOE_ERROR_NULL);
}

TEST_CASE("init_routing: null pointers") {
    CHECK(moe_init_routing_v2_check(nullptr) == MOE_ERROR_NULL);
    using Args = moe_init_routing_v2_args;
    for (const auto member : {&Args::x, &Args::expert_idx}) {
        Routing routing;
        routing.args.*member = nullptr;
        CHECK(routing.check() == MOE_ERROR_NULL);
    }
    for (const auto member :
         {&Args::expanded_x, &Args::expanded_row_idx, &Args::expert_token_cumsum_or_count, &Args::expanded_scale}) {
        Routing routing;
        routing.args.expert_tokens_num_flag = false;
        routing.args.scale = nullptr;
        routing.args.*member = nullptr;
        CHECK(routing.check() == MOE_ERROR_NULL);
    }
    Routing routing;
    routing.args.active_expert_range = nullptr;
    CHECK(routing.check() == MOE_ERROR_NULL);
    routing.args.active_expert_range_length = 0;
    routing.t_tokens.shape[0] = 6;
    CHECK(routing.check() == MOE_OK);
    routing.t_x.data = nullptr;
    CHECK(routing.check() == MOE_OK);
    CHECK(routing.run() == MOE_ERROR_NULL);
}

TEST_CASE("init_routing: output dtypes come before attributes, output shapes after") {
    using Tensor = moe_tensor Routing::*;
    const auto refused = [](Tensor output, moe_dtype dtype, bool quantised) {
        Routing routing;
        if (quantised) routing.quantise();
        routing.args.expert_num = -1;
        (routing.*output).dtype = dtype;
        return routing.check() == MOE_ERROR_INVALID && moe_last_error()->kind == MOE_KIND_DTYPE;
    };
    CHECK(refused(&Routing::t_rows, MOE_INT8, false));
    CHECK(refused(&Routing::t_rows, MOE_FLOAT16, false));
    CHECK(refused(&Routing::t_rows, MOE_FLOAT32, true));
    CHECK(refused(&Routing::t_row_idx, MOE_INT64, false));
    CHECK(refused(&Routing::t_tokens, MOE_FLOAT32, false));
    CHECK(refused(&Routing::t_row_scale, MOE_FLOAT16, false));
    CHECK(refused(&Routing::t_row_scale, MOE_FLOAT64, true));

    const auto misshapen = [](Tensor output, int d, int64_t size) {
        Routing routing;
        (routing.*output).shape[d] = size;
        return routing.check() == MOE_ERROR_TILING && moe_last_error()->kind == MOE_KIND_SHAPE;
    };
    CHECK(misshapen(&Routing::t_rows, 0, 5));
    CHECK(misshapen(&Routing::t_rows, 1, 5));
    CHECK(misshapen(&Routing::t_row_idx, 0, 4));
    CHECK(misshapen(&Routing::t_tokens, 0, 6));
    CHECK(misshapen(&Routing::t_row_scale, 0, 3));
    Routing routing;
    routing.args.expert_tokens_num_type = 2;
    CHECK(routing.check() == MOE_ERROR_TILING);
    CHECK(last_message() == "expert_token_cumsum_or_count: shape (3,), needed (experts, 2) = (6, 2)");
    routing.pad();
    routing.args.expert_tokens_num_type = 1;
    CHECK(routing.check() == MOE_OK);
    routing.t_rows = tensor(routing.rows, MOE_FLOAT32, {12, 4});
    CHECK(routing.check() == MOE_ERROR_TILING);
}

TEST_CASE("init_routing: an unknown quantisation is named before the dtype that it would need") {
    Routing routing;
    routing.args.quant_mode = 2;
    routing.t_rows.dtype = MOE_UINT8;
    CHECK(routing.check() == MOE_ERROR_TILING);
    CHECK(last_message() == "quant_mode: 2 is not supported yet, needed -1, 0 or 1");
}

TEST_CASE("init_routing: a run with counts of tokens that no array could hold is refused") {
    Routing routing;
    routing.t_x.shape[0] = routing.t_ids.shape[0] = INT64_C(1) << 40;
    routing.t_ids.shape[1] = INT64_C(1) << 10;
    CHECK(routing.check() == MOE_ERROR_TILING);
    CHECK(std::string(moe_last_error()->argument) == "expert_idx");
}

TEST_CASE("init_routing: workspace") {
    Routing routing;
    moe_plan plan;
    REQUIRE(moe_init_routing_v2_plan(&routing.args, &plan) == MOE_OK);
    CHECK(plan.piece_count == 3);
    std::vector<char> memory(plan.workspace_size);
    const auto run = [&](const moe_plan* with, void* workspace, uint64_t size) {
        return moe_init_routing_v2_run(&routing.args, with, workspace, size, nullptr);
    };
    CHECK(run(&plan, nullptr, plan.workspace_size) == MOE_ERROR_NULL);
    CHECK(run(&plan, memory.data(), plan.workspace_size - 1) == MOE_ERROR_INVALID);
    CHECK(run(nullptr, memory.data(), plan.workspace_size) == MOE_ERROR_NULL);
    CHECK(kept(routing.rows, 0));
    CHECK(kept(routing.row_idx, 0));
    REQUIRE(run(&plan, memory.data(), plan.workspace_size) == MOE_OK);
    routing.ids = {9, 9, 9, 9, 9, 1};
    REQUIRE(run(&plan, memory.data(), plan.workspace_size) == MOE_OK);
    CHECK(routing.row_idx == std::vector<int32_t>{-1, -1, -1, -1, -1, 0});
}

TEST_CASE("init_routing: strided outputs") {
    Routing routing;
    std::vector<float> wide(48, untouched);
    std::vector<int32_t> wide_idx(12, -7);
    routing.t_rows.data = wide.data();
    routing.t_rows.stride[0] = 8 * sizeof(float);
    routing.t_rows.stride[1] = 2 * sizeof(float);
    routing.t_row_idx.data = wide_idx.data() + 11;
    routing.t_row_idx.stride[0] = -2 * static_cast<int64_t>(sizeof(int32_t));
    REQUIRE(routing.run() == MOE_OK);
    Routing plain;
    REQUIRE(plain.run() == MOE_OK);
    for (size_t i = 0; i < wide.size(); ++i) CHECK(wide[i] == (i % 2 == 0 ? plain.rows[i / 2] : untouched));
    for (size_t i = 0; i < wide_idx.size(); ++i) CHECK(wide_idx[11 - i] == (i % 2 == 0 ? plain.row_idx[i / 2] : -7));
}

TEST_CASE("init_routing: any ids are harmless") {
    std::mt19937 engine(1);
    for (const int64_t row_idx_type : {0, 1}) {
        for (int repeat = 0; repeat < 200; ++repeat) {
            Routing routing;
            routing.args.row_idx_type = row_idx_type;
            for (int32_t& id : routing.ids) id = static_cast<int32_t>(engine() >> (engine() % 32));
            REQUIRE(routing.run() == MOE_OK);
            if (row_idx_type == 1) std::sort(routing.row_idx.begin(), routing.row_idx.end());
            const int32_t lowest = row_idx_type == 1 ? 0 : -1;
            for (const int32_t value : routing.row_idx) CHECK((value >= lowest && value < 6));
            if (row_idx_type == 1) CHECK(routing.row_idx == std::vector<int32_t>{0, 1, 2, 3, 4, 5});
        }
    }
}
