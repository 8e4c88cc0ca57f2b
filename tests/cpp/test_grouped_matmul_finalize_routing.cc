// npu_grouped_matmul_finalize_routing through the C API: what Python cannot reach.
#include <doctest/doctest.h>

#include <cmath>

#include "call.h"

using namespace moe_test;

namespace {

// Four rows, two experts, k = n = 2; the shared row goes to the second of two output rows.
struct Layer {
    std::vector<int8_t> x{1, 2, 3, -1, -2, 4, 5, 0};
    std::vector<int8_t> w{1, -1, 2, 3, -3, 2, 1, 1};
    std::vector<int64_t> group_list{3, 1};
    std::vector<float> scale{.5, .25, 1, 2};
    std::vector<float> pertoken{1, .5, 2, .25};
    std::vector<uint16_t> shared{0x3FC0, 0xC000};  // 1.5, -2
    std::vector<float> logit{.5, 1, .25, 2};
    std::vector<int64_t> row_index{0, 1, 1, 0};
    std::vector<float> out = std::vector<float>(4, -7.0f);
    const std::vector<float> untouched = out;
    const std::vector<float> needed{-6.25, 10.625, 2.5, 0};

    moe_tensor t_x = tensor(x, MOE_INT8, {4, 2});
    moe_tensor t_w = tensor(w, MOE_INT8, {2, 2, 2});
    moe_tensor t_group_list = tensor(group_list, MOE_INT64, {2});
    moe_tensor t_scale = tensor(scale, MOE_FLOAT32, {2, 2});
    moe_tensor t_pertoken = tensor(pertoken, MOE_FLOAT32, {4});
    moe_tensor t_shared = tensor(shared, MOE_BFLOAT16, {1, 2});
    moe_tensor t_logit = tensor(logit, MOE_FLOAT32, {4});
    moe_tensor t_row_index = tensor(row_index, MOE_INT64, {4});
    moe_tensor t_out = tensor(out, MOE_FLOAT32, {2, 2});
    moe_grouped_matmul_finalize_routing_args args = make();

    moe_grouped_matmul_finalize_routing_args make() {
        moe_grouped_matmul_finalize_routing_args a = {};
        a.x = &t_x;
        a.w = &t_w;
        a.group_list = &t_group_list;
        a.scale = &t_scale;
        a.pertoken_scale = &t_pertoken;
        a.shared_input = &t_shared;
        a.logit = &t_logit;
        a.row_index = &t_row_index;
        a.shared_input_weight = .5f;
        a.shared_input_offset = 1;
        a.output_bs = 2;
        a.group_list_type = 1;
        a.out = &t_out;
        return a;
    }
    moe_status check() { return moe_grouped_matmul_finalize_routing_check(&args); }
    moe_status run(const moe_run_options* options = nullptr) {
        return plan_and_run(args, moe_grouped_matmul_finalize_routing_plan, moe_grouped_matmul_finalize_routing_run,
                            options);
    }
};

// The weight of Layer as 2 x 1 x 1 tiles of 16 x 32 whose padding holds 127.
std::vector<int8_t> tiles_of(const std::vector<int8_t>& w) {
    std::vector<int8_t> tiles(2 * 512, 127);
    for (size_t e = 0; e < 2; ++e)
        for (size_t k = 0; k < 2; ++k)
            for (size_t n = 0; n < 2; ++n) tiles[e * 512 + k * 32 + n] = w[e * 4 + k * 2 + n];
    return tiles;
}

// Two rows, two experts, k = 4, n = 2 of int4.
struct Layer4 {
    std::vector<int8_t> x{37, -20, 5, -128, 127, 0, -1, 64};
    std::vector<uint8_t> w{0x81, 0x37, 0x5E, 0xF4, 0x2D, 0x96, 0x11, 0x40};  // two int4 a byte, the even one low
    std::vector<int64_t> group_list{1, 1};
    std::vector<int64_t> scale{1056964608, 1048576000, 1073741824, 1040187392};
    std::vector<float> bias{40, -2, 64, 0};
    std::vector<float> offset{.5, -1, .25, 1};
    std::vector<float> pertoken{1, .5};
    std::vector<float> logit{2, 1};
    std::vector<int64_t> row_index{1, 0};
    std::vector<float> out = std::vector<float>(4, -7.0f);
    const std::vector<float> needed{-358.25, 126.8125, -731, 110.5};

