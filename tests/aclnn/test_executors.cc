// Tensors, executors, workspaces and addresses: what phase 2 accepts, and what it tells.
#include <unistd.h>

#include <limits>
#include <thread>

#include "aclnnop/aclnn_moe_compute_expert_tokens.h"
#include "aclnnop/aclnn_moe_finalize_routing_v2.h"
#include "aclnnop/aclnn_moe_init_routing_v2.h"
#include "aclnnop/aclnn_moe_init_routing_v3.h"
#include "aclnnop/aclnn_moe_token_permute_with_routing_map.h"
#include "operands.h"

using namespace client;

namespace {

const std::vector<int32_t> sorted = {0, 0, 1, 1, 2, 2};
const std::vector<int32_t> ends = {2, 4, 6};

aclOpExecutor* plan(aclTensor* in, aclTensor* out, uint64_t* size) {
    aclOpExecutor* executor = nullptr;
    REQUIRE(aclnnMoeComputeExpertTokensGetWorkspaceSize(in, 3, out, size, &executor) == 0);
    return executor;
}

aclOpExecutor* plan(aclTensor* in, aclTensor* out) {
    uint64_t size = 0;
    return plan(in, out, &size);
}

aclnnStatus launch(aclOpExecutor* executor, Session& session) {
    return aclnnMoeComputeExpertTokens(nullptr, 0, executor, session.stream);
}

// A composite operator: tokens (2, 2) to both of two experts.
struct Permute {
    Array<float> tokens{{2, 2}, {1, 2, 3, 4}};
    Array<int8_t> map{{2, 2}, {1, 1, 1, 1}};
    Array<float> out{{4, 2}};
    Array<int32_t> indices{{4}};

    aclOpExecutor* plan(uint64_t* size) {
        aclOpExecutor* executor = nullptr;
        REQUIRE(aclnnMoeTokenPermuteWithRoutingMapGetWorkspaceSize(tokens, map, nullptr, 4, false, out, nullptr,
                                                                   indices, size, &executor) == 0);
        return executor;
    }
};
const std::vector<float> permuted = {1, 2, 3, 4, 1, 2, 3, 4};

}  // namespace

TEST_CASE("tensors: what is made is what the getters say") {
    Findings findings;
    const int64_t dims[] = {2, 3}, strides[] = {1, 2}, storage[] = {40};
    aclTensor* tensor = aclCreateTensor(dims, 2, ACL_FLOAT16, strides, 5, ACL_FORMAT_NCL, storage, 1, nullptr);
    REQUIRE(tensor != nullptr);
    int64_t* values = nullptr;
    uint64_t count = 0;
    CHECK(aclGetViewShape(tensor, &values, &count) == 0);
    CHECK(std::vector<int64_t>(values, values + count) == Shape{2, 3});
    delete[] values;
    CHECK(aclGetViewStrides(tensor, &values, &count) == 0);
    CHECK(std::vector<int64_t>(values, values + count) == Shape{1, 2});
    delete[] values;
    CHECK(aclGetStorageShape(tensor, &values, &count) == 0);
    CHECK(std::vector<int64_t>(values, values + count) == Shape{40});
    delete[] values;
    int64_t offset = 0;
    aclFormat format;
    aclDataType dtype;
    void* address = &dtype;
    CHECK(aclGetViewOffset(tensor, &offset) == 0);
    CHECK(offset == 5);
    CHECK(aclGetFormat(tensor, &format) == 0);
    CHECK(format == ACL_FORMAT_NCL);
    CHECK(aclGetDataType(tensor, &dtype) == 0);
    CHECK(dtype == ACL_FLOAT16);
    CHECK(aclGetRawTensorAddr(tensor, &address) == 0);
    CHECK(address == nullptr);
    CHECK(aclSetRawTensorAddr(tensor, &offset) == 0);
    CHECK(aclInitTensor(tensor, dims, 1, ACL_INT8, nullptr, 0, ACL_FORMAT_ND, nullptr, 0, nullptr) == 0);
    CHECK(aclGetRawTensorAddr(tensor, &address) == 0);
    CHECK(address == &offset);
    CHECK(aclGetDataType(tensor, nullptr) == 161001);
    CHECK(aclGetDataType(nullptr, &dtype) == 161001);
    CHECK(aclInitTensor(nullptr, dims, 1, ACL_INT8, nullptr, 0, ACL_FORMAT_ND, nullptr, 0, nullptr) == 161001);
    CHECK(aclCreateTensor(nullptr, 1, ACL_INT8, nullptr, 0, ACL_FORMAT_ND, dims, 1, nullptr) == nullptr);
    CHECK(aclCreateTensor(dims, 1, ACL_INT8, nullptr, 0, ACL_FORMAT_ND, nullptr, 1, nullptr) == nullptr);
    CHECK(aclCreateTensor(dims, uint64_t{1} << 60, ACL_INT8, nullptr, 0, ACL_FORMAT_ND, dims, 1, nullptr) == nullptr);
    CHECK(findings.rules() == Rules{});
    CHECK(aclDestroyTensor(tensor) == 0);
    CHECK(aclGetDataType(tensor, &dtype) == 161002);
    CHECK(findings.rules(true).back() == "tensor-destroyed");
    aclGetRecentErrMsg();
}

