// npu_moe_token_permute_with_routing_map through the C API: what Python cannot reach.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "call.h"

using namespace moe_test;

namespace {

using Args = moe_token_permute_with_routing_map_args;

// Three tokens, four experts, two experts per token.
struct Layer {
    std::vector<float> tokens{1, 2, 3, 4, 5, 6};
    std::vector<int8_t> map{1, 0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1};
    std::vector<float> probs{.1f, .2f, .3f, .4f, .5f, .6f, .7f, .8f, .9f, 1.0f, 1.1f, 1.2f};
    std::vector<float> out_tokens = std::vector<float>(12, -7.0f);
    std::vector<float> out_probs = std::vector<float>(6, -7.0f);
    std::vector<int32_t> out_indices = std::vector<int32_t>(6, -7);
    const std::vector<float> needed_tokens{1, 2, 5, 6, 3, 4, 1, 2, 3, 4, 5, 6};
    const std::vector<float> needed_probs{.1f, .9f, .6f, .3f, .7f, 1.2f};
    const std::vector<int32_t> needed_indices{0, 3, 2, 4, 1, 5};

    moe_tensor t_tokens = tensor(tokens, MOE_FLOAT32, {3, 2});
    moe_tensor t_map = tensor(map, MOE_INT8, {3, 4});
    moe_tensor t_probs = tensor(probs, MOE_FLOAT32, {3, 4});
    moe_tensor t_out_tokens, t_out_probs, t_out_indices;
    Args args{&t_tokens, &t_map, &t_probs, 6, false, &t_out_tokens, &t_out_probs, &t_out_indices};

    Layer() { resize(6); }

    void resize(int64_t rows) {
        const auto count = static_cast<size_t>(rows);
        out_tokens.assign(count * 2, -7.0f);
        out_probs.assign(count, -7.0f);
        out_indices.assign(count, -7);
        t_out_tokens = tensor(out_tokens, MOE_FLOAT32, {rows, 2});
        t_out_probs = tensor(out_probs, MOE_FLOAT32, {rows});
        t_out_indices = tensor(out_indices, MOE_INT32, {rows});
    }

    bool untouched() const {
        const auto poison = [](auto value) { return value == -7; };
        return std::all_of(out_tokens.begin(), out_tokens.end(), poison) &&
               std::all_of(out_probs.begin(), out_probs.end(), poison) &&
               std::all_of(out_indices.begin(), out_indices.end(), poison);
    }

    moe_status check() { return moe_token_permute_with_routing_map_check(&args); }
    moe_status run(const moe_run_options* options = nullptr) {
        return plan_and_run(args, moe_token_permute_with_routing_map_plan, moe_token_permute_with_routing_map_run,
                            options);
    }
};

}  // namespace

TEST_CASE("permute: worked number") {
    Layer layer;
    REQUIRE(layer.run() == MOE_OK);
    CHECK(layer.out_tokens == layer.needed_tokens);
    CHECK(layer.out_probs == layer.needed_probs);
    CHECK(layer.out_indices == layer.needed_indices);

    layer.resize(8);
    layer.args.num_out_tokens = 8;
    layer.args.drop_and_pad = true;
    REQUIRE(layer.run() == MOE_OK);
    CHECK(layer.out_tokens == std::vector<float>{1, 2, 5, 6, 3, 4, 1, 2, 1, 2, 3, 4, 5, 6, 1, 2});
    CHECK(layer.out_probs == std::vector<float>{.1f, .9f, .6f, .2f, .3f, .7f, 1.2f, .4f});
    CHECK(layer.out_indices == std::vector<int32_t>{0, 2, 1, 0, 0, 1, 2, 0});
}

TEST_CASE("permute: shapes need no output") {
    Layer layer;
    layer.args.permuted_tokens = layer.args.permuted_probs = layer.args.sorted_indices = nullptr;
    moe_tensor shapes[3];
    REQUIRE(moe_token_permute_with_routing_map_shapes(&layer.args, shapes) == MOE_OK);
    CHECK(shapes[0].dtype == MOE_FLOAT32);
    CHECK(shapes[0].rank == 2);
    CHECK(shapes[0].shape[0] == 6);
    CHECK(shapes[0].shape[1] == 2);
    CHECK(shapes[1].dtype == MOE_FLOAT32);
    CHECK(shapes[1].rank == 1);
    CHECK(shapes[1].shape[0] == 6);
    CHECK(shapes[2].dtype == MOE_INT32);
    CHECK(shapes[2].shape[0] == 6);
    layer.args.probs = nullptr;
    REQUIRE(moe_token_permute_with_routing_map_shapes(&layer.args, shapes) == MOE_OK);
    CHECK(shapes[1].dtype == MOE_UNDEFINED);
    CHECK(moe_token_permute_with_routing_map_shapes(&layer.args, nullptr) == MOE_ERROR_NULL);
}

