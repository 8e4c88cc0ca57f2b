// The gating operators through the C API: what Python cannot reach.
#include <doctest/doctest.h>

#include "call.h"

using namespace moe_test;

namespace {

const std::string name_of_fault() {
    return moe_last_error()->argument;
}

struct Softmax {
    std::vector<float> x{0, 0, 0, 0, -9, 9, -9, 9};
    std::vector<unsigned char> finished{0, 1};
    std::vector<float> y = std::vector<float>(4, -7.0f);
    std::vector<int32_t> expert_idx = std::vector<int32_t>(4, -7);
    std::vector<int32_t> row_idx = std::vector<int32_t>(4, -7);

    moe_tensor t_x = tensor(x, MOE_FLOAT32, {2, 4});
    moe_tensor t_finished = tensor(finished, MOE_BOOL, {2});
    moe_tensor t_y = tensor(y, MOE_FLOAT32, {2, 2});
    moe_tensor t_expert_idx = tensor(expert_idx, MOE_INT32, {2, 2});
    moe_tensor t_row_idx = tensor(row_idx, MOE_INT32, {2, 2});
    moe_gating_top_k_softmax_args args{&t_x, &t_finished, 2, &t_y, &t_expert_idx, &t_row_idx};

    moe_status check() { return moe_gating_top_k_softmax_check(&args); }
    moe_status run() { return plan_and_run(args, moe_gating_top_k_softmax_plan, moe_gating_top_k_softmax_run); }
};

struct SoftmaxV2 {
    std::vector<float> x{0, 0, 0, 0, -9, 9, -9, 9};
    std::vector<float> y = std::vector<float>(4, -7.0f);
    std::vector<int32_t> expert_idx = std::vector<int32_t>(4, -7);
    std::vector<float> softmax = std::vector<float>(8, -7.0f);

    moe_tensor t_x = tensor(x, MOE_FLOAT32, {2, 4});
    moe_tensor t_y = tensor(y, MOE_FLOAT32, {2, 2});
    moe_tensor t_expert_idx = tensor(expert_idx, MOE_INT32, {2, 2});
    moe_tensor t_softmax = tensor(softmax, MOE_FLOAT32, {2, 4});
    moe_gating_top_k_softmax_v2_args args{&t_x, nullptr, 2, 0, true, &t_y, &t_expert_idx, &t_softmax};

    moe_status check() { return moe_gating_top_k_softmax_v2_check(&args); }
    moe_status run() { return plan_and_run(args, moe_gating_top_k_softmax_v2_plan, moe_gating_top_k_softmax_v2_run); }
};

struct TopK {
    std::vector<float> x{0, 1, 2, -1};
    std::vector<float> bias{1, 0, 0, 0};
    std::vector<float> y = std::vector<float>(2, -7.0f);
    std::vector<int32_t> expert_idx = std::vector<int32_t>(2, -7);
    std::vector<float> norm_out = std::vector<float>(4, -7.0f);

    moe_tensor t_x = tensor(x, MOE_FLOAT32, {1, 4});
    moe_tensor t_bias = tensor(bias, MOE_FLOAT32, {4});
    moe_tensor t_y = tensor(y, MOE_FLOAT32, {1, 2});
    moe_tensor t_expert_idx = tensor(expert_idx, MOE_INT32, {1, 2});
    moe_tensor t_norm_out = tensor(norm_out, MOE_FLOAT32, {1, 4});
    moe_gating_top_k_args args{&t_x, &t_bias, 2, 1, 1, 0, 0, 0, false, 2.0, 1e-20, &t_y, &t_expert_idx, &t_norm_out};

    moe_status check() { return moe_gating_top_k_check(&args); }
    moe_status run(const moe_run_options* options = nullptr) {
        return plan_and_run(args, moe_gating_top_k_plan, moe_gating_top_k_run, options);
    }
};

struct Tokens {
    std::vector<int32_t> ids{0, 0, 2, 2, 2, 5};
    std::vector<int32_t> out = std::vector<int32_t>(3, -7);

    moe_tensor t_ids = tensor(ids, MOE_INT32, {6});
    moe_tensor t_out = tensor(out, MOE_INT32, {3});
    moe_compute_expert_tokens_args args{&t_ids, 3, &t_out};

