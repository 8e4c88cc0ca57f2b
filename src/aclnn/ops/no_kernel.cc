// Operators whose names exist so that programs link, and that nothing here computes.
#include "aclnn/executor.h"
#include "aclnnop/aclnn_convert_weight_to_int4_pack.h"
#include "aclnnop/aclnn_moe_init_routing.h"
#include "aclnnop/aclnn_moe_init_routing_quant.h"
#include "aclnnop/aclnn_moe_init_routing_quant_v2.h"
#include "aclnnop/aclnn_permute.h"

using namespace moe::device;

namespace {

struct Required {
    const char* name;
    const void* handle;
};

Status no_kernel(std::initializer_list<Required> required, const uint64_t* workspace_size,
                 aclOpExecutor* const* executor) {
    for (const Required& argument : required)
        if (argument.handle == nullptr)
            return refuse(161001, Rule::null_argument, argument.name, "null", "an argument that is there");
    if (workspace_size == nullptr) return refuse(161001, Rule::null_argument, "workspaceSize", "null", "a place");
    if (executor == nullptr) return refuse(161001, Rule::null_argument, "executor", "null", "a place");
    return refuse(561003, Rule::argument, "", "no kernel in this library", "");
}

// No executor can have been made: every one is somebody else's.
constexpr Operation init_routing = {"aclnnMoeInitRouting", true};
constexpr Operation init_routing_quant = {"aclnnMoeInitRoutingQuant", true};
constexpr Operation init_routing_quant_v2 = {"aclnnMoeInitRoutingQuantV2", true};
constexpr Operation convert_weight = {"aclnnConvertWeightToINT4Pack", false};
constexpr Operation permute = {"aclnnPermute", false};

}  // namespace

aclnnStatus aclnnMoeInitRoutingGetWorkspaceSize(const aclTensor* x, const aclTensor* rowIdx, const aclTensor* expertIdx,
                                                int64_t, const aclTensor* expandedXOut,
                                                const aclTensor* expandedRowIdxOut,
                                                const aclTensor* expandedExpertIdxOut, uint64_t* workspaceSize,
                                                aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return no_kernel({{"x", x},
                          {"rowIdx", rowIdx},
                          {"expertIdx", expertIdx},
                          {"expandedXOut", expandedXOut},
                          {"expandedRowIdxOut", expandedRowIdxOut},
                          {"expandedExpertIdxOut", expandedExpertIdxOut}},
                         workspaceSize, executor);
    });
}

aclnnStatus aclnnMoeInitRoutingQuantGetWorkspaceSize(const aclTensor* x, const aclTensor* rowIdx,
                                                     const aclTensor* expertIdx, int64_t, double, double,
                                                     const aclTensor* expandedXOut, const aclTensor* expandedRowIdxOut,
                                                     const aclTensor* expandedExpertIdxOut, uint64_t* workspaceSize,
                                                     aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return no_kernel({{"x", x},
                          {"rowIdx", rowIdx},
                          {"expertIdx", expertIdx},
                          {"expandedXOut", expandedXOut},
                          {"expandedRowIdxOut", expandedRowIdxOut},
                          {"expandedExpertIdxOut", expandedExpertIdxOut}},
                         workspaceSize, executor);
    });
}

aclnnStatus aclnnMoeInitRoutingQuantV2GetWorkspaceSize(const aclTensor* x, const aclTensor* expertIdx, const aclTensor*,
                                                       const aclTensor*, int64_t, int64_t, int64_t, int64_t, int64_t,
                                                       bool, int64_t, const aclTensor* expandedXOut,
                                                       const aclTensor* expandedRowIdxOut, const aclTensor*,
                                                       const aclTensor*, const aclTensor*, uint64_t* workspaceSize,
                                                       aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return no_kernel({{"x", x},
                          {"expertIdx", expertIdx},
                          {"expandedXOut", expandedXOut},
                          {"expandedRowIdxOut", expandedRowIdxOut}},
                         workspaceSize, executor);
    });
}

aclnnStatus aclnnConvertWeightToINT4PackGetWorkspaceSize(const aclTensor* weight, aclTensor* weightInt4Pack,
                                                         uint64_t* workspaceSize, aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return no_kernel({{"weight", weight}, {"weightInt4Pack", weightInt4Pack}}, workspaceSize, executor);
    });
}

aclnnStatus aclnnPermuteGetWorkspaceSize(const aclTensor* self, const aclIntArray* dims, aclTensor* out,
                                         uint64_t* workspaceSize, aclOpExecutor** executor) {
    return entry(MOE_HERE, [&] {
        return no_kernel({{"self", self}, {"dims", dims}, {"out", out}}, workspaceSize, executor);
    });
}

MOE_SECOND_PHASE(aclnnMoeInitRouting, init_routing)
MOE_SECOND_PHASE(aclnnMoeInitRoutingQuant, init_routing_quant)
MOE_SECOND_PHASE(aclnnMoeInitRoutingQuantV2, init_routing_quant_v2)
MOE_SECOND_PHASE(aclnnConvertWeightToINT4Pack, convert_weight)
MOE_SECOND_PHASE(aclnnPermute, permute)

aclnnStatus aclDumpOpTensors(const char* opType, const char* opName, aclTensor** tensors, size_t inputTensorNum,
                             size_t outputTensorNum, aclrtStream) {
    return entry(MOE_HERE, [&]() -> Status {
        if (opType == nullptr || opName == nullptr || (tensors == nullptr && inputTensorNum + outputTensorNum > 0))
            return refuse(161001, Rule::null_argument, "opType, opName, tensors", "null", "arguments that are there");
        return refuse(561003, Rule::argument, "", "no kernel in this library", "");
    });
}
