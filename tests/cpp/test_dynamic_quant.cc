// npu_dynamic_quant through the C API: what Python cannot reach.
#include <doctest/doctest.h>

#include "call.h"

using namespace moe_test;

namespace {

// Four rows of four columns in three groups.
struct Rows {
    std::vector<float> input{1, -2, 3, .5f, 127, .5f, 1.5f, -2.5f, 0, 0, 0, 0, -4, 2, 1, 8};
    std::vector<float> smooth{1, 1, 1, 1, 1, .5f, 2, 1, -1, 2, 0, .25f};
    std::vector<int64_t> index{1, 3, 4};
    std::vector<int8_t> y = std::vector<int8_t>(16, 99);
    std::vector<float> scale = std::vector<float>(4, -7.0f);
    const std::vector<int8_t> needed{42, -85, 127, 21, 127, 0, 3, -2, 0, 0, 0, 0, 127, 127, 0, 64};
    const std::vector<float> needed_scale{3 / 127.f, 1, 0, 4 / 127.f};

    moe_tensor t_input = tensor(input, MOE_FLOAT32, {4, 4});
    moe_tensor t_smooth = tensor(smooth, MOE_FLOAT32, {3, 4});
    moe_tensor t_index = tensor(index, MOE_INT64, {3});
    moe_tensor t_y = tensor(y, MOE_INT8, {4, 4});
    moe_tensor t_scale = tensor(scale, MOE_FLOAT32, {4});
    moe_dynamic_quant_args args{&t_input, &t_smooth, &t_index, &t_y, &t_scale};

    moe_status check() { return moe_dynamic_quant_check(&args); }
    moe_status run(const moe_run_options* options = nullptr) {
        return plan_and_run(args, moe_dynamic_quant_plan, moe_dynamic_quant_run, options);
    }
    bool untouched() const { return y == std::vector<int8_t>(16, 99) && scale == std::vector<float>(4, -7.0f); }
};

}  // namespace

TEST_CASE("worked number") {
    Rows rows;
    CHECK(rows.run() == MOE_OK);
    CHECK(rows.y == rows.needed);
    CHECK(rows.scale == rows.needed_scale);
}

TEST_CASE("shapes need no outputs") {
    Rows rows;
    rows.args.y = rows.args.scale = nullptr;
    moe_tensor shapes[2];
    REQUIRE(moe_dynamic_quant_shapes(&rows.args, shapes) == MOE_OK);
    CHECK(shapes[0].dtype == MOE_INT8);
    CHECK(shapes[0].rank == 2);
    CHECK(shapes[1].dtype == MOE_FLOAT32);
    CHECK(shapes[1].rank == 1);
    CHECK(shapes[1].shape[0] == 4);
    CHECK(moe_dynamic_quant_shapes(&rows.args, nullptr) == MOE_ERROR_NULL);
}

TEST_CASE("null pointers") {
    CHECK(moe_dynamic_quant_check(nullptr) == MOE_ERROR_NULL);
    Rows rows;
    rows.args.input = nullptr;
    CHECK(rows.check() == MOE_ERROR_NULL);
    rows.args.input = &rows.t_input;
    rows.args.y = nullptr;
    CHECK(rows.check() == MOE_ERROR_NULL);
    rows.args.y = &rows.t_y;
    rows.args.scale = nullptr;
    CHECK(rows.check() == MOE_ERROR_NULL);
    CHECK(std::string(moe_last_error()->argument) == "scale");
    rows.args.scale = &rows.t_scale;
    for (moe_tensor* without : {&rows.t_input, &rows.t_smooth, &rows.t_index, &rows.t_y, &rows.t_scale}) {
        void* data = without->data;
        without->data = nullptr;
        CHECK(rows.check() == MOE_OK);
        CHECK(rows.run() == MOE_ERROR_NULL);
        without->data = data;
        CHECK(rows.untouched());
    }
}

TEST_CASE("output dtypes and shapes") {
    const auto refused = [](auto change) {
        Rows rows;
        change(rows);
        CHECK(rows.check() == MOE_ERROR_INVALID);
        CHECK(rows.run() == MOE_ERROR_INVALID);
        CHECK(rows.untouched());
        return moe_last_error()->kind;
    };
    CHECK(refused([](Rows& r) { r.t_y.dtype = MOE_UINT8; }) == MOE_KIND_DTYPE);
    CHECK(refused([](Rows& r) { r.t_scale.dtype = MOE_FLOAT16; }) == MOE_KIND_DTYPE);
    CHECK(refused([](Rows& r) { r.t_y = tensor(r.y, MOE_INT8, {2, 8}); }) == MOE_KIND_SHAPE);
    CHECK(last_message() == "y: shape (2, 8), needed (4, 4)");
    CHECK(refused([](Rows& r) { r.t_y = tensor(r.y, MOE_INT8, {16}); }) == MOE_KIND_SHAPE);
    CHECK(refused([](Rows& r) { r.t_scale = tensor(r.scale, MOE_FLOAT32, {4, 1}); }) == MOE_KIND_SHAPE);
    CHECK(last_message() == "scale: shape (4, 1), needed (4,)");
}