TEST_CASE("arrays, scalars and lists; lists own their elements") {
    Findings findings;
    const int64_t ints[] = {1, 2, 3};
    const float floats[] = {1, 2};
    const bool bools[] = {true};
    aclIntArray* int_array = aclCreateIntArray(ints, 3);
    aclFloatArray* float_array = aclCreateFloatArray(floats, 2);
    aclBoolArray* bool_array = aclCreateBoolArray(bools, 1);
    aclIntArray* empty = aclCreateIntArray(nullptr, 7);
    uint64_t size = 99;
    CHECK(aclGetIntArraySize(int_array, &size) == 0);
    CHECK(size == 3);
    CHECK(aclGetFloatArraySize(float_array, &size) == 0);
    CHECK(size == 2);
    CHECK(aclGetBoolArraySize(bool_array, &size) == 0);
    CHECK(size == 1);
    CHECK(aclGetIntArraySize(empty, &size) == 0);
    CHECK(size == 0);
    CHECK(aclCreateScalar(nullptr, ACL_FLOAT) == nullptr);
    float value = 1;
    aclScalar* scalars[] = {aclCreateScalar(&value, ACL_FLOAT), aclCreateScalar(&value, ACL_FLOAT)};
    aclScalarList* scalar_list = aclCreateScalarList(scalars, 2);
    aclTensor* tensors[] = {make_tensor({1}, ACL_FLOAT, nullptr), make_tensor({2}, ACL_FLOAT, nullptr)};
    aclTensorList* list = aclCreateTensorList(tensors, 2);
    CHECK(aclGetTensorListSize(list, &size) == 0);
    CHECK(size == 2);
    CHECK(aclGetScalarListSize(scalar_list, &size) == 0);
    CHECK(aclGetTensorListSize(reinterpret_cast<aclTensorList*>(int_array), &size) == 161002);
    findings.rules();
    CHECK(aclDestroyTensor(tensors[0]) == 0);
    CHECK(findings.rules() == Rules{});
    // The list destroys its second element, and finds the first one destroyed.
    CHECK(aclDestroyTensorList(list) == 0);
    CHECK(findings.rules() == Rules{"double-destroy"});
    CHECK(aclDestroyTensor(tensors[1]) == 0);
    CHECK(aclDestroyTensorList(list) == 0);
    CHECK(aclDestroyScalarList(scalar_list) == 0);
    CHECK(aclDestroyScalar(scalars[0]) == 0);
    CHECK(findings.rules() == Rules(3, "double-destroy"));
    for (int i = 0; i < 2; ++i) {
        CHECK(aclDestroyIntArray(int_array) == 0);
        CHECK(aclDestroyFloatArray(float_array) == 0);
        CHECK(aclDestroyBoolArray(bool_array) == 0);
        CHECK(aclDestroyIntArray(empty) == 0);
    }
    int on_stack = 0;
    CHECK(aclDestroyTensor(reinterpret_cast<aclTensor*>(&on_stack)) == 0);
    CHECK(aclDestroyTensor(nullptr) == 0);
    CHECK(findings.rules() == Rules(5, "double-destroy"));
    aclGetRecentErrMsg();
}

TEST_CASE("half precision and sizes of types") {
    CHECK(aclDataTypeSize(ACL_FLOAT) == 4);
    CHECK(aclDataTypeSize(ACL_BF16) == 2);
    CHECK(aclDataTypeSize(ACL_INT4) == 0);
    CHECK(aclDataTypeSize(static_cast<aclDataType>(1000)) == 0);
    CHECK(aclFloatToFloat16(1.0f) == 0x3C00);
    CHECK(aclFloatToFloat16(65520.0f) == 0x7C00);
    CHECK(aclFloat16ToFloat(0xC000) == -2.0f);
}