    moe_status check() { return moe_compute_expert_tokens_check(&args); }
    moe_status run() { return plan_and_run(args, moe_compute_expert_tokens_plan, moe_compute_expert_tokens_run); }
};

// A tensor argument that is required: null, an unknown dtype, another dtype, another shape.
template <class Call, class Member>
void refuses_bad_tensors(Member member, const char* argument, moe_dtype wrong_dtype,
                         std::initializer_list<int64_t> wrong_shape) {
    CAPTURE(argument);
    Call call;
    REQUIRE(call.check() == MOE_OK);
    const moe_tensor good = *(call.args.*member);
    moe_tensor bad = good;
    call.args.*member = nullptr;
    CHECK(call.check() == MOE_ERROR_NULL);
    CHECK(name_of_fault() == argument);
    call.args.*member = &bad;
    bad.dtype = wrong_dtype;
    CHECK(call.check() == MOE_ERROR_INVALID);
    CHECK(moe_last_error()->kind == MOE_KIND_DTYPE);
    CHECK(name_of_fault() == argument);
    bad = moe_tensor_make(good.data, good.dtype, static_cast<int32_t>(wrong_shape.size()), wrong_shape.begin());
    CHECK(call.check() == MOE_ERROR_TILING);
    CHECK(moe_last_error()->kind == MOE_KIND_SHAPE);
    CHECK(name_of_fault() == argument);
    bad = good;
    bad.rank = 9;
    CHECK(call.check() == MOE_ERROR_INVALID);
    bad = good;
    bad.data = nullptr;
    CHECK(call.check() == MOE_OK);
    CHECK(call.run() == MOE_ERROR_NULL);
}

}  // namespace

TEST_CASE("softmax gating: worked number") {
    Softmax gating;
    REQUIRE(gating.run() == MOE_OK);
    CHECK(gating.y[0] == 0.25f);
    CHECK(gating.y[1] == 0.25f);
    CHECK(gating.expert_idx == std::vector<int32_t>{0, 1, 4, 4});
    CHECK(gating.row_idx == std::vector<int32_t>{0, 2, 1, 3});
    gating.args.finished = nullptr;
    REQUIRE(gating.run() == MOE_OK);
    CHECK(gating.expert_idx == std::vector<int32_t>{0, 1, 1, 3});
}

TEST_CASE("softmax gating: tensors") {
    using Args = moe_gating_top_k_softmax_args;
    refuses_bad_tensors<Softmax>(&Args::x, "x", MOE_FLOAT64, {8});
    refuses_bad_tensors<Softmax>(&Args::y, "y", MOE_FLOAT16, {2, 3});
    refuses_bad_tensors<Softmax>(&Args::expert_idx, "expert_idx", MOE_INT64, {1, 2, 2});
    refuses_bad_tensors<Softmax>(&Args::row_idx, "row_idx", MOE_INT64, {4});
    CHECK(moe_gating_top_k_softmax_check(nullptr) == MOE_ERROR_NULL);
    Softmax gating;
    gating.t_finished.dtype = MOE_INT8;
    CHECK(gating.check() == MOE_ERROR_INVALID);
    gating.t_finished = tensor(gating.finished, MOE_BOOL, {2, 1});
    CHECK(gating.check() == MOE_ERROR_TILING);
    CHECK(name_of_fault() == "finished");
    gating.t_finished = tensor(gating.finished, MOE_BOOL, {2});
    for (const int64_t k : {int64_t{-1}, int64_t{5}, INT64_MAX, INT64_MIN}) {
        gating.args.k = k;
        CHECK(gating.check() == MOE_ERROR_TILING);
        CHECK(moe_last_error()->kind == MOE_KIND_VALUE);
    }
}

TEST_CASE("softmax gating: shapes need no output") {
    Softmax gating;
    gating.args.y = gating.args.expert_idx = gating.args.row_idx = nullptr;
    moe_tensor shapes[3];
    REQUIRE(moe_gating_top_k_softmax_shapes(&gating.args, shapes) == MOE_OK);
    CHECK(shapes[0].dtype == MOE_FLOAT32);
    for (int i = 0; i < 3; ++i) {
        if (i > 0) CHECK(shapes[i].dtype == MOE_INT32);
        CHECK(shapes[i].rank == 2);
        CHECK(shapes[i].shape[0] == 2);
        CHECK(shapes[i].shape[1] == 2);
    }
    CHECK(moe_gating_top_k_softmax_shapes(&gating.args, nullptr) == MOE_ERROR_NULL);
}

TEST_CASE("softmax gating: nothing to do is fine, without memory too") {
    Softmax gating;
    gating.args.k = 0;
    for (moe_tensor* t : {&gating.t_y, &gating.t_expert_idx, &gating.t_row_idx}) {
        t->shape[1] = 0;
        t->data = nullptr;
    }
    CHECK(gating.run() == MOE_OK);
    gating.t_x.shape[1] = 0;
    gating.t_x.data = nullptr;
    CHECK(gating.run() == MOE_OK);
    SoftmaxV2 v2;
    v2.args.k = 0;
    v2.t_y.shape[1] = v2.t_expert_idx.shape[1] = 0;
    v2.t_y.data = v2.t_expert_idx.data = nullptr;
    CHECK(v2.run() == MOE_OK);
    CHECK(v2.softmax[0] == 0.25f);
    v2.t_x.shape[1] = v2.t_softmax.shape[1] = 0;
    v2.t_x.data = v2.t_softmax.data = nullptr;
    CHECK(v2.run() == MOE_OK);
}

