#include "ops/ffn_problem.h"

#include <array>
#include <cstdio>
#include <cstring>
#include <limits>
#include <utility>

#include "core/packed.h"

namespace moe {
namespace {

struct Activation {
    const char* name;
    bool gated;
    void (*RowKernels::*kernel)(float* values, int64_t n);
};
constexpr Activation activations[] = {
    {"fastgelu", false, &RowKernels::fastgelu}, {"gelu", false, &RowKernels::gelu_erf},
    {"relu", false, &RowKernels::relu},         {"silu", false, &RowKernels::silu},
    {"geglu", true, &RowKernels::gelu_tanh},    {"swiglu", true, &RowKernels::silu},
    {"reglu", true, &RowKernels::relu},
};

// The largest k of a quantised product: k * 128 * 128 must fit int32.
constexpr int64_t largest_exact_k = std::numeric_limits<int32_t>::max() / (128 * 128);

bool same_name(const char* seen, const char* name) {
    const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
    while (*seen != '\0' && lower(*seen) == *name) ++seen, ++name;
    return *seen == *name;
}

class Resolver {
  public:
    Resolver(const moe_ffn_args& args, Outputs outputs, FfnProblem* problem)
        : args_(args), outputs_(outputs), problem_(*problem) {}

    Status resolve() {
        MOE_TRY(check_activation());
        MOE_TRY(check_present());
        if (args_.deq_scale1 != nullptr && args_.deq_scale2 != nullptr)
            MOE_TRY(same_dtype(*args_.deq_scale2, "deq_scale2", args_.deq_scale1->dtype, "deq_scale1"));
        MOE_TRY(check_tokens());
        MOE_TRY(check_products());
        MOE_TRY(check_bias(args_.bias1, "bias1", problem_.n1));
        MOE_TRY(check_bias(args_.bias2, "bias2", problem_.n2));
        MOE_TRY(check_scenario());
        MOE_TRY(check_result());
        return problem_.rows == 0 || problem_.k1 == 0 ? static_cast<Status>(MOE_OK) : check_attributes();
    }

  private:
    struct Named {
        const Tensor* tensor;
        const char* name;
    };

    Status check_activation() {
        if (args_.activation == nullptr)
            return fail(MOE_ERROR_NULL, Kind::missing, "activation", "missing, a name is needed");
        for (const Activation& activation : activations) {
            if (!same_name(args_.activation, activation.name)) continue;
            problem_.activate = activation.kernel;
            problem_.gated = activation.gated;
            return MOE_OK;
        }
        return fail(MOE_ERROR_INVALID, Kind::value, "activation",
                    "\"%.64s\", needed fastgelu, gelu, relu, silu, geglu, swiglu or reglu", args_.activation);
    }

    Status check_present() const {
        MOE_TRY(required(args_.x, "x"));
        MOE_TRY(required(args_.weight1, "weight1"));
        MOE_TRY(required(args_.weight2, "weight2"));
        if (outputs_ == Outputs::checked) MOE_TRY(required(args_.y, "y"));
        for (const Named& it : optional_tensors()) MOE_TRY(optional(it.tensor, it.name));
        return optional(args_.expert_tokens, tokens_name());
    }

    Status check_tokens() {
        if (args_.expert_tokens != nullptr) {
            const Tensor& tokens = *args_.expert_tokens;
            MOE_TRY(dtype_in(tokens, tokens_name(), {MOE_INT64}));
            MOE_TRY(rank_is(tokens, tokens_name(), 1, MOE_ERROR_INVALID));
            problem_.experts = tokens.shape[0];
        }
        problem_.rows = 1;
        for (int32_t d = 0; d + 1 < args_.x->rank; ++d) problem_.rows *= args_.x->shape[d];
        if (problem_.experts == 0 || !args_.tokens_known) return MOE_OK;
        return read_expert_tokens(args_, problem_.rows, RunContext(nullptr), nullptr);
    }

