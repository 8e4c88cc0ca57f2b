// npu_grouped_matmul_swiglu_quant through the C API: what Python cannot reach, and the operator's float32 arithmetic
// operation by operation with the same exp.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "call.h"
#include "kernels/numeric.h"

using namespace moe_test;

namespace {

// `rows` rows of random codes for two experts.
struct Layer {
    int64_t m, k, n;
    std::vector<int8_t> x, weight;
    std::vector<int64_t> group_list;
    std::vector<float> weight_scale, x_scale;
    std::vector<int8_t> output;
    std::vector<float> output_scale, output_offset;
    moe_tensor t_x, t_weight, t_group_list, t_weight_scale, t_x_scale, t_output, t_output_scale, t_output_offset;
    moe_grouped_matmul_swiglu_quant_args args;

    explicit Layer(int64_t rows = 6, int64_t length = 5, int64_t columns = 8, unsigned seed = 1)
        : m(rows),
          k(length),
          n(columns),
          x(rows * length),
          weight(2 * length * columns),
          group_list{rows / 2, rows - 1},
          weight_scale(2 * columns),
          x_scale(rows),
          output(rows * columns / 2, 99),
          output_scale(rows, -7.0f),
          output_offset(1, -7.0f) {
        std::mt19937 engine(seed);
        std::normal_distribution<float> normal;
        for (int8_t& value : x) value = static_cast<int8_t>(engine());
        for (int8_t& value : weight) value = static_cast<int8_t>(engine());
        for (float& value : weight_scale) value = normal(engine);
        for (float& value : x_scale) value = normal(engine) / (4000 * std::sqrt(static_cast<float>(k)));
        t_x = tensor(x, MOE_INT8, {m, k});
        t_weight = tensor(weight, MOE_INT8, {2, k, n});
        t_group_list = tensor(group_list, MOE_INT64, {2});
        t_weight_scale = tensor(weight_scale, MOE_FLOAT32, {2, n});
        t_x_scale = tensor(x_scale, MOE_FLOAT32, {m});
        t_output = tensor(output, MOE_INT8, {m, n / 2});
        t_output_scale = tensor(output_scale, MOE_FLOAT32, {m});
        t_output_offset = tensor(output_offset, MOE_FLOAT32, {});
        args = {&t_x,    &t_weight, &t_group_list, &t_weight_scale, &t_x_scale,      nullptr,
                nullptr, 0,         &t_output,     &t_output_scale, &t_output_offset};
    }
    Layer(const Layer&) = delete;

    moe_status check() { return moe_grouped_matmul_swiglu_quant_check(&args); }
    moe_status run(const moe_run_options* options = nullptr) {
        return plan_and_run(args, moe_grouped_matmul_swiglu_quant_plan, moe_grouped_matmul_swiglu_quant_run, options);
    }
    bool untouched() const {
        return std::all_of(output.begin(), output.end(), [](int8_t v) { return v == 99; }) &&
               std::all_of(output_scale.begin(), output_scale.end(), [](float v) { return v == -7.0f; });
    }
};

// One row, one operation after the other; volatile keeps the compiler from fusing or reordering.
void sequential(const Layer& layer, int64_t row, int64_t expert, std::vector<int8_t>* codes, float* scale) {
    const int64_t half = layer.n / 2;
    std::vector<float> s(static_cast<size_t>(half));
    float largest = 0.0f;
    for (int64_t j = 0; j < half; ++j) {
        float c[2];
        for (int p = 0; p < 2; ++p) {
            const int64_t column = p * half + j;
            int64_t sum = 0;
            for (int64_t t = 0; t < layer.k; ++t)
                sum += int64_t{layer.x[row * layer.k + t]} * layer.weight[(expert * layer.k + t) * layer.n + column];
            volatile float value = static_cast<float>(sum);
            value = value * layer.weight_scale[expert * layer.n + column];
            value = value * layer.x_scale[row];
            c[p] = value;
        }
        const volatile float silu = moe::silu_f32(c[0]);
        s[j] = silu * c[1];
        largest = std::max(largest, std::abs(s[j]));
    }
    *scale = largest / 127.0f;
    codes->resize(static_cast<size_t>(half));
    for (int64_t j = 0; j < half; ++j)
        (*codes)[j] = *scale == 0.0f ? int8_t{0}
                                     : static_cast<int8_t>(std::clamp(std::nearbyint(s[j] / *scale), -128.0f, 127.0f));
}

}  // namespace

