// npu_moe_token_unpermute_with_routing_map through the C API: what Python cannot reach.
#include <doctest/doctest.h>

#include <algorithm>

#include "call.h"

using namespace moe_test;

namespace {

using Args = moe_token_unpermute_with_routing_map_args;

// Three tokens of two columns, four experts; dropless with two per token, or padded with a capacity of two. Weights are
// powers of two, so that sums are exact.
struct Layer {
    std::vector<float> rows;
    std::vector<int32_t> index;
    std::vector<int8_t> map{1, 0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1};
    std::vector<float> probs{1, 2, 4, 8, 16, 32, 64, 128, .5f, .25f, .125f, 2};
    int64_t shape[2] = {3, 2};
    std::vector<float> out = std::vector<float>(6, -7.0f);
    std::vector<int32_t> out_index, out_id;
    std::vector<float> out_probs;

    moe_tensor t_rows, t_index;
    moe_tensor t_map = tensor(map, MOE_INT8, {3, 4});
    moe_tensor t_probs = tensor(probs, MOE_FLOAT32, {3, 4});
    moe_tensor t_out = tensor(out, MOE_FLOAT32, {3, 2});
    moe_tensor t_out_index, t_out_id, t_out_probs;
    Args args{&t_rows, &t_index, &t_map, &t_probs, false, shape, &t_out, &t_out_index, &t_out_id, &t_out_probs};

    explicit Layer(bool drop_and_pad = false) {
        args.drop_and_pad = drop_and_pad;
        if (drop_and_pad) {
            rows = {1, 2, 5, 6, 3, 4, 1, 2, 1, 2, 3, 4, 5, 6, 1, 2};
            index = {0, 2, 1, 0, 0, 1, 2, 0};
        } else {
            rows = {1, 2, 5, 6, 3, 4, 1, 2, 3, 4, 5, 6};
            index = {0, 3, 2, 4, 1, 5};
        }
        resize();
    }

    void resize() {
        const auto slots = static_cast<int64_t>(index.size());
        out_index.assign(index.size(), -7);
        out_id.assign(index.size(), -7);
        out_probs.assign(index.size(), -7.0f);
        t_rows = tensor(rows, MOE_FLOAT32, {static_cast<int64_t>(rows.size()) / 2, 2});
        t_index = tensor(index, MOE_INT32, {slots});
        t_out_index = tensor(out_index, MOE_INT32, {slots});
        t_out_id = tensor(out_id, MOE_INT32, {slots});
        t_out_probs = tensor(out_probs, MOE_FLOAT32, {slots});
    }

    bool untouched() const {
        const auto poison = [](auto value) { return value == -7; };
        return std::all_of(out.begin(), out.end(), poison) && std::all_of(out_index.begin(), out_index.end(), poison) &&
               std::all_of(out_id.begin(), out_id.end(), poison) &&
               std::all_of(out_probs.begin(), out_probs.end(), poison);
    }

    moe_status check() { return moe_token_unpermute_with_routing_map_check(&args); }
    moe_status run(const moe_run_options* options = nullptr) {
        return plan_and_run(args, moe_token_unpermute_with_routing_map_plan, moe_token_unpermute_with_routing_map_run,
                            options);
    }
};

const std::vector<float> dropless_sums{5, 10, 288, 384, 12.5f, 15};
const std::vector<float> padded_sums{15, 30, 288, 384, 12.5f, 15};

}  // namespace