    moe_tensor t_x = tensor(x, MOE_INT8, {2, 4});
    moe_tensor t_w = tensor(w, MOE_INT4, {2, 4, 2});
    moe_tensor t_group_list = tensor(group_list, MOE_INT64, {2});
    moe_tensor t_scale = tensor(scale, MOE_INT64, {2, 1, 2});
    moe_tensor t_bias = tensor(bias, MOE_FLOAT32, {2, 2});
    moe_tensor t_offset = tensor(offset, MOE_FLOAT32, {2, 1, 2});
    moe_tensor t_pertoken = tensor(pertoken, MOE_FLOAT32, {2});
    moe_tensor t_logit = tensor(logit, MOE_FLOAT32, {2});
    moe_tensor t_row_index = tensor(row_index, MOE_INT64, {2});
    moe_tensor t_out = tensor(out, MOE_FLOAT32, {2, 2});
    moe_grouped_matmul_finalize_routing_args args = make();

    moe_grouped_matmul_finalize_routing_args make() {
        moe_grouped_matmul_finalize_routing_args a = {};
        a.x = &t_x;
        a.w = &t_w;
        a.group_list = &t_group_list;
        a.scale = &t_scale;
        a.bias = &t_bias;
        a.offset = &t_offset;
        a.pertoken_scale = &t_pertoken;
        a.logit = &t_logit;
        a.row_index = &t_row_index;
        a.group_list_type = 1;
        a.out = &t_out;
        return a;
    }
    moe_status run() {
        return plan_and_run(args, moe_grouped_matmul_finalize_routing_plan, moe_grouped_matmul_finalize_routing_run);
    }
};

}  // namespace

TEST_CASE("worked number") {
    Layer layer;
    CHECK(layer.run() == MOE_OK);
    CHECK(layer.out == layer.needed);
}

TEST_CASE("worked number from FRACTAL_NZ") {
    Layer layer;
    std::vector<int8_t> tiles = tiles_of(layer.w);
    layer.t_w.data = tiles.data();
    layer.t_w.format = MOE_FORMAT_NZ;
    layer.t_w.storage_rank = 5;
    const int64_t storage[] = {2, 1, 1, 16, 32};
    std::copy(storage, storage + 5, layer.t_w.storage_shape);
    for (int64_t& stride : layer.t_w.stride) stride = -12345;  // not looked at
    CHECK(layer.run() == MOE_OK);
    CHECK(layer.out == layer.needed);

    layer.t_w = tensor(tiles, MOE_INT8, {2, 1, 1, 16, 32});
    layer.out = layer.untouched;
    CHECK(layer.run() == MOE_OK);
    CHECK(layer.out == layer.needed);
}

TEST_CASE("FRACTAL_NZ of another size is refused") {
    const int64_t bad[][5] = {{2, 1, 2, 16, 32}, {2, 2, 1, 16, 32}, {1, 1, 1, 16, 32}, {3, 1, 1, 16, 32},
                              {2, 1, 1, 32, 16}, {2, 1, 1, 8, 64},  {2, 1, 1, 16, 16}};
    for (const auto& storage : bad) {
        Layer layer;
        std::vector<int8_t> tiles = tiles_of(layer.w);
        layer.t_w.data = tiles.data();
        layer.t_w.format = MOE_FORMAT_NZ;
        layer.t_w.storage_rank = 5;
        std::copy(storage, storage + 5, layer.t_w.storage_shape);
        CHECK(layer.run() == MOE_ERROR_INVALID);
        CHECK(std::string(moe_last_error()->argument) == "w");
        CHECK(layer.out == layer.untouched);
        layer.t_w.storage_rank = 4;
        CHECK(layer.run() == MOE_ERROR_INVALID);
        layer.t_w.storage_rank = 0;
        CHECK(layer.run() == MOE_ERROR_INVALID);
    }
}

TEST_CASE("worked int4 number, two a byte") {
    Layer4 layer;
    CHECK(layer.run() == MOE_OK);
    CHECK(layer.out == layer.needed);
    std::vector<uint8_t> tiles(2 * 16 * 32, 0x77);
    for (size_t e = 0; e < 2; ++e)
        for (size_t k = 0; k < 4; ++k) tiles[e * 512 + k * 32] = layer.w[e * 4 + k];
    layer.t_w = tensor(tiles, MOE_INT4, {2, 1, 1, 16, 64});
    layer.out = {0, 0, 0, 0};
    CHECK(layer.run() == MOE_OK);
    CHECK(layer.out == layer.needed);
    layer.t_w = tensor(tiles, MOE_INT4, {2, 1, 1, 16, 32});
    CHECK(layer.run() == MOE_ERROR_INVALID);
}