TEST_CASE("equals sequential float32 bit for bit") {
    for (const int64_t n : {2, 30, 32, 62, 64, 66, 96, 130}) {
        for (const int64_t k : {1, 16, 37, 200}) {
            CAPTURE(n);
            CAPTURE(k);
            Layer layer(30, k, n, static_cast<unsigned>(n * 1000 + k));
            REQUIRE(layer.run() == MOE_OK);
            for (int64_t row = 0; row < layer.group_list[1]; ++row) {
                std::vector<int8_t> codes;
                float scale;
                sequential(layer, row, row < layer.group_list[0] ? 0 : 1, &codes, &scale);
                REQUIRE(layer.output_scale[row] == scale);
                REQUIRE(std::equal(codes.begin(), codes.end(), layer.output.begin() + row * n / 2));
            }
        }
    }
}

TEST_CASE("tail rows and the offset stay as they were, or become zero") {
    Layer layer;
    REQUIRE(layer.run() == MOE_OK);
    CHECK(layer.output_scale[5] == -7.0f);
    CHECK(layer.output[5 * 4] == 99);
    CHECK(layer.output_offset[0] == -7.0f);
    CHECK(layer.output_scale[4] != -7.0f);
    const moe_run_options options{MOE_DATA_REJECT, MOE_UNDEFINED_ZERO, nullptr};
    REQUIRE(layer.run(&options) == MOE_OK);
    CHECK(layer.output_scale[5] == 0.0f);
    CHECK(layer.output_offset[0] == 0.0f);
    for (int j = 0; j < 4; ++j) CHECK(layer.output[5 * 4 + j] == 0);
    layer.args.output_offset = nullptr;
    CHECK(layer.run(&options) == MOE_OK);
}

TEST_CASE("no rows, and no experts in the list, write nothing") {
    Layer layer;
    layer.t_group_list = tensor(layer.group_list, MOE_INT64, {0});
    layer.t_group_list.data = nullptr;
    CHECK(layer.run() == MOE_OK);
    CHECK(layer.untouched());
    layer.t_x = tensor(layer.x, MOE_INT8, {0, 5});
    layer.t_x_scale = tensor(layer.x_scale, MOE_FLOAT32, {0});
    layer.t_output = tensor(layer.output, MOE_INT8, {0, 4});
    layer.t_output_scale = tensor(layer.output_scale, MOE_FLOAT32, {0});
    CHECK(layer.run() == MOE_OK);
    CHECK(layer.untouched());
}

TEST_CASE("shapes need no outputs") {
    Layer layer;
    layer.args.output = layer.args.output_scale = layer.args.output_offset = nullptr;
    moe_tensor shapes[3];
    REQUIRE(moe_grouped_matmul_swiglu_quant_shapes(&layer.args, shapes) == MOE_OK);
    CHECK(shapes[0].dtype == MOE_INT8);
    CHECK(shapes[0].rank == 2);
    CHECK(shapes[0].shape[1] == 4);
    CHECK(shapes[1].dtype == MOE_FLOAT32);
    CHECK(shapes[1].rank == 1);
    CHECK(shapes[1].shape[0] == 6);
    CHECK(shapes[2].rank == 0);
    CHECK(moe_grouped_matmul_swiglu_quant_shapes(&layer.args, nullptr) == MOE_ERROR_NULL);
}

TEST_CASE("null pointers") {
    using Args = moe_grouped_matmul_swiglu_quant_args;
    CHECK(moe_grouped_matmul_swiglu_quant_check(nullptr) == MOE_ERROR_NULL);
    for (const auto member : {&Args::x, &Args::weight, &Args::group_list, &Args::weight_scale, &Args::x_scale}) {
        Layer layer;
        layer.args.*member = nullptr;
        CHECK(layer.run() == MOE_ERROR_NULL);
        CHECK(layer.untouched());
    }
    for (const auto member : {&Args::output, &Args::output_scale}) {
        Layer layer;
        layer.args.*member = nullptr;
        CHECK(layer.check() == MOE_ERROR_NULL);
    }
    for (const auto t : {&Layer::t_x, &Layer::t_weight, &Layer::t_group_list, &Layer::t_weight_scale, &Layer::t_x_scale,
                         &Layer::t_output, &Layer::t_output_scale, &Layer::t_output_offset}) {
        Layer layer;
        (layer.*t).data = nullptr;
        CHECK(layer.check() == MOE_OK);
        CHECK(layer.run() == MOE_ERROR_NULL);
        CHECK(layer.untouched());
    }
}

TEST_CASE("int4 needs a bias, whatever else is wrong") {
    Layer layer;
    layer.t_weight.dtype = MOE_INT4;
    layer.t_x.rank = 3;
    CHECK(layer.check() == MOE_ERROR_NULL);
    CHECK(std::string(moe_last_error()->argument) == "bias");
    layer.t_weight.dtype = MOE_FLOAT16;
    CHECK(layer.check() == MOE_ERROR_INVALID);
}