TEST_CASE("permute: null pointers") {
    CHECK(moe_token_permute_with_routing_map_check(nullptr) == MOE_ERROR_NULL);
    for (const auto member : {&Args::tokens, &Args::routing_map}) {
        Layer layer;
        layer.args.*member = nullptr;
        CHECK(layer.check() == MOE_ERROR_NULL);
    }
    for (const auto member : {&Args::permuted_tokens, &Args::permuted_probs, &Args::sorted_indices}) {
        Layer layer;
        layer.args.*member = nullptr;
        CHECK(layer.check() == MOE_ERROR_NULL);
        CHECK(moe_last_error()->kind == MOE_KIND_MISSING);
    }
    Layer layer;
    layer.args.probs = nullptr;
    CHECK(layer.check() == MOE_ERROR_NULL);
    CHECK(last_message() == "permuted_probs: given without probs, needed exactly when probs is given");
    layer.args.permuted_probs = nullptr;
    CHECK(layer.run() == MOE_OK);
    CHECK(layer.out_indices == layer.needed_indices);
    layer.t_map.data = nullptr;
    CHECK(layer.check() == MOE_OK);
    CHECK(layer.run() == MOE_ERROR_NULL);
}

TEST_CASE("permute: codes of the refusals, in their order") {
    const auto refused = [](moe_status status, const char* argument, auto&& spoil) {
        Layer layer;
        spoil(layer);
        CAPTURE(argument);
        CHECK(layer.check() == status);
        CHECK(std::string(moe_last_error()->argument) == argument);
        CHECK(layer.run() == status);
        CHECK(layer.untouched());
    };
    // Dtypes.
    refused(MOE_ERROR_INVALID, "tokens", [](Layer& l) { l.t_tokens.dtype = MOE_INT32; });
    refused(MOE_ERROR_INVALID, "routing_map", [](Layer& l) { l.t_map.dtype = MOE_UINT8; });
    refused(MOE_ERROR_INVALID, "permuted_tokens", [](Layer& l) { l.t_out_tokens.dtype = MOE_FLOAT16; });
    refused(MOE_ERROR_INVALID, "sorted_indices", [](Layer& l) { l.t_out_indices.dtype = MOE_INT64; });
    refused(MOE_ERROR_INVALID, "probs", [](Layer& l) { l.t_probs.dtype = MOE_FLOAT16; });
    refused(MOE_ERROR_INVALID, "permuted_probs", [](Layer& l) { l.t_out_probs.dtype = MOE_FLOAT16; });
    // Ranks of the map and the probabilities; the number; rows of the outputs.
    refused(MOE_ERROR_INVALID, "routing_map", [](Layer& l) { l.t_map.rank = 1; });
    refused(MOE_ERROR_INVALID, "probs", [](Layer& l) { l.t_probs.rank = 1; });
    refused(MOE_ERROR_INVALID, "num_out_tokens", [](Layer& l) { l.args.num_out_tokens = -1; });
    refused(MOE_ERROR_INVALID, "num_out_tokens", [](Layer& l) { l.args.num_out_tokens = 13; });
    refused(MOE_ERROR_INVALID, "permuted_tokens", [](Layer& l) { l.t_out_tokens.shape[0] = 5; });
    refused(MOE_ERROR_INVALID, "permuted_tokens", [](Layer& l) { l.t_out_tokens.rank = 0; });
    refused(MOE_ERROR_INVALID, "permuted_probs", [](Layer& l) { l.t_out_probs.shape[0] = 5; });
    // Tokens; width of the output; rank of the indices.
    refused(MOE_ERROR_TILING, "tokens", [](Layer& l) { l.t_tokens.shape[0] = 2; });
    refused(MOE_ERROR_TILING, "tokens", [](Layer& l) { l.t_tokens.rank = 1; });
    refused(MOE_ERROR_TILING, "permuted_tokens", [](Layer& l) { l.t_out_tokens.shape[1] = 1; });
    refused(MOE_ERROR_TILING, "permuted_tokens", [](Layer& l) { l.t_out_tokens.rank = 1; });
    refused(MOE_ERROR_TILING, "sorted_indices", [](Layer& l) {
        l.t_out_indices = tensor(l.out_indices, MOE_INT32, {6, 1});
    });
    // Shape of the probabilities, number of indices.
    refused(MOE_ERROR_INVALID, "probs", [](Layer& l) { l.t_probs.shape[1] = 3; });
    refused(MOE_ERROR_INVALID, "sorted_indices", [](Layer& l) { l.t_out_indices.shape[0] = 5; });
    // Storage.
    refused(MOE_ERROR_INVALID, "tokens", [](Layer& l) {
        l.t_tokens.format = MOE_FORMAT_NZ;
        l.t_tokens.storage_rank = 4;
        for (int64_t& size : l.t_tokens.storage_shape) size = 1;
    });
    // An earlier rule wins.
    refused(MOE_ERROR_INVALID, "probs", [](Layer& l) {
        l.t_probs.rank = 1;
        l.args.num_out_tokens = -1;
        l.t_tokens.shape[0] = 2;
    });
}

