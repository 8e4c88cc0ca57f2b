// The few functions that have no kernel on the CPU check for null and say so.
#include "aclnnop/aclnn_convert_weight_to_int4_pack.h"
#include "aclnnop/aclnn_moe_init_routing.h"
#include "aclnnop/aclnn_moe_init_routing_quant.h"
#include "aclnnop/aclnn_moe_init_routing_quant_v2.h"
#include "aclnnop/aclnn_permute.h"
#include "client.h"

int main() {
    return client::program([] {
        const client::Device device;
        const auto x = client::floats({3, 4}, std::vector<float>(12));
        const auto indices = client::int32s({3, 2}, std::vector<int32_t>(6));
        const client::IntArray dims{1, 0};
        uint64_t size = 77;
        aclOpExecutor* executor = nullptr;
        const auto expect_no_kernel = [&](int status) {
            const char* text = aclGetRecentErrMsg();
            if (status != 561003 || text == nullptr || std::strstr(text, "no kernel in this library") == nullptr)
                throw std::runtime_error("status " + std::to_string(status) + ", " + (text ? text : "no text"));
            if (size != 77 || executor != nullptr) throw std::runtime_error("a failing call wrote its results");
        };
        expect_no_kernel(
            aclnnMoeInitRoutingGetWorkspaceSize(x, indices, indices, 3, x, indices, indices, &size, &executor));
        expect_no_kernel(aclnnMoeInitRoutingQuantGetWorkspaceSize(x, indices, indices, 3, 1.0, 0.0, x, indices, indices,
                                                                  &size, &executor));
        expect_no_kernel(aclnnMoeInitRoutingQuantV2GetWorkspaceSize(
            x, indices, nullptr, nullptr, 3, 0, 3, 0, 0, false, 1, x, indices, nullptr, nullptr, x, &size, &executor));
        expect_no_kernel(aclnnConvertWeightToINT4PackGetWorkspaceSize(indices, indices, &size, &executor));
        expect_no_kernel(aclnnPermuteGetWorkspaceSize(x, dims, x, &size, &executor));
        if (aclnnPermuteGetWorkspaceSize(nullptr, dims, x, &size, &executor) != 161001 ||
            aclGetRecentErrMsg() == nullptr)
            throw std::runtime_error("null was not refused");
    });
}