TEST_CASE("unpermute: worked numbers; what dropless does not define keeps its contents or becomes zero") {
    Layer dropless;
    REQUIRE(dropless.run() == MOE_OK);
    CHECK(dropless.out == dropless_sums);
    CHECK(dropless.out_probs == std::vector<float>{1, 4, 32, 64, .5f, 2});
    CHECK(dropless.out_index == std::vector<int32_t>(6, -7));
    CHECK(dropless.out_id == std::vector<int32_t>(6, -7));
    const moe_run_options zero{MOE_DATA_REJECT, MOE_UNDEFINED_ZERO, nullptr};
    REQUIRE(dropless.run(&zero) == MOE_OK);
    CHECK(dropless.out_index == std::vector<int32_t>(6, 0));
    CHECK(dropless.out_id == std::vector<int32_t>(6, 0));

    Layer padded(true);
    REQUIRE(padded.run() == MOE_OK);
    CHECK(padded.out == padded_sums);
    CHECK(padded.out_index == std::vector<int32_t>{0, 3, 4, 7, 2, 5, 1, 6});
    CHECK(padded.out_id == std::vector<int32_t>{0, 0, 0, 0, 1, 1, 2, 2});
    CHECK(padded.out_probs == std::vector<float>{1, .5f, 32, 2, 4, 64, 2, 8});
}

TEST_CASE("unpermute: checking data finds what a run finds, and writes nothing") {
    const moe_run_options check{MOE_DATA_CHECK, MOE_UNDEFINED_ZERO, nullptr};
    for (const bool drop_and_pad : {false, true})
        for (const bool probs : {false, true}) {
            Layer layer(drop_and_pad);
            if (!probs) layer.args.probs = nullptr;
            if (!probs) layer.args.permute_probs = nullptr;
            REQUIRE(layer.run(&check) == MOE_OK);
            CHECK(layer.untouched());
            layer.index[1] = 1000;
            CHECK(layer.run(&check) == MOE_ERROR_INVALID);
            CHECK(moe_last_error()->kind == MOE_KIND_DATA);
            CHECK(layer.untouched());
        }
    const moe_run_options unknown{static_cast<moe_data_policy>(3), MOE_UNDEFINED_ZERO, nullptr};
    CHECK(Layer().run(&unknown) == MOE_ERROR_INVALID);
}

TEST_CASE("unpermute: optional outputs and inputs") {
    Layer dropless;
    dropless.args.out_index = dropless.args.permuted_token_id = dropless.args.permute_probs = nullptr;
    dropless.args.restore_shape = nullptr;
    REQUIRE(dropless.run() == MOE_OK);
    CHECK(dropless.out == dropless_sums);
    Layer padded(true);
    padded.args.permute_probs = nullptr;
    padded.args.routing_map = nullptr;
    REQUIRE(padded.run() == MOE_OK);
    CHECK(padded.out == padded_sums);
    // Without probabilities there is nothing to write into permute_probs.
    for (const bool drop_and_pad : {false, true}) {
        Layer layer(drop_and_pad);
        layer.args.probs = nullptr;
        REQUIRE(layer.run() == MOE_OK);
        CHECK(layer.out_probs == std::vector<float>(layer.index.size(), -7.0f));
        CHECK(layer.out ==
              (drop_and_pad ? std::vector<float>{4, 8, 6, 8, 10, 12} : std::vector<float>{2, 4, 6, 8, 10, 12}));
    }
}

TEST_CASE("unpermute: shapes need no output") {
    Layer layer(true);
    layer.args.unpermuted = layer.args.out_index = layer.args.permuted_token_id = layer.args.permute_probs = nullptr;
    moe_tensor shapes[4];
    REQUIRE(moe_token_unpermute_with_routing_map_shapes(&layer.args, shapes) == MOE_OK);
    CHECK(shapes[0].dtype == MOE_FLOAT32);
    CHECK(shapes[0].rank == 2);
    CHECK(shapes[0].shape[0] == 3);
    CHECK(shapes[0].shape[1] == 2);
    for (const int i : {1, 2, 3}) {
        CHECK(shapes[i].dtype == (i == 3 ? MOE_FLOAT32 : MOE_INT32));
        CHECK(shapes[i].rank == 1);
        CHECK(shapes[i].shape[0] == 8);
    }
    layer.args.probs = nullptr;
    REQUIRE(moe_token_unpermute_with_routing_map_shapes(&layer.args, shapes) == MOE_OK);
    CHECK(shapes[3].dtype == MOE_UNDEFINED);
    CHECK(moe_token_unpermute_with_routing_map_shapes(&layer.args, nullptr) == MOE_ERROR_NULL);
}

