#include "moe_native/ffn.h"

#include "aclnn/executor.h"
#include "aclnnop/aclnn_ffn.h"
#include "aclnnop/aclnn_ffn_v2.h"
#include "aclnnop/aclnn_ffn_v3.h"

using namespace moe::device;

namespace {

constexpr Operation ffn = {"aclnnFFN", false, 561000, 561000};
constexpr Operation ffn_v2 = {"aclnnFFNV2", false, 561000, 561000};
constexpr Operation ffn_v3 = {"aclnnFFNV3", false, 561000, 561000};

// Expert tokens: numbers of the host, or a tensor, which is read when the work runs.
struct Tokens {
    const aclIntArray* array = nullptr;
    bool on_device = false;
    const aclTensor* tensor = nullptr;
};

struct Arguments {
    const aclTensor *x, *weight1, *weight2;
    Tokens tokens;
    const aclTensor *bias1, *bias2, *scale, *offset, *deq_scale1, *deq_scale2;
    const aclTensor *antiquant_scale1, *antiquant_scale2, *antiquant_offset1, *antiquant_offset2;
    const char* activation;
    int64_t inner_precise;
    bool tokens_index;
    const aclTensor* y;
};

// The core looks at the activation before it looks for the tensors.
Status check_activation(const Call& call, const char* activation) {
    if (activation == nullptr)
        return refuse(161001, Rule::null_crash, "activation", "null, which crashes a real host", "a name");
    moe_ffn_args probe = {};
    probe.activation = activation;
    return moe_ffn_check(&probe) == MOE_ERROR_INVALID ? call.refuse_core_error(161002) : 0;
}

// Without ranks that are right the core refuses.
Status check_columns(const Call& call, Slot x, Slot weight2) {
    const std::vector<int64_t>& in = call.state(x).shape;
    const std::vector<int64_t>& out = call.state(weight2).shape;
    if (in.empty() || out.empty() || in.back() == out.back()) return 0;
    return call.refuse_operand(161002, weight2,
                               text("as many columns as x has: %lld", static_cast<long long>(in.back())));
}

// Expert tokens of the host, as the core takes them.
struct HostTokens {
    std::vector<int64_t> values;
    moe_tensor tensor;
};

Status translate(Call& call, const Arguments& of, bool has_places) {
    MOE_DEVICE_TRY(check_activation(call, of.activation));
    const auto optional = [&](const char* name, const char* core_name, const aclTensor* handle) {
        return call.optional_input(std::string(name) + (of.tokens.on_device ? "Optional" : ""), handle, core_name);
    };
    const char* core_tokens = of.tokens_index ? "expert_tokens_index" : "expert_tokens";
    const Slot x = call.input("x", of.x);
    const Slot weight1 = call.input("weight1", of.weight1);
    const Slot weight2 = call.input("weight2", of.weight2);
    Slot tokens;
    if (of.tokens.on_device)
        tokens = call.optional_input("expertTokensOptional", of.tokens.tensor, core_tokens);
    else
        call.rename(core_tokens, "expertTokens");
    const Slot bias1 = optional("bias1", "bias1", of.bias1);
    const Slot bias2 = optional("bias2", "bias2", of.bias2);
    const Slot scale = optional("scale", "scale", of.scale);
    const Slot offset = optional("offset", "offset", of.offset);
    const Slot deq_scale1 = optional("deqScale1", "deq_scale1", of.deq_scale1);
    const Slot deq_scale2 = optional("deqScale2", "deq_scale2", of.deq_scale2);
    const Slot antiquant_scale1 = optional("antiquantScale1", "antiquant_scale1", of.antiquant_scale1);
    const Slot antiquant_scale2 = optional("antiquantScale2", "antiquant_scale2", of.antiquant_scale2);
    const Slot antiquant_offset1 = optional("antiquantOffset1", "antiquant_offset1", of.antiquant_offset1);
    const Slot antiquant_offset2 = optional("antiquantOffset2", "antiquant_offset2", of.antiquant_offset2);
    const Slot y = call.output("y", of.y);
    MOE_DEVICE_TRY(call.status());
    if (call.has(deq_scale1) && call.has(deq_scale2) && call.state(deq_scale1).dtype != call.state(deq_scale2).dtype)
        return call.refuse_operand(161002, deq_scale2, "the dtype of " + call.name(deq_scale1));
    if (!has_places) return 0;  // which is refused at this point
    const auto host = std::make_shared<HostTokens>();
    MOE_DEVICE_TRY(array_values(of.tokens.array, "expertTokens", &host->values));
    const auto experts = static_cast<int64_t>(host->values.size());
    host->tensor = moe_tensor_make(host->values.data(), MOE_INT64, 1, &experts);
    MOE_DEVICE_TRY(check_columns(call, x, weight2));
    call.rename("output_dtype", "y");
    // A card does nothing at all for an empty x.
    call.also_check = [&call, x]() -> Status {
        if (!call.state(x).has_elements()) call.compute_nothing();
        return 0;
    };
    if (mode() == MOE_ACLNN_REAL && call.state(y).dtype == ACL_FLOAT16)
        call.planned = [&call, deq_scale1, deq_scale2] {
            for (const Slot slot : {deq_scale1, deq_scale2})
                if (call.has(slot) && call.state(slot).dtype == ACL_INT64)
                    call.tensor(slot)->change([](TensorState& state) { state.dtype = ACL_UINT64; });
        };
    call.compute(MOE_CORE(moe_ffn), [=, activation = std::string(of.activation)](const Views& view) {
        moe_ffn_args args = {};
        args.x = view[x];
        args.weight1 = view[weight1];
        args.weight2 = view[weight2];
        args.expert_tokens = of.tokens.on_device ? view[tokens] : &host->tensor;
        args.bias1 = view[bias1];
        args.bias2 = view[bias2];
        args.scale = view[scale];
        args.offset = view[offset];
        args.deq_scale1 = view[deq_scale1];
        args.deq_scale2 = view[deq_scale2];
        args.antiquant_scale1 = view[antiquant_scale1];
        args.antiquant_scale2 = view[antiquant_scale2];
        args.antiquant_offset1 = view[antiquant_offset1];
        args.antiquant_offset2 = view[antiquant_offset2];
        args.activation = activation.c_str();
        args.inner_precise = of.inner_precise;
        args.output_dtype = view[y]->dtype;
        args.tokens_index = of.tokens_index;
        args.tokens_known = !of.tokens.on_device;
        args.y = view[y];
        return args;
    });
    return 0;
}

aclnnStatus plan(const Operation& operation, const aclTensor* x, const aclTensor* weight1, const aclTensor* weight2,
                 const Tokens& tokens, const aclTensor* bias1, const aclTensor* bias2, const aclTensor* scale,
                 const aclTensor* offset, const aclTensor* deq_scale1, const aclTensor* deq_scale2,
                 const aclTensor* antiquant_scale1, const aclTensor* antiquant_scale2,
                 const aclTensor* antiquant_offset1, const aclTensor* antiquant_offset2, const char* activation,
                 int64_t inner_precise, bool tokens_index, const aclTensor* y, uint64_t* workspace_size,
                 aclOpExecutor** executor) {
    const Arguments of = {x,
                          weight1,
                          weight2,
                          tokens,
                          bias1,
                          bias2,
                          scale,
                          offset,
                          deq_scale1,
                          deq_scale2,
                          antiquant_scale1,
                          antiquant_scale2,
                          antiquant_offset1,
                          antiquant_offset2,
                          activation,
                          inner_precise,
                          tokens_index,
                          y};
    return first_phase(operation, workspace_size, executor, [&](Call& call) {
        return translate(call, of, workspace_size != nullptr && executor != nullptr);
    });
}

}  // namespace

