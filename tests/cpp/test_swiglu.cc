// npu_swiglu through the C API: what Python cannot reach.
#include <doctest/doctest.h>

#include <cmath>

#include "call.h"

using namespace moe_test;

namespace {

struct Pairs {
    std::vector<float> input{1, -2, 3, .5f, 0, 4, -1, 2};
    std::vector<float> out = std::vector<float>(4, -7.0f);
    moe_tensor t_input = tensor(input, MOE_FLOAT32, {2, 4});
    moe_tensor t_out = tensor(out, MOE_FLOAT32, {2, 2});
    moe_swiglu_args args{&t_input, -1, &t_out};

    moe_status check() { return moe_swiglu_check(&args); }
    moe_status run() { return plan_and_run(args, moe_swiglu_plan, moe_swiglu_run); }
};

bool near(float seen, float needed) {
    return std::abs(seen - needed) <= 10 * 0x1p-24f * std::abs(needed);
}

}  // namespace

TEST_CASE("worked number") {
    Pairs pairs;
    REQUIRE(pairs.run() == MOE_OK);
    CHECK(near(pairs.out[0], 2.19317579f));
    CHECK(near(pairs.out[1], -0.119202919f));
    CHECK(pairs.out[2] == 0.0f);
    CHECK(std::signbit(pairs.out[2]));
    CHECK(near(pairs.out[3], 7.85611010f));
}

TEST_CASE("shapes need no output") {
    Pairs pairs;
    pairs.args.out = nullptr;
    pairs.args.dim = 0;
    moe_tensor shape;
    REQUIRE(moe_swiglu_shapes(&pairs.args, &shape) == MOE_OK);
    CHECK(shape.dtype == MOE_FLOAT32);
    CHECK(shape.rank == 2);
    CHECK(shape.shape[0] == 1);
    CHECK(shape.shape[1] == 4);
    CHECK(moe_swiglu_shapes(&pairs.args, nullptr) == MOE_ERROR_NULL);
}

TEST_CASE("codes") {
    CHECK(moe_swiglu_check(nullptr) == MOE_ERROR_NULL);
    const auto code = [](auto change) {
        Pairs pairs;
        change(pairs);
        const moe_status status = pairs.check();
        CHECK(pairs.run() == status);
        CHECK(pairs.out == std::vector<float>(4, -7.0f));
        return status;
    };
    CHECK(code([](Pairs& p) { p.args.input = nullptr; }) == MOE_ERROR_NULL);
    CHECK(code([](Pairs& p) { p.args.out = nullptr; }) == MOE_ERROR_NULL);
    CHECK(code([](Pairs& p) { p.t_input.dtype = MOE_INT32; }) == MOE_ERROR_INVALID);
    CHECK(code([](Pairs& p) { p.t_out.dtype = MOE_FLOAT16; }) == MOE_ERROR_INVALID);
    CHECK(last_message() == "out: dtype float16, needed float32 as input has");
    CHECK(code([](Pairs& p) { p.args.dim = 2; }) == MOE_ERROR_TILING);
    CHECK(code([](Pairs& p) { p.args.dim = INT64_MIN; }) == MOE_ERROR_TILING);
    CHECK(code([](Pairs& p) { p.t_input.rank = 0; }) == MOE_ERROR_TILING);
    CHECK(code([](Pairs& p) { p.t_input.shape[1] = 3; }) == MOE_ERROR_TILING);
    CHECK(code([](Pairs& p) { p.t_input.shape[0] = 0; }) == MOE_ERROR_TILING);
    CHECK(code([](Pairs& p) { p.t_out.shape[1] = 1; }) == MOE_ERROR_TILING);
    CHECK(last_message() == "out: shape (2, 1), needed (2, 2)");
    CHECK(code([](Pairs& p) { p.t_out.rank = 1; }) == MOE_ERROR_TILING);

    const int64_t shape[] = {2, 4};
    std::vector<float> storage(256);
    moe_tensor tiled;
    REQUIRE(moe_nz_make(storage.data(), MOE_FLOAT32, 2, shape, 8, &tiled) == MOE_OK);
    CHECK(code([&](Pairs& p) { p.args.input = &tiled; }) == MOE_ERROR_INVALID);
    CHECK(last_message() == "input: storage format 29, needed 2 (ND)");

    Pairs pairs;
    pairs.t_input.data = nullptr;
    CHECK(pairs.check() == MOE_OK);
    CHECK(pairs.run() == MOE_ERROR_NULL);
}

TEST_CASE("strided input and output") {
    Pairs plain;
    REQUIRE(plain.run() == MOE_OK);
    Pairs pairs;
    std::vector<float> turned(8);
    for (size_t i = 0; i < 2; ++i)
        for (size_t j = 0; j < 4; ++j) turned[j * 2 + i] = pairs.input[i * 4 + j];
    pairs.t_input.data = turned.data();
    pairs.t_input.stride[0] = 4;
    pairs.t_input.stride[1] = 8;
    std::vector<float> wide(8, -7.0f);
    pairs.t_out.data = wide.data();
    pairs.t_out.stride[0] = 16;
    pairs.t_out.stride[1] = 8;
    REQUIRE(pairs.run() == MOE_OK);
    for (size_t i = 0; i < 8; ++i) CHECK(wide[i] == (i % 2 == 0 ? plain.out[i / 2] : -7.0f));
}
