#include "aclnnop/aclnn_convert_weight_to_int4_pack.h"
#include "aclnnop/aclnn_moe_init_routing.h"
#include "aclnnop/aclnn_moe_init_routing_quant.h"
#include "aclnnop/aclnn_moe_init_routing_quant_v2.h"
#include "aclnnop/aclnn_permute.h"
#include "operands.h"

using namespace client;

TEST_CASE("what has no kernel checks for null and says so, and runs nothing") {
    for (const moe_aclnn_mode mode : every_mode) {
        const InMode in_mode(mode);
        Findings findings;
        Session session;
        Array<float> x({3, 4}), out({6, 4});
        Array<int32_t> ids({3, 2}), rows({6});
        const int64_t order[] = {1, 0};
        const aclIntArray* dims = aclCreateIntArray(order, 2);
        const auto routing = [&](const aclTensor* in) -> FirstPhase {
            return [&, in](uint64_t* size, aclOpExecutor** executor) {
                return aclnnMoeInitRoutingGetWorkspaceSize(in, ids, ids, 6, out, rows, rows, size, executor);
            };
        };
        const auto routing_quant = [&](const aclTensor* in) -> FirstPhase {
            return [&, in](uint64_t* size, aclOpExecutor** executor) {
                return aclnnMoeInitRoutingQuantGetWorkspaceSize(in, ids, ids, 6, 1, 0, out, rows, rows, size, executor);
            };
        };
        const auto routing_quant_v2 = [&](const aclTensor* in) -> FirstPhase {
            return [&, in](uint64_t* size, aclOpExecutor** executor) {
                return aclnnMoeInitRoutingQuantV2GetWorkspaceSize(in, ids, nullptr, nullptr, 6, 0, 4, 0, 0, false, 0,
                                                                  out, rows, nullptr, nullptr, nullptr, size, executor);
            };
        };
        const auto pack = [&](const aclTensor* in) -> FirstPhase {
            return [&, in](uint64_t* size, aclOpExecutor** executor) {
                return aclnnConvertWeightToINT4PackGetWorkspaceSize(in, out, size, executor);
            };
        };
        const auto permute = [&](const aclTensor* in) -> FirstPhase {
            return [&, in](uint64_t* size, aclOpExecutor** executor) {
                return aclnnPermuteGetWorkspaceSize(in, dims, out, size, executor);
            };
        };
        refused(findings, 161001, "x: null", routing(nullptr), "null-argument");
        refused(findings, 161001, "x: null", routing_quant(nullptr), "null-argument");
        refused(findings, 161001, "x: null", routing_quant_v2(nullptr), "null-argument");
        refused(findings, 161001, "weight: null", pack(nullptr), "null-argument");
        refused(findings, 161001, "self: null", permute(nullptr), "null-argument");
        for (const FirstPhase& first : {routing(x), routing_quant(x), routing_quant_v2(x), pack(x), permute(x)}) {
            refused(findings, 561003, "no kernel in this library", first);
            CHECK(first(nullptr, nullptr) == 161001);
            CHECK(findings.rules(true) == Rules{"null-argument"});
        }
        for (const SecondPhase second : {aclnnMoeInitRouting, aclnnMoeInitRoutingQuant, aclnnMoeInitRoutingQuantV2,
                                         aclnnConvertWeightToINT4Pack, aclnnPermute}) {
            CHECK(second(nullptr, 0, nullptr, session.stream) == 161001);
            CHECK(second(nullptr, 0, reinterpret_cast<aclOpExecutor*>(0x1234), session.stream) == 561000);
            CHECK(findings.rules(true) == Rules{"null-argument", "executor-unknown"});
        }
        CHECK(aclDestroyIntArray(dims) == 0);
    }
}