TEST_CASE("odd rows of packed int4 are refused") {
    Layer4 layer;
    std::vector<int64_t> scale(6, 0);
    std::vector<float> bias(6, 0), out(6, 0);
    layer.t_w = tensor(layer.w, MOE_INT4, {2, 4, 3});
    layer.t_scale = tensor(scale, MOE_INT64, {2, 1, 3});
    layer.t_bias = tensor(bias, MOE_FLOAT32, {2, 3});
    layer.args.offset = nullptr;
    layer.t_out = tensor(out, MOE_FLOAT32, {2, 3});
    CHECK(layer.run() == MOE_ERROR_INVALID);
    CHECK(last_message() == "w: 3 columns of int4, needed an even number");
}

TEST_CASE("int4 needs bias and pertoken_scale") {
    for (const auto member :
         {&moe_grouped_matmul_finalize_routing_args::bias, &moe_grouped_matmul_finalize_routing_args::pertoken_scale}) {
        Layer4 layer;
        layer.args.*member = nullptr;
        CHECK(layer.run() == MOE_ERROR_NULL);
        // What is missing comes before what is wrong.
        layer.args.dtype = 1;
        layer.t_x.rank = 3;
        CHECK(layer.run() == MOE_ERROR_NULL);
    }
}

TEST_CASE("shapes need no output") {
    Layer layer;
    layer.args.out = nullptr;
    moe_tensor shape;
    REQUIRE(moe_grouped_matmul_finalize_routing_shapes(&layer.args, &shape) == MOE_OK);
    CHECK(shape.dtype == MOE_FLOAT32);
    CHECK(shape.rank == 2);
    CHECK(shape.shape[0] == 2);
    CHECK(shape.shape[1] == 2);
    layer.args.output_bs = 0;
    layer.args.shared_input = nullptr;
    REQUIRE(moe_grouped_matmul_finalize_routing_shapes(&layer.args, &shape) == MOE_OK);
    CHECK(shape.shape[0] == 4);
    CHECK(moe_grouped_matmul_finalize_routing_shapes(&layer.args, nullptr) == MOE_ERROR_NULL);
    CHECK(moe_grouped_matmul_finalize_routing_shapes(nullptr, &shape) == MOE_ERROR_NULL);
}

TEST_CASE("null pointers") {
    using Args = moe_grouped_matmul_finalize_routing_args;
    CHECK(moe_grouped_matmul_finalize_routing_check(nullptr) == MOE_ERROR_NULL);
    for (const auto member : {&Args::x, &Args::w, &Args::group_list, &Args::scale, &Args::row_index, &Args::logit}) {
        Layer layer;
        layer.args.*member = nullptr;
        CHECK(layer.check() == MOE_ERROR_NULL);
        CHECK(layer.run() == MOE_ERROR_NULL);
        CHECK(layer.out == layer.untouched);
    }
    for (const auto member : {&Args::bias, &Args::offset, &Args::pertoken_scale, &Args::shared_input}) {
        Layer layer;
        layer.args.*member = nullptr;
        CHECK(layer.check() == MOE_OK);
    }
    Layer layer;
    layer.args.out = nullptr;
    CHECK(layer.check() == MOE_ERROR_NULL);
    CHECK(std::string(moe_last_error()->argument) == "out");
    for (const auto t : {&Layer::t_x, &Layer::t_w, &Layer::t_group_list, &Layer::t_scale, &Layer::t_pertoken,
                         &Layer::t_shared, &Layer::t_logit, &Layer::t_row_index, &Layer::t_out}) {
        Layer without;
        (without.*t).data = nullptr;
        CHECK(without.check() == MOE_OK);
        CHECK(without.run() == MOE_ERROR_NULL);
        CHECK(without.out == without.untouched);
    }
}

