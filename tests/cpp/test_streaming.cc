// Operators whose results are so large that they write them past the caches.
#include <doctest/doctest.h>

#include <algorithm>

#include "call.h"
#include "core/cache.h"

using namespace moe_test;

namespace {

// Odd, so that rows begin and end anywhere in a line.
constexpr int64_t hidden = 4099;
constexpr int64_t top_k = 8;
constexpr int64_t experts = 16;

// Enough tokens for a result of bytes that is just above, or just below, what is streamed.
int64_t tokens_for(int64_t row_bytes, bool above) {
    const int64_t tokens = moe::last_level_cache_bytes() / 8 / (row_bytes * top_k);
    REQUIRE(tokens > 0);
    return above ? tokens + 1 : tokens;
}

float x_value(int64_t token, int64_t column) {
    return static_cast<float>((token * 7 + column * 3) % 251 - 125);
}

}  // namespace

TEST_CASE("routing: rows on both sides of the size that is streamed") {
    for (const bool above : {false, true}) {
        const int64_t tokens = tokens_for(hidden, above);
        const int64_t rows = tokens * top_k;
        CHECK(moe::outgrows_caches(rows * hidden) == above);
        std::vector<float> x(static_cast<size_t>(tokens * hidden));
        for (int64_t t = 0; t < tokens; ++t)
            for (int64_t c = 0; c < hidden; ++c) x[static_cast<size_t>(t * hidden + c)] = x_value(t, c);
        std::vector<int32_t> ids(static_cast<size_t>(rows));
        for (int64_t i = 0; i < rows; ++i)
            ids[static_cast<size_t>(i)] = static_cast<int32_t>((i * 5 + i / 8) % experts);
        std::vector<int8_t> codes(static_cast<size_t>(rows * hidden), 77);
        std::vector<int32_t> row_idx(static_cast<size_t>(rows));
        std::vector<int64_t> counts(experts);
        std::vector<float> scale(static_cast<size_t>(rows));
        moe_tensor t_x = tensor(x, MOE_FLOAT32, {tokens, hidden});
        moe_tensor t_ids = tensor(ids, MOE_INT32, {tokens, top_k});
        moe_tensor t_codes = tensor(codes, MOE_INT8, {rows, hidden});
        moe_tensor t_row_idx = tensor(row_idx, MOE_INT32, {rows});
        moe_tensor t_counts = tensor(counts, MOE_INT64, {experts});
        moe_tensor t_scale = tensor(scale, MOE_FLOAT32, {rows});
        moe_init_routing_v2_args args{};
        args.x = &t_x;
        args.expert_idx = &t_ids;
        args.active_num = args.expert_capacity = -1;
        args.expert_num = experts;
        args.expert_tokens_num_type = 1;
        args.expert_tokens_num_flag = true;
        args.quant_mode = 1;
        args.expanded_x = &t_codes;
        args.expanded_row_idx = &t_row_idx;
        args.expert_token_cumsum_or_count = &t_counts;
        args.expanded_scale = &t_scale;
        REQUIRE(plan_and_run(args, moe_init_routing_v2_plan, moe_init_routing_v2_run) == MOE_OK);
        int64_t wrong = 0;
        for (int64_t i = 0; i < rows; ++i) {
            const int64_t row = row_idx[static_cast<size_t>(i)];
            // Every row holds all numbers from -125 to 125.
            if (scale[static_cast<size_t>(row)] != 125.0f / 127.0f) ++wrong;
            for (int64_t c = 0; c < hidden; ++c) {
                const float quotient = x_value(i / top_k, c) / (125.0f / 127.0f);
                const float distance = static_cast<float>(codes[static_cast<size_t>(row * hidden + c)]) - quotient;
                if (distance > 0.5f || distance < -0.5f) ++wrong;
            }
        }
        CHECK(wrong == 0);
    }
}