TEST_CASE("tiled tensors are refused") {
    const int64_t shape[] = {4, 4};
    std::vector<float> storage(256);
    moe_tensor tiled;
    REQUIRE(moe_nz_make(storage.data(), MOE_FLOAT32, 2, shape, 8, &tiled) == MOE_OK);
    Rows rows;
    rows.args.input = &tiled;
    CHECK(rows.check() == MOE_ERROR_INVALID);
    CHECK(last_message() == "input: storage format 29, needed 2 (ND)");
    rows.args.input = &rows.t_input;
    rows.args.smooth_scales = &tiled;
    CHECK(rows.check() == MOE_ERROR_INVALID);
    rows.args.smooth_scales = &rows.t_smooth;
    tiled.dtype = MOE_INT8;
    rows.args.y = &tiled;
    CHECK(rows.check() == MOE_ERROR_INVALID);
    CHECK(std::string(moe_last_error()->argument) == "y");
}

TEST_CASE("strided outputs") {
    Rows rows;
    std::vector<int8_t> wide(32, 99);
    std::vector<float> reversed(4, -7.0f);
    rows.t_y.data = wide.data();
    rows.t_y.stride[0] = 8;
    rows.t_y.stride[1] = 2;
    rows.t_scale.data = reversed.data() + 3;
    rows.t_scale.stride[0] = -4;
    REQUIRE(rows.run() == MOE_OK);
    for (size_t i = 0; i < wide.size(); ++i) CHECK(wide[i] == (i % 2 == 0 ? rows.needed[i / 2] : 99));
    for (size_t i = 0; i < 4; ++i) CHECK(reversed[3 - i] == rows.needed_scale[i]);
}

TEST_CASE("bad groups are rejected before anything is written, or skipped and reported") {
    moe_data_report report;
    const moe_run_options options{MOE_DATA_SKIP, MOE_UNDEFINED_KEEP, &report};

    Rows beyond;
    beyond.index = {1, 9, 4};
    CHECK(beyond.run() == MOE_ERROR_INVALID);
    CHECK(moe_last_error()->kind == MOE_KIND_DATA);
    CHECK(beyond.untouched());
    // The group with the bad end is empty: its rows belong to the next one.
    CHECK(beyond.run(&options) == MOE_OK);
    CHECK(report.count == 1);
    CHECK(std::string(report.argument) == "group_index");
    CHECK(report.index == 1);
    CHECK(report.value == 9);
    CHECK(std::vector<int8_t>(beyond.y.begin(), beyond.y.begin() + 8) ==
          std::vector<int8_t>{42, -85, 127, 21, -127, 1, 0, -1});

    Rows unsorted;
    unsorted.index = {INT64_MIN, 3, 1};
    CHECK(unsorted.run() == MOE_ERROR_INVALID);
    CHECK(unsorted.untouched());
    CHECK(unsorted.run(&options) == MOE_OK);
    CHECK(report.count == 3);  // two bad ends, and one row behind the last
    CHECK(report.index == 0);
    // Row 3 is quantised without smooth_scales.
    CHECK(std::vector<int8_t>(unsorted.y.begin() + 12, unsorted.y.end()) == std::vector<int8_t>{-64, 32, 16, 127});

    Rows none;
    none.t_index.shape[0] = none.t_smooth.shape[0] = 0;
    CHECK(none.run() == MOE_ERROR_INVALID);
    CHECK(none.run(&options) == MOE_OK);
    CHECK(report.count == 1);
    CHECK(std::vector<int8_t>(none.y.begin(), none.y.begin() + 4) == std::vector<int8_t>{42, -85, 127, 21});
}

TEST_CASE("nothing to do") {
    Rows rows;
    std::vector<int32_t> nothing;
    rows.t_input = tensor(rows.input, MOE_FLOAT16, {0, int64_t{1} << 55});
    rows.t_y = tensor(rows.y, MOE_INT8, {0, int64_t{1} << 55});
    rows.t_scale = tensor(rows.scale, MOE_FLOAT32, {0});
    rows.args.smooth_scales = rows.args.group_index = nullptr;
    moe_plan plan;
    REQUIRE(moe_dynamic_quant_plan(&rows.args, &plan) == MOE_OK);
    CHECK(plan.workspace_size == 0);
    CHECK(rows.run() == MOE_OK);
    CHECK(rows.untouched());

    Rows empty;
    empty.t_input = tensor(empty.input, MOE_BFLOAT16, {4, 0});
    empty.t_input.data = nullptr;
    empty.t_y = tensor(empty.y, MOE_INT8, {4, 0});
    empty.t_y.data = nullptr;
    empty.args.smooth_scales = empty.args.group_index = nullptr;
    CHECK(empty.run() == MOE_OK);
    CHECK(empty.scale == std::vector<float>(4, 0.0f));
}