TEST_CASE("an executor runs once") {
    Session session;
    Findings findings;
    const Array<int32_t> in({6}, sorted), out({3});
    aclOpExecutor* executor = plan(in, out);
    CHECK(launch(executor, session) == 0);
    CHECK(launch(executor, session) == 561000);
    CHECK(findings.rules(true) == Rules{"executor-spent"});
    CHECK(contains(error_text(), "aclnnMoeComputeExpertTokens"));
    CHECK(aclDestroyAclOpExecutor(executor) == 0);
    CHECK(findings.rules() == Rules{"executor-spent"});
    executor = plan(in, out);
    CHECK(aclDestroyAclOpExecutor(executor) == 0);
    CHECK(aclDestroyAclOpExecutor(executor) == 0);
    CHECK(findings.rules() == Rules{"double-destroy"});
    CHECK(session.synchronise() == 0);
    CHECK(out.read() == ends);
}

TEST_CASE("executors that are null, unknown, of another operator, or destroyed before they ran") {
    Session session;
    Findings findings;
    const Array<int32_t> in({6}, sorted), out({3});
    CHECK(launch(nullptr, session) == 161001);
    CHECK(launch(reinterpret_cast<aclOpExecutor*>(&session), session) == 561000);
    CHECK(launch(reinterpret_cast<aclOpExecutor*>(in.handle), session) == 561000);
    CHECK(findings.rules(true) == Rules{"null-argument", "executor-unknown", "executor-unknown"});
    aclOpExecutor* executor = plan(in, out);
    CHECK(aclnnMoeFinalizeRoutingV2(nullptr, 0, executor, session.stream) == 561000);
    CHECK(contains(error_text(), "aclnnMoeComputeExpertTokens"));
    CHECK(findings.rules(true) == Rules{"executor-mixed"});
    CHECK(aclDestroyAclOpExecutor(executor) == 0);
    CHECK(launch(executor, session) == 561000);
    CHECK(aclDestroyAclOpExecutor(nullptr) == 561103);
    CHECK(aclDestroyAclOpExecutor(reinterpret_cast<aclOpExecutor*>(&session)) == 561000);
    CHECK(findings.rules(true) == Rules{"executor-spent", "null-argument", "executor-unknown"});
    aclGetRecentErrMsg();
}

TEST_CASE("repeatable executors take new addresses") {
    Findings findings;
    aclOpExecutor* leaked = nullptr;
    {
        Session session;
        const Array<int32_t> in({6}, sorted), out({3}), other_in({6}, {0, 0, 0, 0, 0, 2}), other_out({3});
        aclOpExecutor* executor = plan(in, out);
        CHECK(aclSetAclOpExecutorRepeatable(executor) == 0);
        CHECK(launch(executor, session) == 0);
        CHECK(aclSetInputTensorAddr(executor, 0, in, other_in.buffer.data) == 0);
        CHECK(AclSetOutputTensorAddr(executor, 0, out, other_out.buffer.data) == 0);
        CHECK(launch(executor, session) == 0);
        CHECK(session.synchronise() == 0);
        CHECK(out.read() == ends);
        CHECK(other_out.read() == std::vector<int32_t>{5, 5, 6});
        CHECK(aclSetTensorAddr(executor, 1, out, out.buffer.data) == 0);
        CHECK(findings.rules(true) == Rules{});
        CHECK(aclSetInputTensorAddr(executor, 9, in, in.buffer.data) == 161002);
        CHECK(aclSetInputTensorAddr(executor, 0, nullptr, in.buffer.data) == 561103);
        CHECK(aclSetInputTensorAddr(nullptr, 0, in, in.buffer.data) == 561103);
        CHECK(aclSetAclOpExecutorRepeatable(nullptr) == 561103);
        CHECK(findings.rules(true) == Rules{"repeatable-change", "null-argument", "repeatable", "repeatable"});
        CHECK(aclDestroyAclOpExecutor(executor) == 0);
        aclOpExecutor* once = plan(in, out);
        CHECK(launch(once, session) == 0);
        CHECK(session.synchronise() == 0);
        CHECK(aclSetAclOpExecutorRepeatable(once) == 561000);
        CHECK(findings.rules(true) == Rules{"executor-spent"});
        leaked = plan(in, out);
        CHECK(aclSetAclOpExecutorRepeatable(leaked) == 0);
    }
    CHECK(findings.rules() == Rules{"executor-leak"});
    CHECK(aclDestroyAclOpExecutor(leaked) == 0);
    aclGetRecentErrMsg();
}