TEST_CASE("softmax gating: strided outputs") {
    Softmax gating;
    std::vector<float> wide(8, -7.0f);
    gating.t_y.data = wide.data();
    gating.t_y.stride[0] = 4 * sizeof(float);
    gating.t_y.stride[1] = 2 * sizeof(float);
    gating.t_row_idx.data = gating.row_idx.data() + 2;  // rows in reverse order
    gating.t_row_idx.stride[0] = -8;
    REQUIRE(gating.run() == MOE_OK);
    CHECK(wide[0] == 0.25f);
    CHECK(wide[2] == 0.25f);
    for (const size_t gap : {1, 3, 5, 7}) CHECK(wide[gap] == -7.0f);
    CHECK(gating.row_idx == std::vector<int32_t>{1, 3, 0, 2});
}

TEST_CASE("softmax gating v2: worked number") {
    SoftmaxV2 gating;
    REQUIRE(gating.run() == MOE_OK);
    CHECK(gating.y[0] == 0.25f);
    CHECK(gating.expert_idx == std::vector<int32_t>{0, 1, 1, 3});
    CHECK(gating.softmax[3] == 0.25f);
    CHECK(gating.y[2] == gating.softmax[5]);
    gating.args.renorm = 1;
    gating.args.softmax = nullptr;
    REQUIRE(gating.run() == MOE_OK);
    CHECK(gating.y == std::vector<float>(4, 0.5f));
}

TEST_CASE("softmax gating v2: tensors") {
    using Args = moe_gating_top_k_softmax_v2_args;
    refuses_bad_tensors<SoftmaxV2>(&Args::x, "x", MOE_FLOAT64, {8});
    refuses_bad_tensors<SoftmaxV2>(&Args::y, "y", MOE_FLOAT16, {2, 3});
    refuses_bad_tensors<SoftmaxV2>(&Args::expert_idx, "expert_idx", MOE_INT64, {2, 3});
    refuses_bad_tensors<SoftmaxV2>(&Args::softmax, "softmax", MOE_FLOAT16, {2, 5});
    CHECK(moe_gating_top_k_softmax_v2_check(nullptr) == MOE_ERROR_NULL);
    SoftmaxV2 gating;
    gating.args.renorm = 2;
    CHECK(gating.check() == MOE_ERROR_TILING);
    CHECK(name_of_fault() == "renorm");
}

TEST_CASE("softmax gating v2: a softmax that is not asked for is not looked at") {
    moe_tensor shapes[3];
    for (const bool asked : {false, true}) {
        SoftmaxV2 gating;
        gating.args.output_softmax = asked;
        gating.args.renorm = asked ? 1 : 0;
        REQUIRE(moe_gating_top_k_softmax_v2_shapes(&gating.args, shapes) == MOE_OK);
        CHECK(shapes[2].dtype == MOE_FLOAT32);
        CHECK(shapes[2].rank == 1);
        CHECK(shapes[2].shape[0] == 0);
        gating.t_softmax.rank = 99;
        CHECK(gating.run() == MOE_OK);
        CHECK(gating.softmax == std::vector<float>(8, -7.0f));
    }
}

TEST_CASE("top k: worked number") {
    TopK gating;
    REQUIRE(gating.run() == MOE_OK);
    CHECK(gating.expert_idx == std::vector<int32_t>{0, 2});
    CHECK(gating.y[0] == doctest::Approx(0.1742886).epsilon(1e-6));
    CHECK(gating.y[1] == doctest::Approx(1.2878286).epsilon(1e-6));
}

TEST_CASE("top k: tensors") {
    using Args = moe_gating_top_k_args;
    refuses_bad_tensors<TopK>(&Args::x, "x", MOE_FLOAT64, {4});
    refuses_bad_tensors<TopK>(&Args::y, "y", MOE_FLOAT16, {1, 3});
    refuses_bad_tensors<TopK>(&Args::expert_idx, "expert_idx", MOE_INT64, {2});
    CHECK(moe_gating_top_k_check(nullptr) == MOE_ERROR_NULL);
    TopK gating;
    gating.t_bias.dtype = MOE_FLOAT16;
    CHECK(gating.check() == MOE_ERROR_INVALID);
    CHECK(name_of_fault() == "bias");
    gating.t_bias = tensor(gating.bias, MOE_FLOAT32, {2, 2});
    CHECK(gating.check() == MOE_ERROR_TILING);
    gating.args.bias = nullptr;
    CHECK(gating.check() == MOE_OK);
}