TEST_CASE("permute: limits of a card") {
    const moe_limits previous = moe_set_limits(MOE_LIMITS_ATLAS_A2);
    for (const int64_t per_token : {512, 513}) {
        std::vector<float> tokens{1};
        std::vector<int8_t> map(513, 1);
        std::vector<float> out(513);
        std::vector<int32_t> indices(513);
        map[512] = per_token == 513;
        moe_tensor t_tokens = tensor(tokens, MOE_FLOAT32, {1, 1});
        moe_tensor t_map = tensor(map, MOE_INT8, {1, 513});
        moe_tensor t_out = tensor(out, MOE_FLOAT32, {per_token, 1});
        moe_tensor t_indices = tensor(indices, MOE_INT32, {per_token});
        const Args args{&t_tokens, &t_map, nullptr, per_token, false, &t_out, nullptr, &t_indices};
        CHECK(plan_and_run(args, moe_token_permute_with_routing_map_plan, moe_token_permute_with_routing_map_run) ==
              (per_token == 512 ? MOE_OK : MOE_ERROR_TILING));
    }
    Layer layer;
    layer.t_map.shape[1] = 16777215;
    CHECK(layer.check() == MOE_ERROR_INVALID);
    CHECK(std::string(moe_last_error()->argument) == "routing_map");
    moe_set_limits(previous);
}

TEST_CASE("permute: nothing to do") {
    Layer layer;
    for (const bool drop_and_pad : {false, true}) {
        layer.resize(0);
        layer.args.drop_and_pad = drop_and_pad;
        layer.args.num_out_tokens = 2;
        layer.t_tokens.data = layer.t_map.data = layer.t_probs.data = nullptr;
        CHECK(layer.run() == MOE_OK);
    }
}

TEST_CASE("permute: strided tensors") {
    Layer layer;
    // Transposed inputs.
    std::vector<float> tokens{1, 3, 5, 2, 4, 6};
    std::vector<int8_t> map{1, 0, 1, 0, 1, 0, 1, 1, 0, 0, 0, 1};
    layer.t_tokens.data = tokens.data();
    layer.t_tokens.stride[0] = 4;
    layer.t_tokens.stride[1] = 12;
    layer.t_map.data = map.data();
    layer.t_map.stride[0] = 1;
    layer.t_map.stride[1] = 3;
    // Every other element of the outputs.
    std::vector<float> wide_tokens(24, -7.0f), wide_probs(12, -7.0f);
    std::vector<int32_t> wide_indices(12, -7);
    layer.t_out_tokens.data = wide_tokens.data();
    layer.t_out_tokens.stride[0] = 16;
    layer.t_out_tokens.stride[1] = 8;
    layer.t_out_probs.data = wide_probs.data();
    layer.t_out_probs.stride[0] = 8;
    layer.t_out_indices.data = wide_indices.data();
    layer.t_out_indices.stride[0] = 8;
    REQUIRE(layer.run() == MOE_OK);
    for (size_t i = 0; i < 24; ++i) CHECK(wide_tokens[i] == (i % 2 == 0 ? layer.needed_tokens[i / 2] : -7.0f));
    for (size_t i = 0; i < 12; ++i) {
        CHECK(wide_probs[i] == (i % 2 == 0 ? layer.needed_probs[i / 2] : -7.0f));
        CHECK(wide_indices[i] == (i % 2 == 0 ? layer.needed_indices[i / 2] : -7));
    }
}