TEST_CASE("tensors have to live, and to keep their address, until phase 2") {
    Findings findings;
    for (const moe_aclnn_mode mode : {MOE_ACLNN_COMPAT, MOE_ACLNN_STRICT}) {
        const InMode in_mode(mode);
        Session session;
        const Buffer in(sorted), out(std::vector<int32_t>(3));
        aclTensor* from = make_tensor({6}, ACL_INT32, in.data);
        aclTensor* to = make_tensor({3}, ACL_INT32, out.data);
        aclOpExecutor* executor = plan(from, to);
        CHECK(aclSetRawTensorAddr(from, in.data) == 0);
        CHECK(launch(executor, session) == (mode == MOE_ACLNN_STRICT ? 161002 : 0));
        CHECK(findings.rules() == Rules{"raw-address"});
        executor = plan(from, to);
        CHECK(aclDestroyTensor(from) == 0);
        CHECK(launch(executor, session) == (mode == MOE_ACLNN_STRICT ? 561103 : 0));
        CHECK(findings.rules() == Rules{"tensor-destroyed"});
        CHECK(session.synchronise() == 0);
        if (mode == MOE_ACLNN_COMPAT) CHECK(out.read<int32_t>() == ends);
        CHECK(aclDestroyTensor(to) == 0);
    }
    aclGetRecentErrMsg();
}

TEST_CASE("tensors that are told anew between the phases") {
    Findings findings;
    for (const moe_aclnn_mode mode : {MOE_ACLNN_COMPAT, MOE_ACLNN_REAL, MOE_ACLNN_STRICT}) {
        const InMode in_mode(mode);
        Session session;
        const Buffer in(sorted), other(sorted), out(std::vector<int32_t>(3));
        aclTensor* from = make_tensor({6}, ACL_INT32, in.data);
        aclTensor* to = make_tensor({3}, ACL_INT32, out.data);
        const auto tell = [from](int64_t length, void* data) {
            CHECK(aclInitTensor(from, &length, 1, ACL_INT32, nullptr, 0, ACL_FORMAT_ND, &length, 1, data) == 0);
        };
        const aclnnStatus refused = mode == MOE_ACLNN_STRICT ? 161002 : 0;
        aclOpExecutor* executor = plan(from, to);
        tell(6, in.data);  // the same
        CHECK(launch(executor, session) == 0);
        CHECK(findings.rules() == Rules{});
        executor = plan(from, to);
        tell(6, other.data);
        CHECK(launch(executor, session) == refused);
        CHECK(findings.rules() == Rules{"raw-address"});
        executor = plan(from, to);
        tell(5, nullptr);
        CHECK(launch(executor, session) == refused);
        CHECK(findings.rules() == Rules{"repeatable-change"});
        CHECK(session.synchronise() == 0);
        CHECK(out.read<int32_t>() == ends);  // what phase 1 saw
        CHECK(aclDestroyTensor(from) == 0);
        CHECK(aclDestroyTensor(to) == 0);
    }
    aclGetRecentErrMsg();
}

TEST_CASE("operands outside of live device memory are not executed") {
    Findings findings;
    for (const moe_aclnn_mode mode : {MOE_ACLNN_COMPAT, MOE_ACLNN_REAL, MOE_ACLNN_STRICT}) {
        const InMode in_mode(mode);
        Session session;
        std::vector<int32_t> host = sorted;
        const Array<int32_t> out({3}, -5);
        void* freed = nullptr;
        REQUIRE(aclrtMalloc(&freed, 24, ACL_MEM_MALLOC_HUGE_FIRST) == 0);
        REQUIRE(aclrtFree(freed) == 0);
        for (void* address : {static_cast<void*>(host.data()), freed, static_cast<void*>(nullptr),
                              reinterpret_cast<void*>(uintptr_t{0x10})}) {
            aclTensor* from = make_tensor({6}, ACL_INT32, address);
            const aclnnStatus status = launch(plan(from, out), session);
            CHECK(status == (mode == MOE_ACLNN_STRICT ? 161002 : 0));
            CHECK(session.synchronise() == (mode == MOE_ACLNN_STRICT ? 0 : 507015));
            CHECK(contains(error_text(), "sortedExperts"));
            CHECK(session.synchronise() == 0);
            CHECK(findings.rules() == Rules{"host-pointer"});
            CHECK(aclDestroyTensor(from) == 0);
        }
        CHECK(out.read() == std::vector<int32_t>(3, -5));
    }
}