TEST_CASE("unpermute: null pointers") {
    CHECK(moe_token_unpermute_with_routing_map_check(nullptr) == MOE_ERROR_NULL);
    for (const auto member : {&Args::permuted_tokens, &Args::sorted_indices}) {
        Layer layer;
        layer.args.*member = nullptr;
        CHECK(layer.check() == MOE_ERROR_NULL);
    }
    for (const auto member : {&Args::unpermuted, &Args::out_index, &Args::permuted_token_id}) {
        Layer layer(true);
        layer.args.*member = nullptr;
        CHECK(layer.check() == MOE_ERROR_NULL);
    }
    Layer layer;
    layer.args.unpermuted = nullptr;
    CHECK(layer.check() == MOE_ERROR_NULL);
    layer.args.unpermuted = &layer.t_out;
    layer.args.probs = nullptr;
    layer.args.restore_shape = nullptr;
    CHECK(layer.check() == MOE_ERROR_NULL);
    CHECK(std::string(moe_last_error()->argument) == "restore_shape");
    layer.args.restore_shape = layer.shape;
    layer.t_rows.data = nullptr;
    CHECK(layer.check() == MOE_OK);
    CHECK(layer.run() == MOE_ERROR_NULL);
}

TEST_CASE("unpermute: codes of the refusals, in their order") {
    const auto refused = [](moe_status status, const char* argument, bool drop_and_pad, auto&& spoil) {
        Layer layer(drop_and_pad);
        spoil(layer);
        CAPTURE(argument);
        CHECK(layer.check() == status);
        CHECK(std::string(moe_last_error()->argument) == argument);
        CHECK(layer.run() == status);
        CHECK(layer.untouched());
    };
    for (const bool padded : {false, true}) {
        CAPTURE(padded);
        // Dtypes.
        refused(MOE_ERROR_INVALID, "permuted_tokens", padded, [](Layer& l) { l.t_rows.dtype = MOE_INT32; });
        refused(MOE_ERROR_INVALID, "probs", padded, [](Layer& l) { l.t_probs.dtype = MOE_INT32; });
        refused(MOE_ERROR_INVALID, "sorted_indices", padded, [](Layer& l) { l.t_index.dtype = MOE_INT64; });
        refused(MOE_ERROR_INVALID, "out_index", padded, [](Layer& l) { l.t_out_index.dtype = MOE_INT64; });
        refused(MOE_ERROR_INVALID, "permuted_token_id", padded, [](Layer& l) { l.t_out_id.dtype = MOE_FLOAT32; });
        refused(MOE_ERROR_INVALID, "unpermuted", padded, [](Layer& l) { l.t_out.dtype = MOE_FLOAT16; });
        refused(MOE_ERROR_INVALID, "permute_probs", padded, [](Layer& l) { l.t_out_probs.dtype = MOE_FLOAT16; });
        // Ranks.
        refused(MOE_ERROR_INVALID, "permuted_tokens", padded, [](Layer& l) { l.t_rows.rank = 1; });
        refused(MOE_ERROR_INVALID, "unpermuted", padded, [](Layer& l) { l.t_out.rank = 1; });
        refused(MOE_ERROR_INVALID, "sorted_indices", padded, [](Layer& l) {
            l.t_index = tensor(l.index, MOE_INT32, {2, 3});
        });
        // Shapes.
        refused(MOE_ERROR_TILING, "routing_map", padded, [](Layer& l) { l.t_map.dtype = MOE_UINT8; });
        refused(MOE_ERROR_TILING, "routing_map", padded, [](Layer& l) { l.t_map.rank = 1; });
        refused(MOE_ERROR_TILING, "routing_map", padded, [](Layer& l) { l.t_map.shape[1] = 3; });
        refused(MOE_ERROR_TILING, "probs", padded, [](Layer& l) { l.t_probs.rank = 1; });
        refused(MOE_ERROR_TILING, "restore_shape", padded, [](Layer& l) { l.shape[0] = 2; });
        refused(MOE_ERROR_TILING, "restore_shape", padded, [](Layer& l) { l.shape[1] = 3; });
        refused(MOE_ERROR_TILING, "permuted_tokens", padded, [](Layer& l) { l.t_rows.shape[0] = 5; });
        refused(MOE_ERROR_TILING, "sorted_indices", padded, [](Layer& l) {
            l.index.resize(5);
            l.rows.resize(10);
            l.resize();
        });
        refused(MOE_ERROR_TILING, "unpermuted", padded, [](Layer& l) { l.t_out.shape[0] = 2; });
        refused(MOE_ERROR_TILING, "unpermuted", padded, [](Layer& l) { l.t_out.shape[1] = 1; });
        refused(MOE_ERROR_TILING, "out_index", padded, [](Layer& l) { l.t_out_index.shape[0] -= 1; });
        refused(MOE_ERROR_TILING, "permuted_token_id", padded, [](Layer& l) { l.t_out_id.shape[0] -= 1; });
        refused(MOE_ERROR_TILING, "permute_probs", padded, [](Layer& l) { l.t_out_probs.shape[0] -= 1; });
        refused(MOE_ERROR_TILING, "sorted_indices", padded,
                [](Layer& l) { l.t_probs.shape[0] = l.shape[0] = l.t_out.shape[0] = l.t_map.shape[0] = 0; });
        refused(MOE_ERROR_INVALID, "sorted_indices", padded, [](Layer& l) {
            l.t_index.format = MOE_FORMAT_NZ;
            l.t_index.storage_rank = 1;
            l.t_index.storage_shape[0] = 1;
        });
    }
    refused(MOE_ERROR_TILING, "restore_shape", false, [](Layer& l) {
        l.args.probs = nullptr;
        l.shape[0] = -3;
    });
    refused(MOE_ERROR_TILING, "routing_map", false, [](Layer& l) { l.args.routing_map = nullptr; });
    refused(MOE_ERROR_TILING, "routing_map", false, [](Layer& l) {
        l.index.assign(15, 0);
        l.rows.assign(30, 1.0f);
        l.resize();
    });
    refused(MOE_ERROR_TILING, "sorted_indices", true, [](Layer& l) {
        l.index.assign(16, 0);
        l.rows.assign(32, 1.0f);
        l.resize();
    });
    const moe_limits previous = moe_set_limits(MOE_LIMITS_ATLAS_A2);
    refused(MOE_ERROR_TILING, "sorted_indices", false, [](Layer& l) {
        l.index.assign(3 * 513, 0);
        l.rows.assign(6 * 513, 1.0f);
        l.args.probs = nullptr;
        l.args.routing_map = nullptr;
        l.resize();
    });
    moe_set_limits(previous);
}