aclnnStatus aclnnFFNGetWorkspaceSize(const aclTensor* x, const aclTensor* weight1, const aclTensor* weight2,
                                     const aclIntArray* expertTokens, const aclTensor* bias1, const aclTensor* bias2,
                                     const aclTensor* scale, const aclTensor* offset, const aclTensor* deqScale1,
                                     const aclTensor* deqScale2, const aclTensor* antiquantScale1,
                                     const aclTensor* antiquantScale2, const aclTensor* antiquantOffset1,
                                     const aclTensor* antiquantOffset2, const char* activation, int64_t innerPrecise,
                                     const aclTensor* y, uint64_t* workspaceSize, aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return plan(ffn, x, weight1, weight2, {expertTokens}, bias1, bias2, scale, offset, deqScale1, deqScale2,
                    antiquantScale1, antiquantScale2, antiquantOffset1, antiquantOffset2, activation, innerPrecise,
                    false, y, workspaceSize, executor);
    });
}

aclnnStatus aclnnFFNV2GetWorkspaceSize(const aclTensor* x, const aclTensor* weight1, const aclTensor* weight2,
                                       const aclIntArray* expertTokens, const aclTensor* bias1, const aclTensor* bias2,
                                       const aclTensor* scale, const aclTensor* offset, const aclTensor* deqScale1,
                                       const aclTensor* deqScale2, const aclTensor* antiquantScale1,
                                       const aclTensor* antiquantScale2, const aclTensor* antiquantOffset1,
                                       const aclTensor* antiquantOffset2, const char* activation, int64_t innerPrecise,
                                       bool tokensIndexFlag, const aclTensor* y, uint64_t* workspaceSize,
                                       aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return plan(ffn_v2, x, weight1, weight2, {expertTokens}, bias1, bias2, scale, offset, deqScale1, deqScale2,
                    antiquantScale1, antiquantScale2, antiquantOffset1, antiquantOffset2, activation, innerPrecise,
                    tokensIndexFlag, y, workspaceSize, executor);
    });
}

aclnnStatus aclnnFFNV3GetWorkspaceSize(const aclTensor* x, const aclTensor* weight1, const aclTensor* weight2,
                                       const aclTensor* expertTokens, const aclTensor* bias1, const aclTensor* bias2,
                                       const aclTensor* scale, const aclTensor* offset, const aclTensor* deqScale1,
                                       const aclTensor* deqScale2, const aclTensor* antiquantScale1,
                                       const aclTensor* antiquantScale2, const aclTensor* antiquantOffset1,
                                       const aclTensor* antiquantOffset2, const char* activation, int64_t innerPrecise,
                                       bool tokensIndexFlag, const aclTensor* y, uint64_t* workspaceSize,
                                       aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return plan(ffn_v3, x, weight1, weight2, {nullptr, true, expertTokens}, bias1, bias2, scale, offset, deqScale1,
                    deqScale2, antiquantScale1, antiquantScale2, antiquantOffset1, antiquantOffset2, activation,
                    innerPrecise, tokensIndexFlag, y, workspaceSize, executor);
    });
}

MOE_SECOND_PHASE(aclnnFFN, ffn)
MOE_SECOND_PHASE(aclnnFFNV2, ffn_v2)
MOE_SECOND_PHASE(aclnnFFNV3, ffn_v3)