TEST_CASE("top k: norm_out is required, its shape only counts with out_flag") {
    TopK gating;
    gating.args.norm_out = nullptr;
    CHECK(gating.check() == MOE_ERROR_NULL);
    CHECK(name_of_fault() == "norm_out");
    gating.args.norm_out = &gating.t_norm_out;
    gating.t_norm_out.dtype = MOE_FLOAT16;
    CHECK(gating.check() == MOE_ERROR_INVALID);
    gating.t_norm_out = tensor(gating.norm_out, MOE_FLOAT32, {2, 2});
    CHECK(gating.check() == MOE_OK);
    gating.args.out_flag = true;
    CHECK(gating.check() == MOE_ERROR_TILING);
    CHECK(name_of_fault() == "norm_out");
}

TEST_CASE("top k: norm_out without out_flag is untouched, or zero on request") {
    TopK gating;
    gating.t_norm_out.data = nullptr;
    CHECK(gating.run() == MOE_OK);
    gating.t_norm_out.data = gating.norm_out.data();
    CHECK(gating.run() == MOE_OK);
    CHECK(gating.norm_out == std::vector<float>(4, -7.0f));
    const moe_run_options zero{MOE_DATA_REJECT, MOE_UNDEFINED_ZERO, nullptr};
    gating.t_norm_out = tensor(gating.norm_out, MOE_FLOAT32, {2, 1});
    gating.t_norm_out.stride[0] = 2 * sizeof(float);
    CHECK(gating.run(&zero) == MOE_OK);
    CHECK(gating.norm_out == std::vector<float>{0, -7, 0, -7});
    gating.t_norm_out = tensor(gating.norm_out, MOE_FLOAT32, {1, 4});
    gating.args.out_flag = true;
    CHECK(gating.run(&zero) == MOE_OK);
    CHECK(2 * gating.norm_out[2] == gating.y[1]);
}

TEST_CASE("top k: attributes") {
    const auto refused = [](int64_t moe_gating_top_k_args::*member, int64_t value) {
        TopK gating;
        gating.args.*member = value;
        CAPTURE(value);
        CHECK(gating.check() == MOE_ERROR_TILING);
        CHECK(moe_last_error()->kind == MOE_KIND_VALUE);
    };
    for (const int64_t extreme : {INT64_MIN, INT64_MAX, int64_t{-1}, int64_t{5}}) {
        refused(&moe_gating_top_k_args::k, extreme);
        refused(&moe_gating_top_k_args::k_group, extreme);
        refused(&moe_gating_top_k_args::group_count, extreme);
        refused(&moe_gating_top_k_args::group_select_mode, extreme);
        refused(&moe_gating_top_k_args::renorm, extreme);
        refused(&moe_gating_top_k_args::norm_type, extreme);
    }
}

TEST_CASE("expert tokens: worked number") {
    Tokens tokens;
    REQUIRE(tokens.run() == MOE_OK);
    CHECK(tokens.out == std::vector<int32_t>{2, 2, 5});
}

TEST_CASE("expert tokens: tensors") {
    using Args = moe_compute_expert_tokens_args;
    refuses_bad_tensors<Tokens>(&Args::sorted_expert_for_source_row, "sorted_expert_for_source_row", MOE_INT64, {2, 3});
    refuses_bad_tensors<Tokens>(&Args::out, "out", MOE_INT64, {4});
    CHECK(moe_compute_expert_tokens_check(nullptr) == MOE_ERROR_NULL);
    Tokens tokens;
    for (const int64_t experts : {INT64_MIN, int64_t{-1}, int64_t{0}, int64_t{2049}, INT64_MAX}) {
        tokens.args.num_expert = experts;
        CHECK(tokens.check() == MOE_ERROR_TILING);
        CHECK(name_of_fault() == "num_expert");
    }
}

TEST_CASE("expert tokens: no rows, strided output") {
    Tokens tokens;
    tokens.t_ids.shape[0] = 0;
    tokens.t_ids.data = nullptr;
    CHECK(tokens.run() == MOE_OK);
    CHECK(tokens.out == std::vector<int32_t>(3, 0));
    Tokens reversed;
    reversed.t_out.data = reversed.out.data() + 2;
    reversed.t_out.stride[0] = -4;
    CHECK(reversed.run() == MOE_OK);
    CHECK(reversed.out == std::vector<int32_t>{5, 2, 2});
}