    Status check_products() {
        const Tensor& x = *args_.x;
        if (x.rank < 2 || x.rank > MOE_MAX_RANK)
            return fail(MOE_ERROR_INVALID, Kind::shape, "x", "shape %s, needed 2 to %d dimensions",
                        describe_shape(x.rank, x.shape).text, MOE_MAX_RANK);
        if (outputs_ == Outputs::checked && args_.y->rank != x.rank)
            return fail(MOE_ERROR_INVALID, Kind::shape, "y", "shape %s, needed %d dimensions as x has",
                        describe_shape(args_.y->rank, args_.y->shape).text, x.rank);
        MOE_TRY(check_weight(*args_.weight1, "weight1", &problem_.k1, &problem_.n1));
        MOE_TRY(check_weight(*args_.weight2, "weight2", &problem_.k2, &problem_.n2));
        if (x.shape[x.rank - 1] != problem_.k1)
            return fail(MOE_ERROR_INVALID, Kind::shape, "weight1", "%lld rows, needed one per column of x = %lld",
                        number(problem_.k1), number(x.shape[x.rank - 1]));
        if (problem_.gated && problem_.n1 % 2 != 0)
            return fail(MOE_ERROR_INVALID, Kind::shape, "weight1", "%lld columns, needed an even number with %s",
                        number(problem_.n1), args_.activation);
        if (problem_.k2 != hidden_columns())
            return fail(MOE_ERROR_INVALID, Kind::shape, "weight2", "%lld rows, needed %s columns of weight1 = %lld",
                        number(problem_.k2), problem_.gated ? "half the" : "the", number(hidden_columns()));
        return MOE_OK;
    }

    Status check_weight(const Tensor& weight, const char* name, int64_t* k, int64_t* n) const {
        if (is_packed(weight)) MOE_TRY(check_packed(weight, name));
        if (!is_packed(weight) && weight.rank != (problem_.experts > 0 ? 3 : 2))
            return fail(MOE_ERROR_INVALID, Kind::shape, name, "shape %s, needed %s",
                        describe_shape(weight.rank, weight.shape).text,
                        problem_.experts > 0 ? "(experts, k, n) with expert_tokens" : "(k, n) without expert_tokens");
        if (problem_.experts > 0 && weight.shape[0] != problem_.experts)
            return fail(MOE_ERROR_INVALID, Kind::shape, name, "%lld experts, needed the %lld of %s",
                        number(weight.shape[0]), number(problem_.experts), tokens_name());
        *k = weight.shape[weight.rank - 2];
        *n = weight.shape[weight.rank - 1];
        return MOE_OK;
    }

    // The shape of a packed weight begins with experts, one where there are none.
    Status check_packed(const Tensor& weight, const char* name) const {
        if (!is_float_weight(weight.dtype))
            return fail(MOE_ERROR_INVALID, Kind::dtype, name,
                        "packed %s, needed a weight that is not packed, or packed float32, float16 or bfloat16",
                        moe_dtype_name(weight.dtype));
        if (problem_.experts > 0 || weight.shape[0] == 1) return MOE_OK;
        return fail(MOE_ERROR_INVALID, Kind::shape, name, "packed, of %lld experts, needed one without expert_tokens",
                    number(weight.shape[0]));
    }

    // A tensor that has `columns` values, or that many for every expert.
    Status check_columns(const Tensor& tensor, const char* name, int64_t columns) const {
        if (problem_.experts > 0)
            return shape_is(tensor, name, {problem_.experts, columns}, "(experts, columns of the weights)",
                            MOE_ERROR_INVALID);
        return shape_is(tensor, name, {columns}, "(columns of the weights)", MOE_ERROR_INVALID);
    }

    Status check_bias(const Tensor* bias, const char* name, int64_t columns) const {
        return bias == nullptr ? static_cast<Status>(MOE_OK) : check_columns(*bias, name, columns);
    }

    Status check_scenario() {
        const Dtype x = args_.x->dtype;
        const Dtype weight = args_.weight1->dtype;
        if (limits() == MOE_LIMITS_NONE)
            MOE_TRY(dtype_in(*args_.x, "x", {MOE_FLOAT16, MOE_BFLOAT16, MOE_FLOAT32, MOE_INT8}));
        else
            MOE_TRY(dtype_in(*args_.x, "x", {MOE_FLOAT16, MOE_BFLOAT16, MOE_INT8}));
        MOE_TRY(same_dtype(*args_.weight2, "weight2", weight, "weight1"));
        if (x == MOE_INT8 || x == MOE_FLOAT32)
            MOE_TRY(same_dtype(*args_.weight1, "weight1", x, "x"));
        else
            MOE_TRY(dtype_in(*args_.weight1, "weight1", {x, MOE_INT8, MOE_INT4}));
        using Scenario = FfnProblem::Scenario;
        problem_.scenario = x == MOE_INT8 ? Scenario::quantised
                            : x == weight ? Scenario::floating
                                          : Scenario::antiquantised;
        const Dtype bias = x == MOE_INT8 ? MOE_INT32 : x == MOE_FLOAT16 ? MOE_FLOAT16 : MOE_FLOAT32;
        if (args_.bias1 != nullptr) MOE_TRY(dtype_in(*args_.bias1, "bias1", {bias}));
        if (args_.bias2 != nullptr) MOE_TRY(dtype_in(*args_.bias2, "bias2", {bias}));
        if (problem_.gated) MOE_TRY(check_gated());
        MOE_TRY(check_no_foreign_tensors());
        switch (problem_.scenario) {
            case Scenario::floating:
                return resolve_floating();
            case Scenario::quantised:
                return resolve_quantised();
            default:
                return resolve_antiquantised();
        }
    }

