// npu_moe_finalize_routing through the C API: what Python cannot reach.
#include <doctest/doctest.h>

#include "call.h"

using namespace moe_test;

namespace {

// Two tokens, two experts each, three columns; mode 2.
struct Layer {
    std::vector<float> rows{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    std::vector<float> skip1{.5, .5, .5, 1, 1, 1};
    std::vector<float> skip2{10, 20, 30, 40, 50, 60};
    std::vector<float> bias{.25, 0, 0, 0, .5, 0, 0, 0, 1};
    std::vector<float> scales{.5, 2, 1, -1};
    std::vector<int32_t> index{3, 1, 0, 2};
    std::vector<int32_t> expert{0, 2, 1, 2};
    std::vector<float> out = std::vector<float>(6, -7.0f);
    const std::vector<float> needed{23.625, 36, 50.5, 35, 45.5, 54};

    moe_tensor t_rows = tensor(rows, MOE_FLOAT32, {4, 3});
    moe_tensor t_skip1 = tensor(skip1, MOE_FLOAT32, {2, 3});
    moe_tensor t_skip2 = tensor(skip2, MOE_FLOAT32, {2, 3});
    moe_tensor t_bias = tensor(bias, MOE_FLOAT32, {3, 3});
    moe_tensor t_scales = tensor(scales, MOE_FLOAT32, {2, 2});
    moe_tensor t_index = tensor(index, MOE_INT32, {4});
    moe_tensor t_expert = tensor(expert, MOE_INT32, {2, 2});
    moe_tensor t_out = tensor(out, MOE_FLOAT32, {2, 3});
    moe_finalize_routing_args args{&t_rows, &t_skip1, &t_skip2, &t_bias, &t_scales, &t_index, &t_expert, 2, 1, &t_out};

    moe_status check() { return moe_finalize_routing_check(&args); }
    moe_status run(const moe_run_options* options = nullptr) {
        return plan_and_run(args, moe_finalize_routing_plan, moe_finalize_routing_run, options);
    }
};

}  // namespace

TEST_CASE("worked number") {
    Layer layer;
    CHECK(layer.run() == MOE_OK);
    CHECK(layer.out == layer.needed);
}

TEST_CASE("shapes need no output") {
    Layer layer;
    layer.args.out = nullptr;
    moe_tensor shape;
    REQUIRE(moe_finalize_routing_shapes(&layer.args, &shape) == MOE_OK);
    CHECK(shape.dtype == MOE_FLOAT32);
    CHECK(shape.rank == 2);
    CHECK(shape.shape[0] == 2);
    CHECK(shape.shape[1] == 3);
    CHECK(moe_finalize_routing_shapes(&layer.args, nullptr) == MOE_ERROR_NULL);
}

TEST_CASE("null pointers") {
    CHECK(moe_finalize_routing_check(nullptr) == MOE_ERROR_NULL);
    for (const auto member :
         {&moe_finalize_routing_args::expanded_permuted_rows, &moe_finalize_routing_args::expanded_src_to_dst_row}) {
        Layer layer;
        layer.args.*member = nullptr;
        CHECK(layer.check() == MOE_ERROR_NULL);
    }
    Layer layer;
    layer.args.out = nullptr;
    CHECK(layer.check() == MOE_ERROR_NULL);
    CHECK(std::string(moe_last_error()->argument) == "out");
    layer.args.out = &layer.t_out;
    layer.t_rows.data = nullptr;
    CHECK(layer.check() == MOE_OK);
    CHECK(layer.run() == MOE_ERROR_NULL);
}

TEST_CASE("output dtype and shape") {
    Layer layer;
    layer.t_out.dtype = MOE_FLOAT16;
    CHECK(layer.check() == MOE_ERROR_INVALID);
    CHECK(moe_last_error()->kind == MOE_KIND_DTYPE);
    layer.t_out = tensor(layer.out, MOE_FLOAT32, {3, 2});
    CHECK(layer.check() == MOE_ERROR_TILING);
    CHECK(last_message() == "out: shape (3, 2), needed (tokens, hidden) = (2, 3)");
}

TEST_CASE("senseless tensors are refused") {
    Layer layer;
    layer.t_rows.rank = 9;
    CHECK(layer.check() == MOE_ERROR_INVALID);
    layer.t_rows.rank = -1;
    CHECK(layer.check() == MOE_ERROR_INVALID);
    layer.t_rows.rank = 2;
    layer.t_rows.shape[0] = -4;
    CHECK(layer.check() == MOE_ERROR_INVALID);
    layer.t_rows.shape[0] = INT64_MAX / 2;
    CHECK(layer.check() == MOE_ERROR_INVALID);
    layer.t_rows.shape[0] = 4;
    layer.t_rows.dtype = static_cast<moe_dtype>(99);
    CHECK(layer.check() == MOE_ERROR_INVALID);
    layer.t_rows.dtype = MOE_FLOAT32;
    layer.t_rows.format = static_cast<moe_format>(3);
    CHECK(layer.check() == MOE_ERROR_INVALID);
}

TEST_CASE("plain tensors are not read from FRACTAL_NZ storage") {
    Layer layer;
    std::vector<float> tiles(1 * 1 * 16 * 8);
    const int64_t shape[] = {4, 3};
    REQUIRE(moe_nz_make(tiles.data(), MOE_FLOAT32, 2, shape, 8, &layer.t_rows) == MOE_OK);
    CHECK(layer.check() == MOE_ERROR_INVALID);
    CHECK(last_message() == "expanded_permuted_rows: storage format 29, needed 2 (ND)");
    Layer other;
    const int64_t out_shape[] = {2, 3};
    REQUIRE(moe_nz_make(tiles.data(), MOE_FLOAT32, 2, out_shape, 8, &other.t_out) == MOE_OK);
    CHECK(other.check() == MOE_ERROR_INVALID);
    CHECK(std::string(moe_last_error()->argument) == "out");
}

TEST_CASE("workspace") {
    Layer layer;
    layer.t_rows.stride[0] = -12;  // rows in reverse order, from the last
    layer.t_rows.data = layer.rows.data() + 9;
    moe_plan plan;
    REQUIRE(moe_finalize_routing_plan(&layer.args, &plan) == MOE_OK);
    CHECK(plan.workspace_size > 0);
    REQUIRE(plan.piece_count == 2);
    CHECK(std::string(plan.pieces[0].name) == "expanded_permuted_rows");
    CHECK(std::string(plan.pieces[1].name) == "terms");
    CHECK(moe_finalize_routing_run(&layer.args, &plan, nullptr, plan.workspace_size, nullptr) == MOE_ERROR_NULL);
    std::vector<char> memory(plan.workspace_size);
    CHECK(moe_finalize_routing_run(&layer.args, &plan, memory.data(), plan.workspace_size - 1, nullptr) ==
          MOE_ERROR_INVALID);
    CHECK(moe_finalize_routing_run(&layer.args, nullptr, memory.data(), plan.workspace_size, nullptr) ==
          MOE_ERROR_NULL);
    CHECK(layer.out == std::vector<float>(6, -7.0f));
    layer.index = {0, 2, 3, 1};
    CHECK(moe_finalize_routing_run(&layer.args, &plan, memory.data(), plan.workspace_size, nullptr) == MOE_OK);
    CHECK(layer.out == layer.needed);
    Layer other;
    CHECK(moe_finalize_routing_run(&other.args, &plan, memory.data(), plan.workspace_size, nullptr) ==
          MOE_ERROR_INVALID);
}

TEST_CASE("a plan that no plan step wrote") {
    Layer layer;
    for (const int32_t threads : {0, -1, INT32_MIN, 1025, INT32_MAX}) {
        moe_plan plan = {};
        plan.threads = threads;
        CHECK(moe_finalize_routing_run(&layer.args, &plan, nullptr, 0, nullptr) == MOE_ERROR_INVALID);
        CHECK(std::string(moe_last_error()->argument) == "plan");
        CHECK(moe_last_error()->kind == MOE_KIND_RUNTIME);
    }
    CHECK(layer.out == std::vector<float>(6, -7.0f));
}

TEST_CASE("numbers that are no limits enforce nothing") {
    Layer layer;
    std::vector<uint16_t> halves(4, 0x3C00);
    layer.t_scales = tensor(halves, MOE_FLOAT16, {2, 2});
    const moe_limits before = moe_set_limits(MOE_LIMITS_ATLAS_A2);
    CHECK(layer.check() == MOE_ERROR_INVALID);
    for (const int number : {3, 7, 1 << 30, INT32_MAX}) {
        CHECK(moe_set_limits(static_cast<moe_limits>(number)) != MOE_LIMITS_SEED);
        CHECK(layer.check() == MOE_OK);
        CHECK(moe_set_limits(MOE_LIMITS_NONE) == MOE_LIMITS_NONE);
    }
    moe_set_limits(before);
}

TEST_CASE("strided output") {
    Layer layer;
    std::vector<float> wide(12, -7.0f);
    layer.t_out.data = wide.data();
    layer.t_out.stride[0] = 6 * sizeof(float);
    layer.t_out.stride[1] = 2 * sizeof(float);
    REQUIRE(layer.run() == MOE_OK);
    for (size_t i = 0; i < wide.size(); ++i) CHECK(wide[i] == (i % 2 == 0 ? layer.needed[i / 2] : -7.0f));
}

TEST_CASE("bad indices are rejected before anything is written, or skipped and reported") {
    Layer layer;
    layer.index = {3, 4, -1, 2};
    CHECK(layer.run() == MOE_ERROR_INVALID);
    CHECK(moe_last_error()->kind == MOE_KIND_DATA);
    CHECK(last_message() == "expanded_src_to_dst_row: 4 at position 1, needed a row of expanded_permuted_rows");
    CHECK(layer.out == std::vector<float>(6, -7.0f));

    moe_data_report report;
    const moe_run_options options{MOE_DATA_SKIP, MOE_UNDEFINED_KEEP, &report};
    CHECK(layer.run(&options) == MOE_OK);
    CHECK(report.count == 2);
    CHECK(std::string(report.argument) == "expanded_src_to_dst_row");
    CHECK(report.index == 1);
    CHECK(report.value == 4);
    // Token 0 keeps its first term, token 1 its second.
    CHECK(layer.out == std::vector<float>{15.625, 26, 36.5, 34, 43, 51});

    layer.expert[0] = 3;
    CHECK(layer.run(&options) == MOE_OK);
    CHECK(report.count == 3);

    const moe_run_options unknown{static_cast<moe_data_policy>(7), MOE_UNDEFINED_KEEP, nullptr};
    CHECK(layer.run(&unknown) == MOE_ERROR_INVALID);
}