TEST_CASE("tensors larger than their memory: padding, then what there is") {
    Findings findings;
    for (const moe_aclnn_mode mode : {MOE_ACLNN_COMPAT, MOE_ACLNN_REAL, MOE_ACLNN_STRICT}) {
        const InMode in_mode(mode);
        Session session;
        // 8 ids of 16: the padding of a card covers them. 100 of 200: it does not.
        const Buffer small(std::vector<int32_t>(8, 0)), large(std::vector<int32_t>(100, 0));
        REQUIRE(aclrtMemset(small.data, 64, 0, 64) == (mode == MOE_ACLNN_STRICT ? 100000 : 0));
        findings.rules();
        const Array<int32_t> out({3}, -5);
        aclTensor* covered = make_tensor({16}, ACL_INT32, small.data);
        aclTensor* beyond = make_tensor({200}, ACL_INT32, large.data);
        CHECK(launch(plan(covered, out), session) == (mode == MOE_ACLNN_STRICT ? 161002 : 0));
        CHECK(session.synchronise() == 0);
        CHECK(findings.rules() == Rules{"tensor-extent"});
        if (mode != MOE_ACLNN_STRICT) CHECK(out.read() == std::vector<int32_t>(3, 16));
        CHECK(launch(plan(beyond, out), session) == (mode == MOE_ACLNN_STRICT ? 161002 : 0));
        CHECK(session.synchronise() == (mode == MOE_ACLNN_REAL ? 507015 : 0));
        CHECK(findings.rules().front() == "tensor-extent");
        // An output that is too small receives what fits.
        Buffer few(std::vector<int32_t>(1, -5));
        const Array<int32_t> in({300}, 0);
        aclTensor* wide = make_tensor({300}, ACL_INT32, few.data);
        aclOpExecutor* executor = nullptr;
        uint64_t size = 0;
        REQUIRE(aclnnMoeComputeExpertTokensGetWorkspaceSize(in, 300, wide, &size, &executor) == 0);
        CHECK(launch(executor, session) == (mode == MOE_ACLNN_STRICT ? 161002 : 0));
        CHECK(session.synchronise() == (mode == MOE_ACLNN_REAL ? 507015 : 0));
        CHECK(few.read<int32_t>() == std::vector<int32_t>(1, mode == MOE_ACLNN_COMPAT ? 300 : -5));
        CHECK(findings.rules() == Rules{"tensor-extent"});
        for (aclTensor* tensor : {covered, beyond, wide}) CHECK(aclDestroyTensor(tensor) == 0);
    }
    aclGetRecentErrMsg();
}

TEST_CASE("workspaces: null, small, on the host, behind the end") {
    Findings findings;
    const WithOption padded(MOE_ACLNN_OPTION_WORKSPACE);
    for (const moe_aclnn_mode mode : {MOE_ACLNN_COMPAT, MOE_ACLNN_STRICT}) {
        const InMode in_mode(mode);
        const bool strict = mode == MOE_ACLNN_STRICT;
        Session session;
        const Array<int32_t> in({6}, sorted), out({3});
        Permute composite;
        uint64_t size = 0;
        aclOpExecutor* executor = plan(in, out, &size);
        REQUIRE(size >= 512);
        // Individual operators keep the executor when the workspace is null, and refuse one that is small.
        CHECK(aclnnMoeComputeExpertTokens(nullptr, size, executor, session.stream) == 161001);
        CHECK(findings.rules(true) == Rules{"workspace-null"});
        CHECK(aclnnMoeComputeExpertTokens(nullptr, 0, executor, session.stream) == 161002);
        CHECK(findings.rules(true) == Rules{"workspace-size"});
        // Composed ones destroy it, and do not look at the size.
        executor = composite.plan(&size);
        CHECK(aclnnMoeTokenPermuteWithRoutingMap(nullptr, size, executor, session.stream) == 161001);
        CHECK(aclnnMoeTokenPermuteWithRoutingMap(nullptr, 0, executor, session.stream) == 561000);
        CHECK(findings.rules(true) == Rules{"workspace-null", "executor-spent"});
        executor = composite.plan(&size);
        CHECK(aclnnMoeTokenPermuteWithRoutingMap(nullptr, 0, executor, session.stream) == (strict ? 161002 : 0));
        CHECK(findings.rules() == Rules{"workspace-size"});
        std::vector<char> host(size);
        executor = composite.plan(&size);
        CHECK(aclnnMoeTokenPermuteWithRoutingMap(host.data(), size, executor, session.stream) == (strict ? 161002 : 0));
        CHECK(findings.rules() == Rules{"host-pointer"});
        CHECK(session.synchronise() == (strict ? 0 : 507015));
        const Buffer half(size / 2);
        executor = composite.plan(&size);
        CHECK(aclnnMoeTokenPermuteWithRoutingMap(half.data, size, executor, session.stream) == (strict ? 161002 : 0));
        CHECK(findings.rules() == Rules{"workspace-buffer"});
        CHECK(session.synchronise() == 0);
        if (!strict) CHECK(composite.out.read() == permuted);
        executor = composite.plan(&size);
        CHECK(run(session, aclnnMoeTokenPermuteWithRoutingMap, size, executor) == 0);
        CHECK(composite.out.read() == permuted);
        CHECK(findings.rules() == Rules{});
    }
    aclGetRecentErrMsg();
}