    Status check_gated() const {
        if (problem_.experts > 0)
            return fail(MOE_ERROR_INVALID, Kind::value, "activation",
                        "%s with %lld experts, needed fastgelu, gelu, relu or silu", args_.activation,
                        number(problem_.experts));
        if (problem_.scenario != FfnProblem::Scenario::floating || args_.x->dtype == MOE_BFLOAT16)
            return fail(MOE_ERROR_INVALID, Kind::value, "activation",
                        "%s with %s x and %s weights, needed float16 or float32 for both", args_.activation,
                        moe_dtype_name(args_.x->dtype), moe_dtype_name(args_.weight1->dtype));
        return MOE_OK;
    }

    Status check_no_foreign_tensors() const {
        const bool quantised = problem_.scenario == FfnProblem::Scenario::quantised;
        const bool antiquantised = problem_.scenario == FfnProblem::Scenario::antiquantised;
        for (const Named& it : quant_tensors())
            if (it.tensor != nullptr && !quantised)
                return fail(MOE_ERROR_INVALID, Kind::value, it.name, "given with %s x, needed int8 x and weights",
                            moe_dtype_name(args_.x->dtype));
        for (const Named& it : antiquant_tensors())
            if (it.tensor != nullptr && !antiquantised)
                return fail(MOE_ERROR_INVALID, Kind::value, it.name,
                            "given with %s x and %s weights, needed float16 or bfloat16 x and int8 or int4 weights",
                            moe_dtype_name(args_.x->dtype), moe_dtype_name(args_.weight1->dtype));
        return MOE_OK;
    }

    Status resolve_floating() {
        const Dtype x = args_.x->dtype;
        problem_.hidden = problem_.result = x;
        if (x == MOE_BFLOAT16 && args_.inner_precise != 0)
            return fail(MOE_ERROR_INVALID, Kind::value, "inner_precise", "%lld with bfloat16 x, needed 0",
                        number(args_.inner_precise));
        if (x != MOE_FLOAT16) return MOE_OK;
        if (problem_.gated && args_.inner_precise != 1)
            return fail(MOE_ERROR_INVALID, Kind::value, "inner_precise", "%lld with %s, needed 1",
                        number(args_.inner_precise), args_.activation);
        if (args_.inner_precise == 1) problem_.sum = MOE_FLOAT16;
        return MOE_OK;
    }