TEST_CASE("output dtype and shape") {
    Layer layer;
    layer.t_out.dtype = MOE_FLOAT16;
    CHECK(layer.check() == MOE_ERROR_INVALID);
    CHECK(moe_last_error()->kind == MOE_KIND_DTYPE);
    layer.t_out = tensor(layer.out, MOE_FLOAT32, {4, 1});
    CHECK(layer.check() == MOE_ERROR_INVALID);
    CHECK(last_message() == "out: shape (4, 1), needed (output_bs, n) = (2, 2)");
    layer.t_out = tensor(layer.out, MOE_FLOAT32, {4});
    CHECK(layer.check() == MOE_ERROR_INVALID);
}

TEST_CASE("dtype attribute and pertoken column") {
    Layer layer;
    for (const int64_t dtype : {-1, 1, 2, 27}) {
        layer.args.dtype = dtype;
        CHECK(layer.check() == MOE_ERROR_INVALID);
    }
    layer.args.dtype = 0;
    layer.t_pertoken = tensor(layer.pertoken, MOE_FLOAT32, {4, 1});
    CHECK(layer.check() == MOE_ERROR_INVALID);
}

TEST_CASE("tuning_config") {
    Layer layer;
    const int64_t hint[] = {4, 1};
    layer.args.tuning_config = hint;
    for (const int64_t size : {0, 1, 2}) {
        layer.args.tuning_config_size = size;
        CHECK(layer.run() == MOE_OK);
        CHECK(layer.out == layer.needed);
    }
    const int64_t high[] = {5};
    layer.args.tuning_config = high;
    layer.args.tuning_config_size = 1;
    CHECK(layer.check() == MOE_ERROR_INVALID);
    layer.args.tuning_config_size = 0;
    CHECK(layer.check() == MOE_OK);
    layer.args.tuning_config_size = -1;
    CHECK(layer.check() == MOE_ERROR_INVALID);
    layer.args.tuning_config = nullptr;
    layer.args.tuning_config_size = 1;
    CHECK(layer.check() == MOE_ERROR_NULL);
}

TEST_CASE("sizes that no memory holds are refused, not multiplied") {
    Layer layer;
    const int64_t k = int64_t{1} << 56;
    layer.t_x = moe_tensor_make(layer.x.data(), MOE_INT8, 2, std::vector<int64_t>{1, k}.data());
    layer.t_w = moe_tensor_make(layer.w.data(), MOE_INT8, 3, std::vector<int64_t>{1, k, 2}.data());
    layer.t_group_list.shape[0] = 1;
    layer.t_scale.shape[0] = 1;
    layer.t_pertoken.shape[0] = layer.t_logit.shape[0] = layer.t_row_index.shape[0] = 1;
    layer.args.shared_input = nullptr;
    layer.args.shared_input_offset = 0;
    layer.args.output_bs = 0;
    layer.t_out.shape[0] = 1;
    moe_plan plan;
    const moe_status status = moe_grouped_matmul_finalize_routing_plan(&layer.args, &plan);
    CHECK((status == MOE_ERROR_INVALID || plan.workspace_size > static_cast<uint64_t>(k)));
    layer.t_x.shape[0] = INT64_MAX / 2;
    CHECK(moe_grouped_matmul_finalize_routing_plan(&layer.args, &plan) == MOE_ERROR_INVALID);
}

TEST_CASE("workspace") {
    Layer layer;
    moe_plan plan;
    REQUIRE(moe_grouped_matmul_finalize_routing_plan(&layer.args, &plan) == MOE_OK);
    std::vector<char> memory(plan.workspace_size);
    const auto run = [&](const moe_plan* with, void* at, uint64_t size) {
        return moe_grouped_matmul_finalize_routing_run(&layer.args, with, at, size, nullptr);
    };
    CHECK(run(&plan, nullptr, plan.workspace_size) == MOE_ERROR_NULL);
    CHECK(run(&plan, memory.data(), plan.workspace_size - 1) == MOE_ERROR_INVALID);
    CHECK(run(nullptr, memory.data(), plan.workspace_size) == MOE_ERROR_NULL);
    CHECK(layer.out == layer.untouched);
    CHECK(run(&plan, memory.data(), plan.workspace_size) == MOE_OK);
    CHECK(layer.out == layer.needed);
}

TEST_CASE("strided output") {
    Layer layer;
    std::vector<float> wide(8, -7.0f);
    layer.t_out.data = wide.data();
    layer.t_out.stride[0] = 4 * sizeof(float);
    layer.t_out.stride[1] = 2 * sizeof(float);
    REQUIRE(layer.run() == MOE_OK);
    for (size_t i = 0; i < wide.size(); ++i) CHECK(wide[i] == (i % 2 == 0 ? layer.needed[i / 2] : -7.0f));
}