TEST_CASE("strides and offsets: read, written, and what individual operators make of them") {
    Findings findings;
    for (const moe_aclnn_mode mode : {MOE_ACLNN_COMPAT, MOE_ACLNN_REAL, MOE_ACLNN_STRICT}) {
        const InMode in_mode(mode);
        Session session;
        const Buffer in(std::vector<int32_t>{9, 0, 9, 0, 9, 1, 9, 1, 9, 2, 9, 2}), out(std::vector<int32_t>(8, -1));
        const int64_t shape[] = {6}, stride[] = {2}, storage[] = {12}, out_shape[] = {3}, out_storage[] = {8};
        aclTensor* from = aclCreateTensor(shape, 1, ACL_INT32, stride, 1, ACL_FORMAT_NCL, storage, 1, in.data);
        aclTensor* to = aclCreateTensor(out_shape, 1, ACL_INT32, stride, 1, ACL_FORMAT_ND, out_storage, 1, out.data);
        const Array<int32_t> dense({3});
        uint64_t size = 0;
        aclOpExecutor* executor = plan(from, dense, &size);
        CHECK(run(session, aclnnMoeComputeExpertTokens, size, executor) == 0);
        CHECK(dense.read() == ends);
        CHECK(findings.rules(true) == Rules{});
        const aclnnStatus status = aclnnMoeComputeExpertTokensGetWorkspaceSize(from, 3, to, &size, &executor);
        CHECK(status == (mode == MOE_ACLNN_STRICT ? 161002 : 0));
        CHECK(findings.rules() == Rules{"strided-output"});
        if (status == 0) {
            CHECK(run(session, aclnnMoeComputeExpertTokens, size, executor) == 0);
            CHECK(out.read<int32_t>() == (mode == MOE_ACLNN_COMPAT
                                              ? std::vector<int32_t>{-1, 2, -1, 4, -1, 6, -1, -1}
                                              : std::vector<int32_t>{-1, 2, 4, 6, -1, -1, -1, -1}));
        }
        const int64_t zero[] = {0}, backwards[] = {-1};
        aclTensor* folded = aclCreateTensor(out_shape, 1, ACL_INT32, zero, 0, ACL_FORMAT_ND, out_storage, 1, out.data);
        aclTensor* reversed = aclCreateTensor(shape, 1, ACL_INT32, backwards, 5, ACL_FORMAT_ND, storage, 1, in.data);
        CHECK(aclnnMoeComputeExpertTokensGetWorkspaceSize(from, 3, folded, &size, &executor) ==
              (mode == MOE_ACLNN_STRICT ? 161002 : 0));
        CHECK(findings.rules().front() == "tensor-layout");
        if (mode != MOE_ACLNN_STRICT) CHECK(aclDestroyAclOpExecutor(executor) == 0);
        CHECK(aclnnMoeComputeExpertTokensGetWorkspaceSize(reversed, 3, dense, &size, &executor) ==
              (mode == MOE_ACLNN_STRICT ? 161002 : 0));
        CHECK(findings.rules() == Rules{"tensor-layout"});
        if (mode != MOE_ACLNN_STRICT) CHECK(aclDestroyAclOpExecutor(executor) == 0);
        for (aclTensor* tensor : {from, to, folded, reversed}) CHECK(aclDestroyTensor(tensor) == 0);
    }
    aclGetRecentErrMsg();
}

TEST_CASE("an output over an input is computed apart") {
    Findings findings;
    for (const moe_aclnn_mode mode : {MOE_ACLNN_COMPAT, MOE_ACLNN_STRICT}) {
        const InMode in_mode(mode);
        Session session;
        const Buffer memory(sorted);
        aclTensor* from = make_tensor({6}, ACL_INT32, memory.data);
        aclTensor* to = make_tensor({3}, ACL_INT32, memory.data);
        CHECK(launch(plan(from, to), session) == (mode == MOE_ACLNN_STRICT ? 161002 : 0));
        CHECK(findings.rules() == Rules{"aliasing"});
        CHECK(session.synchronise() == 0);
        if (mode == MOE_ACLNN_COMPAT) CHECK(memory.read<int32_t>() == std::vector<int32_t>{2, 4, 6, 1, 2, 2});
        CHECK(aclDestroyTensor(from) == 0);
        CHECK(aclDestroyTensor(to) == 0);
    }
    aclGetRecentErrMsg();
}