TEST_CASE("permute: a ragged map is rejected before anything is written, or does what it can") {
    moe_data_report report;
    const moe_run_options skip{MOE_DATA_SKIP, MOE_UNDEFINED_KEEP, &report};

    Layer fewer;  // two entries for six rows, as bytes that were meant as int32 may look
    fewer.map = {1, 0, 0, 0, 1, 0};
    fewer.t_map = tensor(fewer.map, MOE_BOOL, {3, 2});
    fewer.t_probs = tensor(fewer.probs, MOE_FLOAT32, {3, 2});
    CHECK(fewer.run() == MOE_ERROR_INVALID);
    CHECK(moe_last_error()->kind == MOE_KIND_DATA);
    CHECK(last_message() == "routing_map: row 0 has 1 experts, needed num_out_tokens // tokens = 2");
    CHECK(fewer.untouched());
    REQUIRE(fewer.run(&skip) == MOE_OK);
    CHECK(report.count == 3);
    CHECK(std::string(report.argument) == "routing_map");
    CHECK(report.index == 0);
    CHECK(report.value == 1);
    CHECK(fewer.out_tokens == std::vector<float>{1, 2, 5, 6, 0, 0, 0, 0, 0, 0, 0, 0});
    CHECK(fewer.out_probs == std::vector<float>{.1f, .5f, 0, 0, 0, 0});
    CHECK(fewer.out_indices == std::vector<int32_t>{0, 1, -1, -1, -1, -1});

    Layer uneven;
    uneven.map = {1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0};
    uneven.args.num_out_tokens = 12;
    uneven.resize(12);
    REQUIRE(uneven.run(&skip) == MOE_OK);
    CHECK(report.count == 3);
    CHECK(std::vector<int32_t>(uneven.out_indices.begin(), uneven.out_indices.begin() + 5) ==
          std::vector<int32_t>{0, 1, 3, 2, -1});
    CHECK(std::vector<float>(uneven.out_tokens.begin(), uneven.out_tokens.begin() + 9) ==
          std::vector<float>{1, 2, 1, 2, 3, 4, 1, 2, 0});

    Layer more;  // the first three of six pairs
    more.args.num_out_tokens = 3;
    more.resize(3);
    CHECK(more.run() == MOE_ERROR_INVALID);
    CHECK(more.untouched());
    REQUIRE(more.run(&skip) == MOE_OK);
    CHECK(report.count == 3);
    CHECK(more.out_tokens == std::vector<float>{1, 2, 5, 6, 3, 4});
    CHECK(more.out_probs == std::vector<float>{.1f, .9f, .6f});
    CHECK(more.out_indices == std::vector<int32_t>{0, 2, 1});
}

TEST_CASE("permute: ragged maps on any number of threads") {
    std::mt19937 engine(1);
    const moe_run_options skip{MOE_DATA_SKIP, MOE_UNDEFINED_KEEP, nullptr};
    for (int trial = 0; trial < 20; ++trial) {
        const int64_t token_count = 300, experts = 1 + engine() % 20, hidden = 300;
        const int64_t rows = token_count * (engine() % (experts + 1));
        std::vector<float> tokens(static_cast<size_t>(token_count * hidden));
        for (float& value : tokens) value = static_cast<float>(engine() % 1000);
        std::vector<uint8_t> map(static_cast<size_t>(token_count * experts));
        for (uint8_t& value : map) value = engine() % 3 == 0 ? static_cast<uint8_t>(1 + engine() % 255) : 0;

        std::vector<int64_t> used;  // tokens of the first pairs
        for (int64_t e = 0; e < experts; ++e)
            for (int64_t t = 0; t < token_count; ++t)
                if (map[static_cast<size_t>(t * experts + e)] != 0 && static_cast<int64_t>(used.size()) < rows)
                    used.push_back(t);
        std::vector<float> needed_tokens(static_cast<size_t>(rows * hidden), 0.0f);
        for (size_t j = 0; j < used.size(); ++j)
            std::copy_n(tokens.begin() + used[j] * hidden, hidden,
                        needed_tokens.begin() + static_cast<int64_t>(j) * hidden);
        std::vector<int32_t> needed_indices;
        for (size_t j = 0; j < used.size(); ++j) needed_indices.push_back(static_cast<int32_t>(j));
        std::stable_sort(needed_indices.begin(), needed_indices.end(), [&](int32_t a, int32_t b) {
            return used[static_cast<size_t>(a)] < used[static_cast<size_t>(b)];
        });
        needed_indices.resize(static_cast<size_t>(rows), -1);

        moe_tensor t_tokens = tensor(tokens, MOE_FLOAT32, {token_count, hidden});
        moe_tensor t_map = tensor(map, MOE_BOOL, {token_count, experts});
        for (const int32_t threads : {1, 2, 5}) {
            std::vector<float> out(static_cast<size_t>(rows * hidden), -7.0f);
            std::vector<int32_t> indices(static_cast<size_t>(rows), -7);
            moe_tensor t_out = tensor(out, MOE_FLOAT32, {rows, hidden});
            moe_tensor t_indices = tensor(indices, MOE_INT32, {rows});
            const Args args{&t_tokens, &t_map, nullptr, rows, false, &t_out, nullptr, &t_indices};
            moe_set_num_threads(threads);
            REQUIRE(plan_and_run(args, moe_token_permute_with_routing_map_plan, moe_token_permute_with_routing_map_run,
                                 &skip) == MOE_OK);
            moe_set_num_threads(0);
            CHECK(out == needed_tokens);
            CHECK(indices == needed_indices);
        }
    }
}