TEST_CASE("unpermute: without rows the outputs keep their contents or become zero") {
    for (const bool drop_and_pad : {false, true}) {
        Layer layer(drop_and_pad);
        layer.t_rows.shape[0] = 0;
        CHECK(layer.run() == MOE_OK);
        CHECK(layer.untouched());
        const moe_run_options zero{MOE_DATA_REJECT, MOE_UNDEFINED_ZERO, nullptr};
        CHECK(layer.run(&zero) == MOE_OK);
        CHECK(layer.out == std::vector<float>(6, 0.0f));
        CHECK(layer.out_index == std::vector<int32_t>(layer.index.size(), 0));
        CHECK(layer.out_id == std::vector<int32_t>(layer.index.size(), 0));
        CHECK(layer.out_probs == std::vector<float>(layer.index.size(), 0.0f));
    }
}

TEST_CASE("unpermute: strided outputs") {
    Layer layer(true);
    std::vector<float> wide(12, -7.0f), wide_probs(16, -7.0f);
    std::vector<int32_t> wide_index(16, -7);
    layer.t_out.data = wide.data();
    layer.t_out.stride[0] = 16;
    layer.t_out.stride[1] = 8;
    layer.t_out_index.data = wide_index.data();
    layer.t_out_index.stride[0] = 8;
    layer.t_out_probs.data = wide_probs.data();
    layer.t_out_probs.stride[0] = 8;
    REQUIRE(layer.run() == MOE_OK);
    for (size_t i = 0; i < 12; ++i) CHECK(wide[i] == (i % 2 == 0 ? padded_sums[i / 2] : -7.0f));
    const std::vector<int32_t> needed_index{0, 3, 4, 7, 2, 5, 1, 6};
    const std::vector<float> needed_probs{1, .5f, 32, 2, 4, 64, 2, 8};
    for (size_t i = 0; i < 16; ++i) {
        CHECK(wide_index[i] == (i % 2 == 0 ? needed_index[i / 2] : -7));
        CHECK(wide_probs[i] == (i % 2 == 0 ? needed_probs[i / 2] : -7.0f));
    }
}

