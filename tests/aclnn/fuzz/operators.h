// The operators as the fuzzer sees them: both phases behind one type, and small calls that are right.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "calls.h"

namespace fuzz {

using Shape = std::vector<int64_t>;

// An argument of phase 1; which member counts is decided by the type of the parameter.
struct Value {
    const void* handle = nullptr;
    int64_t integer = 0;
    double real = 0;
};

struct Operator {
    Function first, second;
    const char* name;
    // Arguments up to, and without, workspaceSize.
    aclnnStatus (*plan)(const Value* values, uint64_t* size, aclOpExecutor** executor);
    aclnnStatus (*run)(void* workspace, uint64_t size, aclOpExecutor* executor, aclrtStream stream);
};

template <class T>
T as(const Value& value) {
    if constexpr (std::is_pointer_v<T>)
        return static_cast<T>(const_cast<void*>(value.handle));
    else if constexpr (std::is_floating_point_v<T>)
        return static_cast<T>(value.real);
    else if constexpr (std::is_same_v<T, bool>)
        return value.integer != 0;
    else
        return static_cast<T>(value.integer);
}

template <auto function, class Parameters>
struct Plan;
template <auto function, class... Parameters>
struct Plan<function, aclnnStatus (*)(Parameters...)> {
    static constexpr size_t leading = sizeof...(Parameters) - 2;
    template <size_t... I>
    static aclnnStatus apply(const Value* values, uint64_t* size, aclOpExecutor** executor, std::index_sequence<I...>) {
        using Tuple = std::tuple<Parameters...>;
        return function(as<std::tuple_element_t<I, Tuple>>(values[I])..., size, executor);
    }
    static aclnnStatus call(const Value* values, uint64_t* size, aclOpExecutor** executor) {
        return apply(values, size, executor, std::make_index_sequence<leading>());
    }
};

inline constexpr Operator operators[] = {
#define FUNCTION(name, result, parameters)
#define OPERATOR(name, parameters)                                          \
    {Function::aclnn##name##GetWorkspaceSize, Function::aclnn##name, #name, \
     Plan<&aclnn##name##GetWorkspaceSize, decltype(&aclnn##name##GetWorkspaceSize)>::call, aclnn##name},
#include "../functions.inc"
#undef FUNCTION
#undef OPERATOR
};

inline constexpr const char* without_kernel[] = {"MoeInitRouting", "MoeInitRoutingQuant", "MoeInitRoutingQuantV2",
                                                 "ConvertWeightToINT4Pack", "Permute"};

inline bool has_kernel(const Operator& op) {
    return std::none_of(std::begin(without_kernel), std::end(without_kernel),
                        [&](const char* name) { return std::strcmp(name, op.name) == 0; });
}

// One tensor of a call.
struct Spec {
    Shape shape;
    aclDataType dtype;
    std::vector<char> contents;  // of the storage; none for an output
    Shape tiles;                 // of FRACTAL_NZ; else empty

    const Shape& storage() const { return tiles.empty() ? shape : tiles; }
    size_t size() const {
        size_t count = 1;
        for (const int64_t dim : storage()) count *= static_cast<size_t>(dim);
        return count * ::aclDataTypeSize(dtype);
    }
};

struct Argument {
    enum class Kind { tensor, array, number, text } kind;
    int operand;  // of a tensor; -1 is null
    std::vector<int64_t> array;
    int64_t integer;
    double real;
    const char* text;
};

// A call of an operator.
class Recipe {
  public:
    explicit Recipe(const char* name) {
        for (const Operator& candidate : operators)
            if (std::strcmp(candidate.name, name) == 0) op = &candidate;
    }

    // Floats are multiples of 1/64, 64-bit words the bits of such a float, other integers any bits.
    Recipe& in(const Shape& shape, aclDataType dtype, const Shape& tiles = {}) {
        Spec spec = {shape, dtype, {}, tiles};
        spec.contents.resize(spec.size());
        Random random(operands.size() + 1);
        const size_t size = ::aclDataTypeSize(dtype);
        for (size_t i = 0; i < spec.contents.size(); i += size) {
            const float value = static_cast<float>(static_cast<int>(random.below(256)) - 128) / 64;
            uint64_t bits = random.next();
            if (dtype == ACL_FLOAT16) bits = ::aclFloatToFloat16(value);
            if (dtype == ACL_FLOAT || dtype == ACL_INT64 || dtype == ACL_UINT64 || dtype == ACL_BF16) {
                bits = 0;
                std::memcpy(&bits, &value, sizeof value);
                if (dtype == ACL_BF16) bits >>= 16;
            }
            std::memcpy(&spec.contents[i], &bits, size);
        }
        return tensor(std::move(spec));
    }
    Recipe& values(const Shape& shape, aclDataType dtype, const std::vector<int64_t>& numbers) {
        Spec spec = {shape, dtype, {}, {}};
        spec.contents.resize(spec.size());
        const size_t size = ::aclDataTypeSize(dtype);
        for (size_t i = 0; i < numbers.size(); ++i) std::memcpy(&spec.contents[i * size], &numbers[i], size);
        return tensor(std::move(spec));
    }
    Recipe& out(const Shape& shape, aclDataType dtype, const Shape& tiles = {}) {
        return tensor({shape, dtype, {}, tiles});
    }
    Recipe& none(int count = 1) {
        for (; count > 0; --count) add(Argument::Kind::tensor).operand = -1;
        return *this;
    }
    Recipe& array(const std::vector<int64_t>& numbers) {
        add(Argument::Kind::array).array = numbers;
        return *this;
    }
    Recipe& number(double value) {
        Argument& argument = add(Argument::Kind::number);
        argument.integer = static_cast<int64_t>(value);
        argument.real = value;
        return *this;
    }
    Recipe& numbers(std::initializer_list<double> all) {
        for (const double value : all) number(value);
        return *this;
    }
    Recipe& text(const char* value) {
        add(Argument::Kind::text).text = value;
        return *this;
    }
    // Phase 1 changes tensors: always, or in the mode `real`.
    Recipe& changes(bool in_every_mode = false) {
        changes_in_real = true;
        changes_always = in_every_mode;
        return *this;
    }

    Recipe& wrong() {
        right = false;
        return *this;
    }

    const Operator* op = nullptr;
    bool right = true;
    std::vector<Spec> operands;
    std::vector<Argument> arguments;
    bool changes_in_real = false, changes_always = false;

  private:
    Argument& add(Argument::Kind kind) {
        arguments.push_back({kind, -1, {}, 0, 0, nullptr});
        return arguments.back();
    }
    Recipe& tensor(Spec spec) {
        add(Argument::Kind::tensor).operand = static_cast<int>(operands.size());
        operands.push_back(std::move(spec));
        return *this;
    }
};

inline std::vector<Recipe> make_recipes() {
    std::vector<Recipe> all;
    const auto recipe = [&](const char* name) -> Recipe& { return all.emplace_back(name); };
    constexpr aclDataType f32 = ACL_FLOAT, f16 = ACL_FLOAT16, b16 = ACL_BF16, i8 = ACL_INT8, i32 = ACL_INT32,
                          i64 = ACL_INT64;

    const std::vector<int64_t> ids = {1, 2, 0, 1, 0, 2};
    recipe("MoeInitRoutingV2").in({3, 4}, f32).values({3, 2}, i32, ids).numbers({0, 0, 3, 0, 1, 0});
    all.back().out({6, 4}, f32).out({6}, i32).out({3}, i32).none();
    recipe("MoeInitRoutingV2").in({3, 4}, f16).values({3, 2}, i32, ids).numbers({0, 2, 3, 1, 0, 1});
    all.back().out({3, 2, 4}, f16).out({6}, i32).none().out({3}, i32);
    // Plain, quantised, and with an output of the wrong dtype for its mode.
    for (const int64_t quant_mode : {-1, 1, 0}) {
        recipe("MoeInitRoutingV3").in({3, 4}, f32).values({3, 2}, i32, ids).none(2).numbers({6, 0, 3, 0, 1, 1});
        all.back().number(quant_mode == 0 ? -1 : static_cast<double>(quant_mode)).array({0, 3}).number(0);
        all.back().out({6, 4}, quant_mode == -1 ? f32 : i8).out({6}, i32).out({3}, i64).out({6}, f32);
        if (quant_mode == 0) all.back().wrong();
    }
    recipe("MoeTokenPermuteWithRoutingMap").in({2, 2}, f32).values({2, 2}, i8, {1, 1, 1, 1}).none().numbers({4, 0});
    all.back().out({4, 2}, f32).none().out({4}, i32);
    recipe("MoeTokenPermuteWithRoutingMap").in({2, 2}, b16).values({2, 2}, i8, {1, 1, 1, 1}).in({2, 2}, b16);
    all.back().numbers({4, 0}).out({4, 2}, b16).out({4}, b16).out({4}, i32);
    recipe("MoeTokenUnpermuteWithRoutingMap").in({4, 2}, f32).values({4}, i32, {0, 2, 1, 3}).none(2).number(0);
    all.back().array({2, 2}).out({2, 2}, f32).none(3);
    recipe("MoeFinalizeRouting").in({6, 4}, f32).in({3, 4}, f32).in({3, 4}, f32).in({3, 4}, f32).in({3, 2}, f32);
    all.back().values({6}, i32, {2, 1, 4, 3, 0, 5}).values({3, 2}, i32, ids).out({3, 4}, f32);
    recipe("MoeFinalizeRoutingV2").in({6, 4}, f32).values({6}, i32, {2, 1, 4, 3, 0, 5}).in({3, 4}, f32);
    all.back().in({3, 4}, f32).in({3, 4}, f32).in({3, 2}, f32).values({3, 2}, i32, ids).number(0).out({3, 4}, f32);
    recipe("MoeFinalizeRoutingV2").in({6, 4}, b16).values({6}, i32, {2, 1, 4, 3, 0, 5}).none(3).in({3, 2}, b16);
    all.back().none().number(2).out({3, 4}, b16);

    for (const char* name :
         {"GroupedMatmulFinalizeRouting", "GroupedMatmulFinalizeRoutingV2", "GroupedMatmulFinalizeRoutingV3",
          "GroupedMatmulFinalizeRoutingWeightNz", "GroupedMatmulFinalizeRoutingWeightNzV2"}) {
        const bool tiled = std::strstr(name, "Nz") != nullptr, extended = std::strstr(name, "V") != nullptr;
        const int64_t k = tiled ? 32 : 192, n = tiled ? 256 : 128;
        Recipe& of = recipe(name).changes().in({4, k}, i8);
        if (tiled)
            of.in({2, k, n}, i8, {2, n / 32, k / 16, 16, 32}).in({2, n}, f32).in({2, n}, b16);
        else
            of.in({2, k, n / 8}, i32).in({2, 1, n}, i64).in({2, n}, f32);
        if (extended) of.none(3);
        of.in({4}, f32).values({2}, i64, {2, 2}).in({1, n}, b16).in({4}, f32).values({4}, i64, {0, 1, 2, 0});
        of.numbers({0, 0.5, 0, 0, 0, 1});
        if (extended && std::strstr(name, "RoutingV2") == nullptr) of.array({1});
        of.out({3, n}, f32);
    }

    for (const char* name : {"FFN", "FFNV2", "FFNV3"})
        for (const int variant : {0, 1, 2}) {
            Recipe& of = recipe(name).changes();
            const auto shaped = [&](Shape shape) {
                if (variant == 1) shape.insert(shape.begin(), 2);
                return shape;
            };
            const aclDataType dtype = variant == 0 ? f16 : variant == 1 ? b16 : i8;
            of.in({3, 8}, dtype).in(shaped({8, 6}), dtype).in(shaped({6, 8}), dtype);
            if (variant != 1)
                of.none();
            else if (std::strcmp(name, "FFNV3") == 0)
                of.values({2}, i64, {1, 2});
            else
                of.array({1, 2});
            const aclDataType bias = variant == 0 ? f16 : variant == 1 ? f32 : i32;
            if (variant == 2)  // small numbers
                of.values({6}, bias, {1, 2, 3, 4, 5, 6}).values({8}, bias, {1, 2, 3, 4, 5, 6, 7, 8});
            else
                of.in(shaped({6}), bias).in(shaped({8}), bias);
            if (variant == 2)
                of.in({1}, f32).in({1}, f32).in({6}, i64).in({8}, i64).none(4);
            else
                of.none(8);
            of.text(variant == 1 ? "gelu" : "relu").number(0);
            if (std::strcmp(name, "FFN") != 0) of.number(0);
            of.out({3, 8}, variant == 1 ? b16 : f16);
        }

    recipe("MoeGatingTopKSoftmax").in({3, 8}, f32).values({3}, ACL_BOOL, {0, 1, 0}).number(2);
    all.back().out({3, 2}, f32).out({3, 2}, i32).out({3, 2}, i32);
    recipe("MoeGatingTopKSoftmaxV2").in({3, 8}, f16).none().numbers({2, 0, 1});
    all.back().out({3, 2}, f16).out({3, 2}, i32).out({3, 8}, f32);
    recipe("MoeGatingTopK").in({3, 16}, f32).in({16}, f32).numbers({3, 2, 4, 1, 0, 1, 1, 1, 1e-20});
    all.back().out({3, 3}, f32).out({3, 3}, i32).out({3, 16}, f32);
    recipe("MoeComputeExpertTokens").values({6}, i32, {0, 0, 1, 1, 2, 2}).number(3).out({3}, i32);

    recipe("MoeInitRouting").in({3, 4}, f32).values({3, 2}, i32, ids).values({3, 2}, i32, ids).number(3);
    all.back().out({6, 4}, f32).out({6}, i32).out({6}, i32);
    recipe("MoeInitRoutingQuant").in({3, 4}, f32).values({3, 2}, i32, ids).values({3, 2}, i32, ids);
    all.back().numbers({3, 1, 0}).out({6, 4}, i8).out({6}, i32).out({6}, i32);
    recipe("MoeInitRoutingQuantV2").in({3, 4}, f32).values({3, 2}, i32, ids).none(2).numbers({0, 0, 3, 0, 0, 0, 0});
    all.back().out({6, 4}, i8).out({6}, i32).none(3);
    recipe("TransMatmulWeight").in({16, 32}, i8).changes(true);
    recipe("NpuFormatCast").in({16, 32}, i8).out({16, 32}, i8, {1, 1, 16, 32});
    recipe("NpuFormatCast").in({16, 16}, f16, {1, 1, 16, 16}).out({16, 16}, f16);
    recipe("ConvertWeightToINT4Pack").in({16, 32}, i32).out({16, 4}, i32);
    recipe("Permute").in({2, 3}, f32).array({1, 0}).out({3, 2}, f32);

    for (const char* name : {"GroupedMatmulSwigluQuant", "GroupedMatmulSwigluQuantWeightNZ"}) {
        recipe(name).changes().in({4, 48}, i8).in({2, 2, 3, 16, 32}, i8, {2, 2, 3, 16, 32}).none(2).in({2, 64}, f32);
        all.back().in({4}, f32).values({2}, i64, {2, 4}).out({4, 32}, i8).out({4}, f32).none();
    }
    recipe("DynamicQuant").in({3, 8}, f16).in({8}, f16).out({3, 8}, i8).out({3}, f32);
    recipe("DynamicQuantV2").in({3, 8}, b16).in({2, 8}, b16).values({2}, i32, {1, 3}).number(ACL_INT8);
    all.back().out({3, 8}, i8).out({3}, f32).none();
    recipe("SwiGlu").in({3, 8}, f16).number(-1).out({3, 4}, f16);
    return all;
}

}  // namespace fuzz