TEST_CASE("permute and unpermute: rows on both sides of the size that is streamed") {
    for (const bool above : {false, true}) {
        const int64_t tokens = tokens_for(hidden * 4, above);
        const int64_t rows = tokens * top_k;
        CHECK(moe::outgrows_caches(rows * hidden * 4) == above);
        std::vector<float> x(static_cast<size_t>(tokens * hidden));
        for (int64_t t = 0; t < tokens; ++t)
            for (int64_t c = 0; c < hidden; ++c) x[static_cast<size_t>(t * hidden + c)] = x_value(t, c);
        std::vector<int8_t> map(static_cast<size_t>(tokens * experts));
        for (int64_t t = 0; t < tokens; ++t)
            for (int64_t k = 0; k < top_k; ++k) map[static_cast<size_t>(t * experts + (t + 2 * k) % experts)] = 1;
        std::vector<float> permuted(static_cast<size_t>(rows * hidden), -7.0f);
        std::vector<int32_t> sorted(static_cast<size_t>(rows));
        moe_tensor t_x = tensor(x, MOE_FLOAT32, {tokens, hidden});
        moe_tensor t_map = tensor(map, MOE_INT8, {tokens, experts});
        moe_tensor t_permuted = tensor(permuted, MOE_FLOAT32, {rows, hidden});
        moe_tensor t_sorted = tensor(sorted, MOE_INT32, {rows});
        moe_token_permute_with_routing_map_args args{};
        args.tokens = &t_x;
        args.routing_map = &t_map;
        args.num_out_tokens = rows;
        args.permuted_tokens = &t_permuted;
        args.sorted_indices = &t_sorted;
        REQUIRE(plan_and_run(args, moe_token_permute_with_routing_map_plan, moe_token_permute_with_routing_map_run) ==
                MOE_OK);
        int64_t wrong = 0;
        for (int64_t i = 0; i < rows; ++i) {
            const float* row = permuted.data() + sorted[static_cast<size_t>(i)] * hidden;
            for (int64_t c = 0; c < hidden; ++c)
                if (row[c] != x_value(i / top_k, c)) ++wrong;
        }
        CHECK(wrong == 0);

        // Small integers times eight: exact in any order.
        std::vector<float> sum(x.size(), -7.0f);
        const int64_t shape[] = {tokens, hidden};
        moe_tensor t_sum = tensor(sum, MOE_FLOAT32, {tokens, hidden});
        moe_token_unpermute_with_routing_map_args back{};
        back.permuted_tokens = &t_permuted;
        back.sorted_indices = &t_sorted;
        back.restore_shape = shape;
        back.unpermuted = &t_sum;
        REQUIRE(plan_and_run(back, moe_token_unpermute_with_routing_map_plan,
                             moe_token_unpermute_with_routing_map_run) == MOE_OK);
        CHECK(std::equal(sum.begin(), sum.end(), x.begin(), [](float s, float v) { return s == 8.0f * v; }));
    }
}

TEST_CASE("swiglu: results on both sides of the size that is streamed") {
    for (const bool above : {false, true}) {
        const int64_t rows = tokens_for(hidden * 4, above) * top_k;
        CHECK(moe::outgrows_caches(rows * hidden * 4) == above);
        std::vector<float> x(static_cast<size_t>(rows * 2 * hidden));
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < 2 * hidden; ++c) x[static_cast<size_t>(r * 2 * hidden + c)] = x_value(r, c) / 16;
        // Beginning a number after the memory does: off the lines.
        std::vector<float> y(static_cast<size_t>(1 + rows * hidden + 1), -7.0f);
        moe_tensor t_x = tensor(x, MOE_FLOAT32, {rows, 2 * hidden});
        moe_tensor t_y = tensor(y, MOE_FLOAT32, {rows, hidden});
        t_y.data = y.data() + 1;
        moe_swiglu_args args{};
        args.input = &t_x;
        args.dim = -1;
        args.out = &t_y;
        REQUIRE(plan_and_run(args, moe_swiglu_plan, moe_swiglu_run) == MOE_OK);
        CHECK(y.front() == -7.0f);
        CHECK(y.back() == -7.0f);
        // Rows by themselves are too small for that.
        std::vector<float> needed(hidden);
        moe_tensor t_needed = tensor(needed, MOE_FLOAT32, {1, hidden});
        int64_t wrong = 0;
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t shape[] = {1, 2 * hidden};
            moe_tensor t_row = moe_tensor_make(x.data() + r * 2 * hidden, MOE_FLOAT32, 2, shape);
            args.input = &t_row;
            args.out = &t_needed;
            REQUIRE(plan_and_run(args, moe_swiglu_plan, moe_swiglu_run) == MOE_OK);
            if (!std::equal(needed.begin(), needed.end(), y.begin() + 1 + r * hidden)) ++wrong;
        }
        CHECK(wrong == 0);
    }
}