    Status resolve_quantised() {
        for (const Named& it : quant_tensors())
            if (it.tensor == nullptr)
                return fail(MOE_ERROR_INVALID, Kind::value, it.name, "missing, needed with int8 x");
        for (const auto& [k, name] : {std::pair{problem_.k1, "weight1"}, std::pair{problem_.k2, "weight2"}})
            if (k > largest_exact_k)
                return fail(MOE_ERROR_INVALID, Kind::shape, name, "%lld rows, needed at most %lld for exact sums",
                            number(k), number(largest_exact_k));
        problem_.hidden = MOE_INT8;
        problem_.result = args_.output_dtype == MOE_UNDEFINED ? MOE_FLOAT16 : args_.output_dtype;
        if (problem_.result != MOE_FLOAT16 && problem_.result != MOE_BFLOAT16)
            return fail(MOE_ERROR_INVALID, Kind::dtype, "output_dtype", "%s, needed float16 or bfloat16",
                        moe_dtype_name(problem_.result));
        problem_.sum = problem_.result == MOE_FLOAT16 ? MOE_FLOAT16 : MOE_FLOAT32;
        for (const auto& [deq, name] :
             {std::pair{args_.deq_scale1, "deq_scale1"}, std::pair{args_.deq_scale2, "deq_scale2"}}) {
            if (problem_.result == MOE_BFLOAT16)
                MOE_TRY(dtype_in(*deq, name, {MOE_BFLOAT16}));
            else
                MOE_TRY(dtype_in(*deq, name, {MOE_UINT64, MOE_INT64, MOE_FLOAT32}));
        }
        MOE_TRY(dtype_in(*args_.scale, "scale", {MOE_FLOAT32}));
        MOE_TRY(dtype_in(*args_.offset, "offset", {MOE_FLOAT32}));
        MOE_TRY(check_scale());
        const int64_t slices = problem_.slices();
        MOE_TRY(
            shape_is(*args_.offset, "offset", {slices}, problem_.experts > 0 ? "(experts)" : "(1)", MOE_ERROR_INVALID));
        MOE_TRY(check_columns(*args_.deq_scale1, "deq_scale1", problem_.n1));
        MOE_TRY(check_columns(*args_.deq_scale2, "deq_scale2", problem_.n2));
        if (problem_.scale_per_column && args_.deq_scale1->dtype == MOE_FLOAT32)
            return fail(MOE_ERROR_INVALID, Kind::value, "scale",
                        "shape %s, one per column, with float32 deq_scale1, needed one %s, or uint64 deq_scale1",
                        describe_shape(args_.scale->rank, args_.scale->shape).text,
                        problem_.experts > 0 ? "per expert" : "value");
        return MOE_OK;
    }

    Status check_scale() {
        const Tensor& scale = *args_.scale;
        const int64_t slices = problem_.slices();
        if (scale.rank == 1 && scale.shape[0] == slices) return MOE_OK;
        problem_.scale_per_column = true;
        const bool fits = problem_.experts > 0
                              ? scale.rank == 2 && scale.shape[0] == slices && scale.shape[1] == problem_.n1
                              : scale.rank == 1 && scale.shape[0] == problem_.n1;
        if (fits) return MOE_OK;
        const int64_t per_expert[] = {slices};
        const int64_t per_column[] = {slices, problem_.n1};
        return fail(MOE_ERROR_INVALID, Kind::shape, "scale", "shape %s, needed %s or %s",
                    describe_shape(scale.rank, scale.shape).text, describe_shape(1, per_expert).text,
                    problem_.experts > 0 ? describe_shape(2, per_column).text : describe_shape(1, per_column + 1).text);
    }

    Status resolve_antiquantised() {
        for (const Named& it : antiquant_tensors()) {
            if (it.tensor == nullptr)
                return fail(MOE_ERROR_INVALID, Kind::value, it.name, "missing, needed with %s weights",
                            moe_dtype_name(args_.weight1->dtype));
            MOE_TRY(same_dtype(*it.tensor, it.name, args_.x->dtype, "x"));
        }
        const int32_t per_column = problem_.experts > 0 ? 2 : 1;
        const int32_t rank = args_.antiquant_scale1->rank;
        if (rank != per_column && rank != per_column + 1)
            return fail(MOE_ERROR_INVALID, Kind::shape, "antiquant_scale1", "shape %s, needed %d or %d dimensions",
                        describe_shape(rank, args_.antiquant_scale1->shape).text, per_column, per_column + 1);
        for (const Named& it : antiquant_tensors())
            if (it.tensor->rank != rank)
                return fail(MOE_ERROR_INVALID, Kind::shape, it.name,
                            "shape %s, needed %d dimensions as antiquant_scale1 has",
                            describe_shape(it.tensor->rank, it.tensor->shape).text, rank);
        const bool int4 = args_.weight1->dtype == MOE_INT4;
        if (rank != per_column && !int4)
            return fail(MOE_ERROR_INVALID, Kind::shape, "antiquant_scale1",
                        "shape %s, one row per group, with int8 weights, needed int4 weights",
                        describe_shape(rank, args_.antiquant_scale1->shape).text);
        MOE_TRY(check_antiquant(*args_.antiquant_scale1, "antiquant_scale1", *args_.antiquant_offset1,
                                "antiquant_offset1", problem_.k1, problem_.n1, &problem_.groups1));
        MOE_TRY(check_antiquant(*args_.antiquant_scale2, "antiquant_scale2", *args_.antiquant_offset2,
                                "antiquant_offset2", problem_.k2, problem_.n2, &problem_.groups2));
        for (const auto& [n, name] : {std::pair{problem_.n1, "weight1"}, std::pair{problem_.n2, "weight2"}})
            if (int4 && n % 2 != 0)
                return fail(MOE_ERROR_INVALID, Kind::shape, name, "%lld columns, needed an even number of int4",
                            number(n));
        problem_.result = args_.x->dtype;
        problem_.hidden = args_.x->dtype == MOE_FLOAT16 ? MOE_FLOAT32 : MOE_BFLOAT16;
        return MOE_OK;
    }