TEST_CASE("unpermute: bad indices are rejected before anything is written, or skipped and reported") {
    moe_data_report report;
    const moe_run_options skip{MOE_DATA_SKIP, MOE_UNDEFINED_KEEP, &report};

    Layer dropless;
    dropless.index = {0, 6, 2, -1, INT32_MIN, INT32_MAX};
    CHECK(dropless.run() == MOE_ERROR_INVALID);
    CHECK(last_message() == "sorted_indices: 6 at position 1, needed a row of permuted_tokens");
    CHECK(dropless.untouched());
    REQUIRE(dropless.run(&skip) == MOE_OK);
    CHECK(report.count == 4);
    CHECK(std::string(report.argument) == "sorted_indices");
    CHECK(report.index == 1);
    CHECK(report.value == 6);
    CHECK(dropless.out == std::vector<float>{1, 2, 96, 128, 0, 0});
    CHECK(dropless.out_probs == std::vector<float>{1, 4, 32, 64, .5f, 2});

    Layer padded(true);
    padded.index = {0, 3, 1, -1, 0, 1, INT32_MAX, INT32_MIN};
    CHECK(padded.run() == MOE_ERROR_INVALID);
    CHECK(last_message() == "sorted_indices: 3 at position 1, needed a token");
    CHECK(padded.untouched());
    REQUIRE(padded.run(&skip) == MOE_OK);
    CHECK(report.count == 4);
    CHECK(padded.out == std::vector<float>{5, 10, 288, 384, 0, 0});
    CHECK(padded.out_index == std::vector<int32_t>{0, 4, 2, 5, -1, -1, -1, -1});
    CHECK(padded.out_id == std::vector<int32_t>{0, 0, 1, 1, -1, -1, -1, -1});
    CHECK(padded.out_probs == std::vector<float>{1, 0, 32, 0, 4, 64, 0, 0});
}

TEST_CASE("unpermute: a ragged map is rejected before anything is written, or does what it can") {
    moe_data_report report;
    const moe_run_options skip{MOE_DATA_SKIP, MOE_UNDEFINED_KEEP, &report};
    Layer fewer;
    fewer.map = {1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0};
    CHECK(fewer.run() == MOE_ERROR_INVALID);
    CHECK(moe_last_error()->kind == MOE_KIND_DATA);
    CHECK(last_message() == "routing_map: row 1 has 1 experts, needed indices per token = 2");
    CHECK(fewer.untouched());
    REQUIRE(fewer.run(&skip) == MOE_OK);
    CHECK(report.count == 2);
    CHECK(fewer.out_probs == std::vector<float>{1, 4, 64, 0, 0, 0});
    CHECK(fewer.out == std::vector<float>{5, 10, 192, 256, 0, 0});

    Layer more;
    more.map.assign(12, 1);
    REQUIRE(more.run(&skip) == MOE_OK);
    CHECK(report.count == 3);
    CHECK(more.out_probs == std::vector<float>{1, 2, 4, 8, 16, 32});
    CHECK(more.out == std::vector<float>{3, 6, 36, 48, 240, 288});
}