TEST_CASE("strides and offsets that lead beyond every address") {
    Findings findings;
    constexpr int64_t most = std::numeric_limits<int64_t>::max(), least = std::numeric_limits<int64_t>::min();
    for (const moe_aclnn_mode mode : every_mode) {
        const InMode in_mode(mode);
        Session session;
        const Array<int32_t> from({6}, sorted);
        const Buffer memory(64);
        // 4 bytes times the last one are 2 to the 64th: no wrap to 0.
        for (const int64_t stride : {most, least, int64_t{1} << 62}) {
            const int64_t shape[] = {3}, strides[] = {stride};
            aclTensor* far = aclCreateTensor(shape, 1, ACL_INT32, strides, 0, ACL_FORMAT_ND, shape, 1, memory.data);
            uint64_t size = 0;
            aclOpExecutor* executor = nullptr;
            const aclnnStatus planned = aclnnMoeComputeExpertTokensGetWorkspaceSize(from, 3, far, &size, &executor);
            CHECK(planned == (mode == MOE_ACLNN_STRICT ? 161002 : 0));
            // In real the operator writes densely.
            if (planned == 0)
                CHECK(run(session, aclnnMoeComputeExpertTokens, size, executor) ==
                      (mode == MOE_ACLNN_COMPAT ? 507015 : 0));
            CHECK(aclDestroyTensor(far) == 0);
        }
        const int64_t length = 6;
        const Array<int32_t> to({3});
        aclTensor* beyond = aclCreateTensor(&length, 1, ACL_INT32, nullptr, int64_t{1} << 62, ACL_FORMAT_ND, &length, 1,
                                            from.buffer.data);
        uint64_t size = 0;
        aclOpExecutor* executor = plan(beyond, to, &size);
        CHECK(run(session, aclnnMoeComputeExpertTokens, size, executor) ==
              (mode == MOE_ACLNN_STRICT ? 161002 : 507015));
        CHECK(aclDestroyTensor(beyond) == 0);
        const int64_t shape[] = {most, most, most, most}, strides[] = {most, least, most, least};
        aclTensor* far = aclCreateTensor(shape, 4, ACL_INT32, strides, 0, ACL_FORMAT_ND, shape, 4, memory.data);
        CHECK(aclnnMoeComputeExpertTokensGetWorkspaceSize(from, 3, far, &size, &executor) == 161002);
        CHECK(aclDestroyTensor(far) == 0);
    }
    aclGetRecentErrMsg();
}

TEST_CASE("a tensor that is an input and the output is two places too") {
    Findings findings;
    for (const moe_aclnn_mode mode : every_mode) {
        const InMode in_mode(mode);
        Session session;
        const Array<int32_t> both({3}, {0, 0, 2});
        CHECK(launch(plan(both, both), session) == (mode == MOE_ACLNN_STRICT ? 161002 : 0));
        CHECK(findings.rules() == Rules{"aliasing"});
        CHECK(session.synchronise() == 0);
        CHECK(both.read() ==
              (mode == MOE_ACLNN_STRICT ? std::vector<int32_t>{0, 0, 2} : std::vector<int32_t>{2, 2, 3}));
    }
    aclGetRecentErrMsg();
}

TEST_CASE("a workspace over an operand is left alone") {
    Findings findings;
    constexpr int64_t tokens = 3000, experts = 16;
    std::vector<int32_t> ids(tokens * 2);
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 7 % experts);
    const std::vector<int32_t> even(experts, static_cast<int32_t>(ids.size() / experts));
    for (const moe_aclnn_mode mode : every_mode) {
        const InMode in_mode(mode);
        Session session;
        // The ids stand where the workspace begins, and are read more than once.
        std::vector<int32_t> memory(64 * ids.size());
        std::copy(ids.begin(), ids.end(), memory.begin());
        const Buffer both(memory);
        const Array<float> x({tokens, 1}), out({2 * tokens, 1});
        const Array<int32_t> rows({2 * tokens}), counts({experts});
        aclTensor* expert_idx = make_tensor({tokens, 2}, ACL_INT32, both.data);
        uint64_t size = 0;
        aclOpExecutor* executor = nullptr;
        REQUIRE(aclnnMoeInitRoutingV2GetWorkspaceSize(x, expert_idx, 0, 0, experts, 0, 2, false, out, rows, counts,
                                                      nullptr, &size, &executor) == 0);
        REQUIRE(size > 0);
        REQUIRE(size <= both.size);
        CHECK(aclnnMoeInitRoutingV2(both.data, size, executor, session.stream) ==
              (mode == MOE_ACLNN_STRICT ? 161002 : 0));
        CHECK(findings.rules() == Rules{"aliasing"});
        CHECK(session.synchronise() == 0);
        if (mode != MOE_ACLNN_STRICT) CHECK(counts.read() == even);
        CHECK(both.read<int32_t>() == memory);
        CHECK(aclDestroyTensor(expert_idx) == 0);
    }
    aclGetRecentErrMsg();
}

