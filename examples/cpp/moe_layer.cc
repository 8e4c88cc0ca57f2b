// A Mixture-of-Experts layer in float32 through the C API: gating, routing, expert feed-forward, combine. Every step's
// output is the next one's input; the result is checked against sending each token through its own experts in double.
#include <moe_native/moe_native.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <random>
#include <vector>

namespace {

constexpr int64_t tokens = 40, hidden = 48, inner = 64, experts = 8, top_k = 2;

moe_dtype dtype_of(float) {
    return MOE_FLOAT32;
}
moe_dtype dtype_of(int32_t) {
    return MOE_INT32;
}
moe_dtype dtype_of(int64_t) {
    return MOE_INT64;
}

// Memory with its description.
template <class T>
struct Array {
    std::vector<T> values;
    moe_tensor tensor;

    explicit Array(std::initializer_list<int64_t> shape) {
        int64_t count = 1;
        for (const int64_t n : shape) count *= n;
        values.resize(static_cast<size_t>(count));
        tensor = moe_tensor_make(values.data(), dtype_of(T{}), static_cast<int32_t>(shape.size()), shape.begin());
    }
    T& operator[](int64_t i) { return values[static_cast<size_t>(i)]; }
    const T& operator[](int64_t i) const { return values[static_cast<size_t>(i)]; }
};

[[noreturn]] void fail(const char* what) {
    const moe_error* error = moe_last_error();
    std::fprintf(stderr, "%s: %s: %s: %s\n", what, moe_status_name(error->status), error->op, error->message);
    std::exit(EXIT_FAILURE);
}

// Plans, provides the workspace, and runs.
template <class Args, class Plan, class Run>
void call(const char* what, const Args& args, Plan plan_it, Run run_it) {
    moe_plan plan;
    if (plan_it(&args, &plan) != MOE_OK) fail(what);
    std::vector<unsigned char> workspace(plan.workspace_size);
    if (run_it(&args, &plan, workspace.data(), workspace.size(), nullptr) != MOE_OK) fail(what);
    std::printf("%-16s %8llu bytes of workspace\n", what, static_cast<unsigned long long>(plan.workspace_size));
}

void fill(Array<float>& array, std::mt19937& engine, float deviation) {
    std::normal_distribution<float> normal(0.0f, deviation);
    for (float& value : array.values) value = normal(engine);
}

// What expert `e` makes of token `t`, in double.
std::vector<double> expert_output(const Array<float>& x, const Array<float>& w1, const Array<float>& w2, int64_t t,
                                  int64_t e) {
    std::vector<double> out(hidden);
    for (int64_t j = 0; j < inner; ++j) {
        double h = 0;
        for (int64_t i = 0; i < hidden; ++i) h += double(x[t * hidden + i]) * w1[(e * hidden + i) * inner + j];
        h = h / (1 + std::exp(-h));
        for (int64_t i = 0; i < hidden; ++i) out[size_t(i)] += h * w2[(e * inner + j) * hidden + i];
    }
    return out;
}

}  // namespace

int main() {
    std::mt19937 engine(1);
    Array<float> x({tokens, hidden}), logits({tokens, experts});
    Array<float> w1({experts, hidden, inner}), w2({experts, inner, hidden});
    fill(x, engine, 1.0f);
    fill(logits, engine, 1.0f);
    fill(w1, engine, 0.2f);
    fill(w2, engine, 0.2f);

    // Two experts for every token, with weights that sum to 1.
    Array<float> weight({tokens, top_k}), scores({tokens, experts});
    Array<int32_t> expert({tokens, top_k});
    moe_gating_top_k_args gating = {};
    gating.x = &logits.tensor;
    gating.k = top_k;
    gating.k_group = gating.group_count = 1;
    gating.norm_type = 1;
    gating.routed_scaling_factor = 1.0;
    gating.eps = 1e-20;
    gating.y = &weight.tensor;
    gating.expert_idx = &expert.tensor;
    gating.norm_out = &scores.tensor;
    call("gating", gating, moe_gating_top_k_plan, moe_gating_top_k_run);

    // Tokens sorted by expert; where each (token, k) went; the end of each expert's rows.
    Array<float> rows({tokens * top_k, hidden}), unused_scale({tokens * top_k});
    Array<int32_t> row_of({tokens * top_k});
    Array<int64_t> ends({experts});
    moe_init_routing_v2_args routing = {};
    routing.x = &x.tensor;
    routing.expert_idx = &expert.tensor;
    routing.expert_num = experts;
    routing.expert_tokens_num_type = 0;
    routing.expert_tokens_num_flag = true;
    routing.quant_mode = -1;
    routing.expanded_x = &rows.tensor;
    routing.expanded_row_idx = &row_of.tensor;
    routing.expert_token_cumsum_or_count = &ends.tensor;
    routing.expanded_scale = &unused_scale.tensor;
    call("routing", routing, moe_init_routing_v2_plan, moe_init_routing_v2_run);

    Array<float> expert_rows({tokens * top_k, hidden});
    moe_ffn_args ffn = {};
    ffn.x = &rows.tensor;
    ffn.weight1 = &w1.tensor;
    ffn.weight2 = &w2.tensor;
    ffn.expert_tokens = &ends.tensor;
    ffn.tokens_index = true;
    ffn.activation = "silu";
    ffn.y = &expert_rows.tensor;
    call("feed-forward", ffn, moe_ffn_plan, moe_ffn_run);

    Array<float> out({tokens, hidden});
    moe_finalize_routing_args combine = {};
    combine.expanded_permuted_rows = &expert_rows.tensor;
    combine.skip1 = &x.tensor;
    combine.scales = &weight.tensor;
    combine.expanded_src_to_dst_row = &row_of.tensor;
    combine.drop_pad_mode = 2;
    combine.k = 1;
    combine.out = &out.tensor;
    call("combine", combine, moe_finalize_routing_plan, moe_finalize_routing_run);

    double worst = 0;
    for (int64_t t = 0; t < tokens; ++t) {
        std::vector<double> needed(hidden);
        for (int64_t i = 0; i < hidden; ++i) needed[size_t(i)] = x[t * hidden + i];
        for (int64_t k = 0; k < top_k; ++k) {
            const std::vector<double> term = expert_output(x, w1, w2, t, expert[t * top_k + k]);
            for (int64_t i = 0; i < hidden; ++i) needed[size_t(i)] += weight[t * top_k + k] * term[size_t(i)];
        }
        for (int64_t i = 0; i < hidden; ++i)
            worst = std::fmax(
                worst, std::fabs(out[t * hidden + i] - needed[size_t(i)]) / (1.0 + std::fabs(needed[size_t(i)])));
    }
    std::printf("largest relative error of %lld elements: %.2g\n", static_cast<long long>(tokens * hidden), worst);
    return worst < 1e-5 ? EXIT_SUCCESS : EXIT_FAILURE;
}