    Status check_antiquant(const Tensor& scale, const char* scale_name, const Tensor& offset, const char* offset_name,
                           int64_t k, int64_t n, int64_t* groups) const {
        const bool grouped = scale.rank == (problem_.experts > 0 ? 3 : 2);
        if (!grouped) {
            MOE_TRY(check_columns(scale, scale_name, n));
            return check_columns(offset, offset_name, n);
        }
        *groups = scale.shape[scale.rank - 2];
        for (const Named& it : {Named{&scale, scale_name}, Named{&offset, offset_name}}) {
            if (problem_.experts > 0)
                MOE_TRY(shape_is(*it.tensor, it.name, {problem_.experts, *groups, n},
                                 "(experts, groups, columns of the weights)", MOE_ERROR_INVALID));
            else
                MOE_TRY(
                    shape_is(*it.tensor, it.name, {*groups, n}, "(groups, columns of the weights)", MOE_ERROR_INVALID));
        }
        if (*groups < 1 || k % *groups != 0)
            return fail(MOE_ERROR_INVALID, Kind::shape, scale_name, "%lld groups, needed a divisor of k = %lld",
                        number(*groups), number(k));
        return MOE_OK;
    }

    Status check_result() const {
        if (outputs_ == Outputs::ignored) return MOE_OK;
        const Tensor& y = *args_.y;
        if (y.dtype != problem_.result)
            return fail(MOE_ERROR_INVALID, Kind::dtype, "y", "dtype %s, needed %s", moe_dtype_name(y.dtype),
                        moe_dtype_name(problem_.result));
        Tensor needed = *args_.x;
        needed.shape[needed.rank - 1] = problem_.n2;
        if (std::memcmp(y.shape, needed.shape, static_cast<size_t>(y.rank) * sizeof *y.shape) != 0)
            return fail(MOE_ERROR_INVALID, Kind::shape, "y",
                        "shape %s, needed that of x with the columns of weight2: %s",
                        describe_shape(y.rank, y.shape).text, describe_shape(needed.rank, needed.shape).text);
        return MOE_OK;
    }

    // What a card refuses when it cuts the work into tiles.
    Status check_attributes() const {
        if (args_.inner_precise != 0 && args_.inner_precise != 1)
            return fail(MOE_ERROR_INNER_NULL, Kind::value, "inner_precise", "%lld, needed 0 or 1",
                        number(args_.inner_precise));
        if (limits() == MOE_LIMITS_NONE) return MOE_OK;
        if (limits() == MOE_LIMITS_ATLAS_A2 && problem_.n2 != problem_.k1)
            return fail(MOE_ERROR_INVALID, Kind::shape, "weight2", "%lld columns, needed as many as x has = %lld",
                        number(problem_.n2), number(problem_.k1));
        for (const auto& [k, name] : {std::pair{problem_.k1, "weight1"}, std::pair{problem_.k2, "weight2"}})
            if (k > 65535)
                return fail(MOE_ERROR_INVALID, Kind::shape, name, "%lld rows, needed at most 65535", number(k));
        if (problem_.experts > 256)
            return fail(MOE_ERROR_INNER_NULL, Kind::value, tokens_name(), "%lld experts, needed at most 256",
                        number(problem_.experts));
        const int64_t block = 32 / moe_dtype_size(args_.x->dtype);
        const int64_t largest = std::numeric_limits<int32_t>::max() / block * block;
        if (problem_.rows > largest)
            return fail(MOE_ERROR_INNER_NULL, Kind::value, "x", "%lld rows, needed at most %lld", number(problem_.rows),
                        number(largest));
        return MOE_OK;
    }

    static long long number(int64_t value) { return static_cast<long long>(value); }
    int64_t hidden_columns() const { return problem_.gated ? problem_.n1 / 2 : problem_.n1; }
    const char* tokens_name() const { return args_.tokens_index ? "expert_tokens_index" : "expert_tokens"; }