TEST_CASE("memory that was never written, and addresses that are not aligned, are warnings") {
    Session session;
    Findings findings;
    const Buffer fresh(64);
    const Array<int32_t> out({3});
    aclTensor* from = make_tensor({6}, ACL_INT32, static_cast<char*>(fresh.data) + 4);
    CHECK(launch(plan(from, out), session) == 0);
    CHECK(findings.rules() == Rules{"tensor-layout", "uninitialised"});
    CHECK(session.synchronise() == 0);
    CHECK(aclDestroyTensor(from) == 0);
}

TEST_CASE("launches without a device, without a stream, and on a stream that is gone") {
    Session session;
    Findings findings;
    const Array<int32_t> in({6}, sorted), out({3});
    aclOpExecutor* executor = plan(in, out);
    std::thread([&] {
        CHECK(launch(executor, session) == 361001);
        aclGetRecentErrMsg();
    }).join();
    CHECK(findings.rules(true) == Rules{"no-device"});
    aclrtStream other = nullptr;
    REQUIRE(aclrtCreateStream(&other) == 0);
    REQUIRE(aclrtDestroyStream(other) == 0);
    CHECK(aclnnMoeComputeExpertTokens(nullptr, 0, plan(in, out), other) == 161001);
    CHECK(findings.rules(true) == Rules{"stream-handle"});
    // Phase 1 here, phase 2 on a thread with the same device.
    executor = plan(in, out);
    std::thread([&] {
        CHECK(aclrtSetDevice(0) == 0);
        CHECK(launch(executor, session) == 0);
        CHECK(aclrtResetDevice(0) == 0);
    }).join();
    CHECK(session.synchronise() == 0);
    CHECK(out.read() == ends);
    aclGetRecentErrMsg();
}

TEST_CASE("real: tiling failures of composed operators show in phase 2") {
    Findings findings;
    for (const moe_aclnn_mode mode : {MOE_ACLNN_COMPAT, MOE_ACLNN_REAL, MOE_ACLNN_STRICT}) {
        const InMode in_mode(mode);
        Session session;
        const Array<float> x({2, 4}), expanded({2, 4}), scale({2});
        const Array<int32_t> ids({3, 1}), row_idx({2});
        const Array<int64_t> counts({2});
        const int64_t range[] = {0, 2};
        aclIntArray* experts = aclCreateIntArray(range, 2);
        uint64_t size = 0;
        aclOpExecutor* executor = nullptr;
        const auto first = [&](const aclIntArray* active) {
            return aclnnMoeInitRoutingV3GetWorkspaceSize(x, ids, nullptr, nullptr, 2, 0, 2, 0, 1, true, -1, active, 0,
                                                         expanded, row_idx, counts, scale, &size, &executor);
        };
        CHECK(first(nullptr) == 161001);
        CHECK(findings.rules(true) == Rules{"null-crash"});
        CHECK(first(experts) == (mode == MOE_ACLNN_REAL ? 0 : 561002));
        CHECK(findings.rules(true) == Rules{"argument"});
        if (mode == MOE_ACLNN_REAL) {
            CHECK(aclnnMoeInitRoutingV3(nullptr, 0, executor, session.stream) == 561000);
            CHECK(findings.rules(true) == Rules{"argument"});
        }
        CHECK(aclDestroyIntArray(experts) == 0);
    }
    aclGetRecentErrMsg();
}

TEST_CASE("the text of errors: returned once, of this thread, with codes and rules") {
    CHECK(error_text() == "");
    CHECK(aclDestroyAclOpExecutor(nullptr) == 561103);
    CHECK(aclrtFree(nullptr) == 100000);
    std::thread([] { CHECK(error_text() == ""); }).join();
    const std::string text = error_text();
    CHECK_MESSAGE(contains(text, "[PID: " + std::to_string(getpid()) + "] "), text);
    CHECK(contains(text, "(EZ9999): aclDestroyAclOpExecutor: executor: null, needed an executor [null-argument]"));
    CHECK(contains(text, "TraceBack (most recent call last):"));
    CHECK(contains(text, "aclrtFree: devPtr: null"));
    CHECK(error_text() == "");
}