TEST_CASE("bad data is rejected before anything is written, or skipped and reported") {
    moe_data_report report;
    const moe_run_options options{MOE_DATA_SKIP, MOE_UNDEFINED_KEEP, &report};
    {
        Layer layer;
        layer.row_index = {0, 2, 1, -1};
        CHECK(layer.run() == MOE_ERROR_INVALID);
        CHECK(moe_last_error()->kind == MOE_KIND_DATA);
        CHECK(last_message() == "row_index: 2 at position 1, needed a row of the output");
        CHECK(layer.out == layer.untouched);
        CHECK(layer.run(&options) == MOE_OK);
        CHECK(report.count == 2);
        CHECK(std::string(report.argument) == "row_index");
        CHECK(report.index == 1);
        CHECK(report.value == 2);
        CHECK(layer.out == std::vector<float>{1.25, .625, 2.25, .75});  // rows 0 and 2, and the shared row
    }
    {
        Layer layer;
        layer.group_list = {3, 2};  // one row more than there is
        CHECK(layer.run() == MOE_ERROR_INVALID);
        CHECK(layer.out == layer.untouched);
        CHECK(layer.run(&options) == MOE_OK);
        CHECK(report.count == 1);
        CHECK(report.index == 1);
        CHECK(report.value == 2);
        CHECK(layer.out == layer.needed);
    }
    for (const std::vector<int64_t>& list : {std::vector<int64_t>{-1, 4}, {5, 3}, {INT64_MIN, INT64_MAX}}) {
        for (const int64_t type : {0, 1}) {
            Layer layer;
            layer.group_list = list;
            layer.args.group_list_type = type;
            CHECK(layer.run() == MOE_ERROR_INVALID);
            CHECK(layer.out == layer.untouched);
            CHECK(layer.run(&options) == MOE_OK);
            CHECK(report.count >= 1);
            CHECK(std::string(report.argument) == "group_list");
        }
    }
}

TEST_CASE("seed limits, on descriptions without memory") {
    struct Sizes {
        int64_t m, k, n, e, batch, shared;
        const char* argument;  // at fault; null when all is within the limits
    };
    const Sizes cases[] = {
        {131072, 2048, 7168, 256, 16384, 2048, nullptr},
        {131073, 2048, 7168, 256, 16384, 2048, "x"},
        {131072, 2048, 7168, 257, 16384, 2048, "w"},
        {131072, 2048, 7168, 256, 16385, 2048, "output_bs"},
        {131072, 2048, 7168, 256, 16384, 2049, "shared_input"},
        {131072, 1024, 7168, 256, 16384, 2048, "x"},
        {131072, 2048, 7680, 256, 16384, 2048, "scale"},
    };
    const auto make = [](moe_dtype dtype, std::initializer_list<int64_t> shape) {
        return moe_tensor_make(nullptr, dtype, static_cast<int32_t>(shape.size()), shape.begin());
    };
    for (const Sizes& s : cases) {
        CAPTURE(s.argument);
        Layer layer;
        layer.t_x = make(MOE_INT8, {s.m, s.k});
        layer.t_w = make(MOE_INT8, {s.e, s.n / 32, s.k / 16, 16, 32});
        layer.t_group_list = make(MOE_INT64, {s.e});
        layer.t_scale = make(MOE_FLOAT32, {s.e, s.n});
        layer.t_pertoken = make(MOE_FLOAT32, {s.m});
        layer.t_logit = make(MOE_FLOAT32, {s.m});
        layer.t_row_index = make(MOE_INT64, {s.m});
        layer.t_shared = make(MOE_BFLOAT16, {s.shared, s.n});
        layer.t_out = make(MOE_FLOAT32, {s.batch, s.n});
        layer.args.output_bs = s.batch;
        CHECK(layer.check() == MOE_OK);
        moe_set_limits(MOE_LIMITS_SEED);
        const moe_status status = layer.check();
        moe_set_limits(MOE_LIMITS_NONE);
        CHECK(status == (s.argument == nullptr ? MOE_OK : MOE_ERROR_INVALID));
        if (s.argument != nullptr) CHECK(std::string(moe_last_error()->argument) == s.argument);
    }
}
