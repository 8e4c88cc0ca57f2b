// Packed weights through the C API: what is refused, what a call needs of memory, and what it computes.
#include <doctest/doctest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "call.h"
#include "core/panel.h"
#include "moe_native/info.h"

using namespace moe_test;

namespace {

constexpr int64_t e = 2, k = 70, n = 128;

struct Weight {
    std::vector<int8_t> data;
    moe_tensor tensor;
    explicit Weight(int64_t rows = k, int64_t columns = n) : data(static_cast<size_t>(e * rows * columns)) {
        std::mt19937 engine(1);
        for (int8_t& value : data) value = static_cast<int8_t>(engine());
        const int64_t shape[] = {e, rows, columns};
        tensor = moe_tensor_make(data.data(), MOE_INT8, 3, shape);
    }
};

std::vector<unsigned char> pack(const moe_tensor& w) {
    moe_pack_args args = {};
    args.w = &w;
    moe_tensor out;
    REQUIRE(moe_pack_shapes(&args, &out) == MOE_OK);
    std::vector<unsigned char> memory(static_cast<size_t>(out.shape[0]), 0xEE);
    out.data = memory.data();
    args.out = &out;
    REQUIRE(plan_and_run(args, moe_pack_plan, moe_pack_run) == MOE_OK);
    return memory;
}

// One call of each operator with a weight; `workspace` is what they ask for.
struct Results {
    uint64_t workspace[2];
    std::vector<float> combined;
    std::vector<int8_t> quantised;
    std::vector<float> quantised_scale;
    bool operator==(const Results& other) const {
        return combined == other.combined && quantised == other.quantised && quantised_scale == other.quantised_scale;
    }
};

Results results_with(const moe_tensor& w, int64_t m) {
    std::mt19937 engine(2);
    const int64_t k = w.shape[1];
    std::vector<int8_t> x(static_cast<size_t>(m * k));
    for (int8_t& value : x) value = static_cast<int8_t>(engine());
    std::vector<int64_t> ends{m / 3, m}, row_index(static_cast<size_t>(m));
    for (int64_t& index : row_index) index = static_cast<int64_t>(engine()) % m;
    std::vector<float> scale(e * n), x_scale(static_cast<size_t>(m), 0.01f);
    for (float& value : scale) value = 1e-3f * static_cast<float>(engine() % 1000);
    const moe_tensor x_tensor = tensor(x, MOE_INT8, {m, k}), list = tensor(ends, MOE_INT64, {e});
    const moe_tensor scale_tensor = tensor(scale, MOE_FLOAT32, {e, n}), index = tensor(row_index, MOE_INT64, {m});
    const moe_tensor x_scale_tensor = tensor(x_scale, MOE_FLOAT32, {m});

    Results results = {};
    results.combined.resize(static_cast<size_t>(m * n));
    results.quantised.resize(static_cast<size_t>(m * n / 2));
    results.quantised_scale.resize(static_cast<size_t>(m));
    moe_tensor out = tensor(results.combined, MOE_FLOAT32, {m, n});
    moe_grouped_matmul_finalize_routing_args finalize = {};
    finalize.x = &x_tensor;
    finalize.w = &w;
    finalize.group_list = &list;
    finalize.scale = &scale_tensor;
    finalize.row_index = &index;
    finalize.out = &out;
    moe_plan plan;
    REQUIRE(moe_grouped_matmul_finalize_routing_plan(&finalize, &plan) == MOE_OK);
    results.workspace[0] = plan.workspace_size;
    REQUIRE(plan_and_run(finalize, moe_grouped_matmul_finalize_routing_plan, moe_grouped_matmul_finalize_routing_run) ==
            MOE_OK);

    moe_tensor codes = tensor(results.quantised, MOE_INT8, {m, n / 2});
    moe_tensor codes_scale = tensor(results.quantised_scale, MOE_FLOAT32, {m});
    moe_grouped_matmul_swiglu_quant_args swiglu = {};
    swiglu.x = &x_tensor;
    swiglu.weight = &w;
    swiglu.group_list = &list;
    swiglu.weight_scale = &scale_tensor;
    swiglu.x_scale = &x_scale_tensor;
    swiglu.output = &codes;
    swiglu.output_scale = &codes_scale;
    REQUIRE(moe_grouped_matmul_swiglu_quant_plan(&swiglu, &plan) == MOE_OK);
    results.workspace[1] = plan.workspace_size;
    REQUIRE(plan_and_run(swiglu, moe_grouped_matmul_swiglu_quant_plan, moe_grouped_matmul_swiglu_quant_run) == MOE_OK);
    return results;
}

}  // namespace