TEST_CASE("outputs of another dtype or shape") {
    Layer layer;
    layer.t_output = tensor(layer.output, MOE_UINT8, {6, 4});
    CHECK(layer.check() == MOE_ERROR_INVALID);
    layer.t_output = tensor(layer.output, MOE_INT8, {6, 8});
    CHECK(layer.check() == MOE_ERROR_INVALID);
    CHECK(last_message() == "output: shape (6, 8), needed (m, n / 2) = (6, 4)");
    layer.t_output = tensor(layer.output, MOE_INT8, {6, 4});
    layer.t_output_scale = tensor(layer.output_scale, MOE_FLOAT32, {6, 1});
    CHECK(layer.check() == MOE_ERROR_INVALID);
    layer.t_output_scale = tensor(layer.output_scale, MOE_FLOAT16, {6});
    CHECK(layer.check() == MOE_ERROR_INVALID);
    layer.t_output_scale = tensor(layer.output_scale, MOE_FLOAT32, {6});
    layer.t_output_offset = tensor(layer.output_offset, MOE_FLOAT32, {1});
    CHECK(layer.check() == MOE_ERROR_INVALID);
}

TEST_CASE("an x_scale column is refused") {
    Layer layer;
    layer.t_x_scale = tensor(layer.x_scale, MOE_FLOAT32, {6, 1});
    CHECK(layer.check() == MOE_ERROR_INVALID);
}

TEST_CASE("strided outputs") {
    Layer plain, layer;
    REQUIRE(plain.run() == MOE_OK);
    std::vector<int8_t> wide(6 * 8, 99);
    std::vector<float> scales(12, -7.0f);
    layer.t_output.data = wide.data();
    layer.t_output.stride[0] = 8;
    layer.t_output.stride[1] = 2;
    layer.t_output_scale.data = scales.data();
    layer.t_output_scale.stride[0] = 2 * sizeof(float);
    REQUIRE(layer.run() == MOE_OK);
    for (size_t i = 0; i < wide.size(); ++i) CHECK(wide[i] == (i % 2 == 0 ? plain.output[i / 2] : 99));
    for (size_t i = 0; i < scales.size(); ++i) CHECK(scales[i] == (i % 2 == 0 ? plain.output_scale[i / 2] : -7.0f));
}

TEST_CASE("bad row ends are rejected before anything is written, or skipped and reported") {
    moe_data_report report;
    const moe_run_options options{MOE_DATA_SKIP, MOE_UNDEFINED_KEEP, &report};
    Layer needed;
    needed.group_list = {4, 6};
    REQUIRE(needed.run() == MOE_OK);
    for (const std::vector<int64_t>& list : {std::vector<int64_t>{4, 7}, {4, INT64_MAX}}) {
        Layer layer;
        layer.group_list = list;
        CHECK(layer.run() == MOE_ERROR_INVALID);
        CHECK(moe_last_error()->kind == MOE_KIND_DATA);
        CHECK(layer.untouched());
        CHECK(layer.run(&options) == MOE_OK);
        CHECK(report.count == 1);
        CHECK(report.index == 1);
        CHECK(report.value == list[1]);
        CHECK(layer.output == needed.output);  // the rows that there are
        CHECK(layer.output_scale == needed.output_scale);
    }
    for (const std::vector<int64_t>& list : {std::vector<int64_t>{4, 3}, {4, -1}, {4, INT64_MIN}}) {
        Layer layer;
        layer.group_list = list;
        CHECK(layer.run() == MOE_ERROR_INVALID);
        CHECK(layer.untouched());
        CHECK(layer.run(&options) == MOE_OK);
        CHECK(report.count == 1);
        CHECK(std::string(report.argument) == "group_list");
        CHECK(std::equal(layer.output.begin(), layer.output.begin() + 4 * 4, needed.output.begin()));
        CHECK(layer.output_scale[4] == -7.0f);
    }
}

TEST_CASE("many bad row ends are skipped in one pass") {
    constexpr int64_t experts = int64_t{1} << 20;
    Layer layer(6, 1, 2);
    std::vector<int64_t> list(experts, -1);
    std::vector<int8_t> weight(2 * experts);
    std::vector<float> weight_scale(2 * experts, 1.0f);
    layer.t_group_list = tensor(list, MOE_INT64, {experts});
    layer.t_weight = tensor(weight, MOE_INT8, {experts, 1, 2});
    layer.t_weight_scale = tensor(weight_scale, MOE_FLOAT32, {experts, 2});
    moe_data_report report;
    const moe_run_options options{MOE_DATA_SKIP, MOE_UNDEFINED_KEEP, &report};
    CHECK(layer.run(&options) == MOE_OK);
    CHECK(report.count == experts);
    CHECK(layer.untouched());
}