    std::array<Named, 4> quant_tensors() const {
        return {{{args_.scale, "scale"},
                 {args_.offset, "offset"},
                 {args_.deq_scale1, "deq_scale1"},
                 {args_.deq_scale2, "deq_scale2"}}};
    }
    std::array<Named, 4> antiquant_tensors() const {
        return {{{args_.antiquant_scale1, "antiquant_scale1"},
                 {args_.antiquant_scale2, "antiquant_scale2"},
                 {args_.antiquant_offset1, "antiquant_offset1"},
                 {args_.antiquant_offset2, "antiquant_offset2"}}};
    }
    std::array<Named, 10> optional_tensors() const {
        const auto quant = quant_tensors();
        const auto antiquant = antiquant_tensors();
        return {{{args_.bias1, "bias1"},
                 {args_.bias2, "bias2"},
                 quant[0],
                 quant[1],
                 quant[2],
                 quant[3],
                 antiquant[0],
                 antiquant[1],
                 antiquant[2],
                 antiquant[3]}};
    }

    const moe_ffn_args& args_;
    const Outputs outputs_;
    FfnProblem& problem_;
};

}  // namespace

void FfnOperands::book(const moe_ffn_args& args, Ledger& ledger) {
    x.book(args.x, "x", ledger);
    if (!is_packed(*args.weight1)) weight1.book(args.weight1, "weight1", ledger);
    if (!is_packed(*args.weight2)) weight2.book(args.weight2, "weight2", ledger);
    bias1.book(args.bias1, "bias1", ledger);
    bias2.book(args.bias2, "bias2", ledger);
    scale.book(args.scale, "scale", ledger);
    offset.book(args.offset, "offset", ledger);
    deq_scale1.book(args.deq_scale1, "deq_scale1", ledger);
    deq_scale2.book(args.deq_scale2, "deq_scale2", ledger);
    antiquant_scale1.book(args.antiquant_scale1, "antiquant_scale1", ledger);
    antiquant_scale2.book(args.antiquant_scale2, "antiquant_scale2", ledger);
    antiquant_offset1.book(args.antiquant_offset1, "antiquant_offset1", ledger);
    antiquant_offset2.book(args.antiquant_offset2, "antiquant_offset2", ledger);
    y.book(args.y, "y", ledger);
}

Status FfnOperands::load(const Workspace& workspace) {
    for (Input* input : {&x, &weight1, &weight2, &bias1, &bias2, &scale, &offset, &deq_scale1, &deq_scale2,
                         &antiquant_scale1, &antiquant_scale2, &antiquant_offset1, &antiquant_offset2})
        MOE_TRY(input->load(workspace));
    return y.load(workspace);
}

Status resolve_ffn(const moe_ffn_args& args, Outputs outputs, FfnProblem* problem) {
    return Resolver(args, outputs, problem).resolve();
}

Status read_expert_tokens(const moe_ffn_args& args, int64_t rows, const RunContext& context, int64_t* ends) {
    const Tensor& tokens = *args.expert_tokens;
    const char* name = args.tokens_index ? "expert_tokens_index" : "expert_tokens";
    MOE_TRY(has_data(&tokens, name));
    char needed[96];
    int64_t end = 0;
    for (int64_t e = 0; e < tokens.shape[0]; ++e) {
        int64_t value;
        std::memcpy(&value, static_cast<const char*>(tokens.data) + e * tokens.stride[0], sizeof value);
        const int64_t lowest = args.tokens_index ? end : 0;
        const int64_t highest = args.tokens_index ? rows : rows - end;
        if (value < lowest) {
            std::snprintf(needed, sizeof needed,
                          args.tokens_index ? "an end row >= %lld, that of the expert before" : "a count >= %lld",
                          static_cast<long long>(lowest));
            MOE_TRY(context.bad_data(name, e, value, needed));
            value = lowest;
        } else if (value > highest) {
            std::snprintf(needed, sizeof needed, "at most %lld, the rows of x%s", static_cast<long long>(highest),
                          args.tokens_index ? "" : " that are left");
            MOE_TRY(context.bad_data(name, e, value, needed));
            value = highest;
        }
        end = args.tokens_index ? value : end + value;
        if (ends != nullptr) ends[e] = end;
    }
    if (end == rows) return MOE_OK;
    if (!context.skips_bad_data())
        return fail(MOE_ERROR_INVALID, Kind::data, name, "%lld rows in total, needed the %lld of x",
                    static_cast<long long>(end), static_cast<long long>(rows));
    return context.bad_data(name, tokens.shape[0] - 1, end, "all rows of x");
}

}  // namespace moe