TEST_CASE("a packed weight gives the same results, here and elsewhere, with less memory") {
    moe_config config;
    moe_get_config(&config);
    const std::string limit = config.isa_limit;
    for (const int64_t depth : {70, 71}) {
        for (const int64_t m : {3, 40}) {
            CAPTURE(depth);
            CAPTURE(m);
            // Few rows stream the weights. An odd k ends with half of whatever kernels take together.
            const Weight weight(depth);
            const Results needed = results_with(weight.tensor, m);

            std::vector<int8_t> tiles;
            const int64_t shape[] = {e, depth, n};
            int64_t count;
            REQUIRE(moe_nz_element_count(3, shape, 32, &count) == MOE_OK);
            tiles.resize(static_cast<size_t>(count));
            moe_tensor nz;
            REQUIRE(moe_nz_make(tiles.data(), MOE_INT8, 3, shape, 32, &nz) == MOE_OK);
            moe_format_cast_args cast = {};
            cast.input = &weight.tensor;
            cast.acl_format = MOE_FORMAT_NZ;
            cast.out = &nz;
            REQUIRE(plan_and_run(cast, moe_format_cast_plan, moe_format_cast_run) == MOE_OK);
            const Results from_tiles = results_with(nz, m);
            CHECK(from_tiles == needed);

            const std::vector<unsigned char> memory = pack(weight.tensor);
            moe_tensor packed;
            REQUIRE(moe_packed_view(memory.data(), memory.size(), &packed) == MOE_OK);
            CHECK(moe_packed_is_current(&packed));
            CHECK(moe_packed_verify(memory.data(), memory.size()) == MOE_OK);
            const Results seen = results_with(packed, m);
            CHECK(seen == needed);
            // Panels of rows are packed by every call, others are what it would make of them.
            const bool rows = packed.storage_shape[3] == static_cast<int64_t>(moe::PanelLayout::rows);
            for (int op = 0; op < 2; ++op) {
                if (!rows) CHECK(seen.workspace[op] < from_tiles.workspace[op]);
                CHECK(seen.workspace[op] < needed.workspace[op]);
            }

            REQUIRE(moe_set_isa_limit("baseline") == MOE_OK);
            // Elsewhere the order may be another one; the header says which.
            CHECK(moe_packed_is_current(&packed) == (pack(weight.tensor) == memory));
            CHECK(results_with(packed, m) == needed);
            const std::vector<unsigned char> again = pack(packed);
            moe_tensor elsewhere;
            REQUIRE(moe_packed_view(again.data(), again.size(), &elsewhere) == MOE_OK);
            CHECK(moe_packed_is_current(&elsewhere));
            CHECK(results_with(elsewhere, m) == needed);
            REQUIRE(moe_set_isa_limit(limit.c_str()) == MOE_OK);
            CHECK(pack(elsewhere) == memory);
        }
    }
}

TEST_CASE("packed weights of floats: the same bits, here and elsewhere, from any address") {
    moe_config config;
    moe_get_config(&config);
    const std::string limit = config.isa_limit;
    constexpr int64_t m = 30, hidden = 150;
    std::mt19937 engine(3);
    std::normal_distribution<float> normal;
    std::vector<float> x(m * k), w1(e * k * hidden), w2(e * hidden * n), y(m * n), needed(m * n);
    for (auto* values : {&x, &w1, &w2})
        for (float& value : *values) value = normal(engine);
    std::vector<int64_t> tokens{3, m - 3};
    const moe_tensor t_x = tensor(x, MOE_FLOAT32, {m, k}), t_tokens = tensor(tokens, MOE_INT64, {e});
    const moe_tensor t_w1 = tensor(w1, MOE_FLOAT32, {e, k, hidden}), t_w2 = tensor(w2, MOE_FLOAT32, {e, hidden, n});
    const auto run = [&](const moe_tensor& weight1, const moe_tensor& weight2, std::vector<float>& result) {
        moe_tensor t_y = tensor(result, MOE_FLOAT32, {m, n});
        moe_ffn_args args = {};
        args.x = &t_x;
        args.weight1 = &weight1;
        args.weight2 = &weight2;
        args.expert_tokens = &t_tokens;
        args.activation = "silu";
        args.y = &t_y;
        return plan_and_run(args, moe_ffn_plan, moe_ffn_run);
    };
    for (const char* used : {"", "baseline"}) {
        REQUIRE(moe_set_isa_limit(limit.c_str()) == MOE_OK);
        std::vector<unsigned char> memory = pack(t_w1);
        const std::vector<unsigned char> memory2 = pack(t_w2);
        moe_tensor packed, packed2;
        REQUIRE(moe_packed_view(memory2.data(), memory2.size(), &packed2) == MOE_OK);
        CHECK(moe_packed_is_current(&packed2));
        if (used[0] != '\0') REQUIRE(moe_set_isa_limit(used) == MOE_OK);
        REQUIRE(run(t_w1, t_w2, needed) == MOE_OK);
        for (const std::ptrdiff_t odd : {0, 1}) {
            memory.insert(memory.begin(), static_cast<size_t>(odd), 0xEE);
            REQUIRE(moe_packed_view(memory.data() + odd, memory.size() - static_cast<size_t>(odd), &packed) == MOE_OK);
            std::fill(y.begin(), y.end(), -7.0f);
            REQUIRE(run(packed, packed2, y) == MOE_OK);
            CHECK(y == needed);
            CHECK(pack(packed) == pack(t_w1));
        }
        packed.data = nullptr;
        CHECK(run(packed, packed2, y) == MOE_ERROR_NULL);
    }
    REQUIRE(moe_set_isa_limit(limit.c_str()) == MOE_OK);
}

TEST_CASE("null, memory that is too short, and tensors that say otherwise") {
    const Weight weight;
    std::vector<unsigned char> memory = pack(weight.tensor);
    moe_tensor packed;
    CHECK(moe_packed_view(nullptr, memory.size(), &packed) == MOE_ERROR_NULL);
    CHECK(moe_packed_view(memory.data(), memory.size(), nullptr) == MOE_ERROR_NULL);
    CHECK(moe_packed_verify(nullptr, 0) == MOE_ERROR_NULL);
    for (size_t size = 0; size < memory.size(); size += size < 200 ? 1 : 997) {
        // An allocation of its own: the sanitizer sees a read past it.
        const std::vector<unsigned char> part(memory.begin(), memory.begin() + static_cast<std::ptrdiff_t>(size));
        if (size > 0) CHECK(moe_packed_view(part.data(), size, &packed) == MOE_ERROR_INVALID);
    }
    REQUIRE(moe_packed_view(memory.data(), memory.size(), &packed) == MOE_OK);
    CHECK(!moe_packed_is_current(nullptr));
    CHECK(!moe_packed_is_current(&weight.tensor));

    const auto refused = [](moe_tensor tensor) {
        moe_pack_args args = {};
        args.w = &tensor;
        moe_tensor out;
        return moe_pack_shapes(&args, &out) == MOE_ERROR_INVALID;
    };
    CHECK(!refused(packed));
    for (int d = 0; d < 4; ++d) {
        moe_tensor other = packed;
        // The last one is the number of a layout: the next may be as good.
        other.storage_shape[d] =
            d < 3 ? packed.storage_shape[d] + 1 : static_cast<int64_t>(moe::PanelLayout::octets) + 1;
        CHECK(refused(other));
        other.storage_shape[d] = INT64_MAX;
        CHECK(refused(other));
    }
    for (int d = 0; d < 3; ++d) {
        moe_tensor other = packed;
        other.shape[d] += 32;
        CHECK(refused(other));
    }
    moe_tensor other = packed;
    other.dtype = MOE_INT32;
    CHECK(refused(other));
    other = packed;
    other.rank = 2;
    CHECK(refused(other));
    other = packed;
    other.storage_rank = 3;
    CHECK(refused(other));
}

TEST_CASE("pack: null pointers, sizes and outputs") {
    const Weight weight;
    moe_pack_args args = {};
    moe_tensor out;
    CHECK(moe_pack_shapes(&args, &out) == MOE_ERROR_NULL);
    args.w = &weight.tensor;
    CHECK(moe_pack_shapes(&args, nullptr) == MOE_ERROR_NULL);
    CHECK(moe_pack_check(&args) == MOE_ERROR_NULL);
    REQUIRE(moe_pack_shapes(&args, &out) == MOE_OK);
    CHECK(out.dtype == MOE_UINT8);
    CHECK(out.rank == 1);
    args.out = &out;
    CHECK(moe_pack_check(&args) == MOE_OK);
    CHECK(plan_and_run(args, moe_pack_plan, moe_pack_run) == MOE_ERROR_NULL);  // no memory behind it
    for (const int64_t size : {int64_t{-1}, k + 1, INT64_MAX}) {
        args.k = size;
        CHECK(moe_pack_check(&args) == MOE_ERROR_INVALID);
    }
    args.k = k;
    args.n = n;
    CHECK(moe_pack_check(&args) == MOE_OK);
    out.stride[0] = 2;
    CHECK(moe_pack_check(&args) == MOE_ERROR_INVALID);
    out.stride[0] = 1;
    out.shape[0] -= 1;
    CHECK(moe_pack_check(&args) == MOE_ERROR_INVALID);
}

TEST_CASE("other operators refuse the packed format") {
    const Weight weight;
    const std::vector<unsigned char> memory = pack(weight.tensor);
    moe_tensor packed;
    REQUIRE(moe_packed_view(memory.data(), memory.size(), &packed) == MOE_OK);
    moe_format_cast_args cast = {};
    moe_tensor out;
    cast.input = &packed;
    for (const moe_format format : {MOE_FORMAT_ND, MOE_FORMAT_NZ}) {
        cast.acl_format = format;
        CHECK(moe_format_cast_shapes(&cast, &out) == MOE_ERROR_INVALID);
    }
    CHECK(moe_nz_check(&packed) == MOE_ERROR_INVALID);
}
