#include "aclnnop/aclnn_grouped_matmul_swiglu_quant.h"
#include "aclnnop/aclnn_grouped_matmul_swiglu_quant_weight_nz.h"
#include "moe_native/grouped_matmul.h"
#include "operands.h"

using namespace client;

namespace {

constexpr int64_t m = 9, k = 48, n = 64, experts = 3;

struct Problem {
    bool int4 = false;
    Data x, weight, bias, weight_scale, x_scale, group_list, output, output_scale;

    explicit Problem(bool packed, aclDataType scale = ACL_FLOAT) : int4(packed) {
        x = Data::random({m, k}, ACL_INT8, 1);
        weight = int4 ? Data::random({experts, k, n / 8}, ACL_INT32, 2) : Data::random({experts, k, n}, ACL_INT8, 2);
        bias = Data::random({experts, n}, ACL_FLOAT, 3);
        weight_scale = Data::random({experts, n}, int4 ? ACL_INT64 : scale, 4);
        x_scale = Data::random({m}, ACL_FLOAT, 5);
        group_list = Data::of<int64_t>({experts}, {4, 4, 8});  // the last row is of no expert
        output = Data::blank({m, n / 2}, ACL_INT8);
        output_scale = Data::blank({m}, ACL_FLOAT);
    }

    void compute() {
        moe_tensor t_x = x.core(), t_weight = weight.core(), t_bias = bias.core(), t_scale = weight_scale.core(),
                   t_x_scale = x_scale.core(), t_list = group_list.core(), t_output = output.core(),
                   t_output_scale = output_scale.core();
        moe_grouped_matmul_swiglu_quant_args args = {};
        args.x = &t_x;
        args.weight = &t_weight;
        args.group_list = &t_list;
        args.weight_scale = &t_scale;
        args.x_scale = &t_x_scale;
        args.bias = int4 ? &t_bias : nullptr;
        args.output = &t_output;
        args.output_scale = &t_output_scale;
        REQUIRE(MOE_RUN_CORE(moe_grouped_matmul_swiglu_quant, args) == 0);
    }
};

struct Tensors {
    OnDevice x, weight, bias, weight_scale, x_scale, group_list, output, output_scale;

    explicit Tensors(const Problem& of, Layout layout = Layout::dense)
        : x(of.x, layout),
          weight(of.weight, layout),
          bias(of.bias, layout),
          weight_scale(of.weight_scale, layout),
          x_scale(of.x_scale, layout),
          group_list(of.group_list, layout),
          output(of.output, layout),
          output_scale(of.output_scale, layout) {}
};

struct Arguments {
    aclTensor *x, *weight, *bias = nullptr, *offset = nullptr, *weight_scale, *x_scale, *group_list, *output,
                           *output_scale, *output_offset = nullptr;

    Arguments(const Tensors& of, bool int4)
        : x(of.x),
          weight(of.weight),
          bias(int4 ? of.bias.handle : nullptr),
          weight_scale(of.weight_scale),
          x_scale(of.x_scale),
          group_list(of.group_list),
          output(of.output),
          output_scale(of.output_scale) {}

    FirstPhase base() const {
        return [of = *this](uint64_t* size, aclOpExecutor** executor) {
            return aclnnGroupedMatmulSwigluQuantGetWorkspaceSize(of.x, of.weight, of.bias, of.offset, of.weight_scale,
                                                                 of.x_scale, of.group_list, of.output, of.output_scale,
                                                                 of.output_offset, size, executor);
        };
    }
    FirstPhase nz() const {
        return [of = *this](uint64_t* size, aclOpExecutor** executor) {
            return aclnnGroupedMatmulSwigluQuantWeightNZGetWorkspaceSize(
                of.x, of.weight, of.bias, of.offset, of.weight_scale, of.x_scale, of.group_list, of.output,
                of.output_scale, of.output_offset, size, executor);
        };
    }
};

// With its weight in FRACTAL_NZ: seen as the matrices, or as the tiles.
Problem tiled(Problem of, bool seen_as_tiles) {
    of.weight = of.weight.tiled();
    if (seen_as_tiles) of.weight.shape = of.weight.storage;
    return of;
}

}  // namespace

TEST_CASE("both versions give the bits of the core, silently, in every mode, layout and form of the weight") {
    Findings findings;
    for (const moe_aclnn_mode mode : every_mode)
        for (const Layout layout : {Layout::dense, Layout::strided, Layout::flat}) {
            const InMode in_mode(mode);
            for (const bool int4 : {false, true})
                for (const aclDataType scale : {ACL_FLOAT, ACL_FLOAT16, ACL_BF16}) {
                    Session session;
                    Problem plain(int4, scale);
                    Problem expected = plain;
                    expected.compute();
                    for (const bool seen_as_tiles : {false, true}) {
                        const Problem of = tiled(plain, seen_as_tiles);
                        Tensors tensors(of, layout);
                        const Arguments args(tensors, int4);
                        CHECK(run(session, args.nz(), aclnnGroupedMatmulSwigluQuantWeightNZ) == 0);
                        CHECK(tensors.output.read() == expected.output.bytes);
                        CHECK(tensors.output_scale.read() == expected.output_scale.bytes);
                    }
                    const Problem of = int4 ? plain : tiled(plain, true);
                    Tensors tensors(of, layout);
                    CHECK(run(session, Arguments(tensors, int4).base(), aclnnGroupedMatmulSwigluQuant) == 0);
                    CHECK(tensors.output.read() == expected.output.bytes);
                    CHECK(tensors.output_scale.read() == expected.output_scale.bytes);
                }
            CHECK_MESSAGE(findings.rules(true).empty(), findings.text());
        }
}

TEST_CASE("null arguments, and tensors that nobody looks at") {
    Findings findings;
    Session session;
    const Problem of = tiled(Problem(false), true);
    const Tensors tensors(of);
    for (aclTensor* Arguments::*which :
         {&Arguments::x, &Arguments::weight, &Arguments::weight_scale, &Arguments::x_scale, &Arguments::group_list,
          &Arguments::output, &Arguments::output_scale}) {
        Arguments args(tensors, false);
        args.*which = nullptr;
        refused(findings, 161001, ": null", args.base(), "null-argument");
        refused(findings, 161001, ": null", args.nz(), "null-argument");
    }
    const Arguments args(tensors, false);
    uint64_t size = 0;
    aclOpExecutor* executor = nullptr;
    CHECK(args.nz()(nullptr, &executor) == 161001);
    CHECK(args.base()(&size, nullptr) == 161001);
    CHECK(findings.rules(true) == Rules{"null-argument", "null-argument"});
    for (aclTensor* Arguments::*which : {&Arguments::bias, &Arguments::offset, &Arguments::output_offset}) {
        Arguments more = args;
        more.*which = tensors.bias;
        CHECK(run(session, more.nz(), aclnnGroupedMatmulSwigluQuantWeightNZ) == 0);
        CHECK(findings.rules() == Rules{"argument"});
    }
    const Problem words(true);
    const Tensors packed(words);
    refused(findings, 161001, "bias", Arguments(packed, false).base());
    CHECK(aclnnGroupedMatmulSwigluQuant(nullptr, 0, nullptr, session.stream) == 561000);
    CHECK(aclnnGroupedMatmulSwigluQuantWeightNZ(nullptr, 0, nullptr, session.stream) == 561000);
    CHECK(findings.rules(true) == Rules{"null-argument", "null-argument"});
}

TEST_CASE("dtypes, shapes and formats") {
    Findings findings;
    Session session;
    const Problem of = tiled(Problem(false), true), as_matrix = tiled(Problem(false), false), plain(false);
    const Tensors tensors(of), matrices(as_matrix), rows(plain);
    const auto refuse = [&](aclnnStatus status, const std::string& part, aclTensor* Arguments::*which, Data data) {
        const OnDevice other(data);
        Arguments args(tensors, false);
        args.*which = other;
        refused(findings, status, part, args.base());
        refused(findings, status, part, args.nz());
    };
    refuse(161002, "x", &Arguments::x, Data::random({m, k}, ACL_FLOAT16, 1));
    refuse(161002, "x", &Arguments::x, Data::random({1, m, k}, ACL_INT8, 1));
    refuse(161002, "x", &Arguments::x, Data::random({m, 0}, ACL_INT8, 1));
    refuse(161002, "weight", &Arguments::x, Data::random({m, k + 16}, ACL_INT8, 1));
    refuse(161002, "weightScale", &Arguments::weight_scale, Data::random({experts, n}, ACL_INT64, 1));
    refuse(161002, "weightScale", &Arguments::weight_scale, Data::random({experts, n + 1}, ACL_FLOAT, 1));
    refuse(161002, "weightScale", &Arguments::weight_scale, Data::random({experts * n}, ACL_FLOAT, 1));
    refuse(161002, "weightScale", &Arguments::weight_scale, Data::random({experts + 1, n}, ACL_FLOAT, 1));
    refuse(561103, "xScale", &Arguments::x_scale, Data::random({m}, ACL_FLOAT16, 1));
    refuse(561103, "xScale", &Arguments::x_scale, Data::random({m}, ACL_BF16, 1));
    refuse(161002, "xScale", &Arguments::x_scale, Data::random({m}, ACL_INT32, 1));
    refuse(161002, "xScale", &Arguments::x_scale, Data::random({m, 1}, ACL_FLOAT, 1));
    refuse(161002, "groupList", &Arguments::group_list, Data::blank({experts}, ACL_INT32));
    refuse(161002, "groupList", &Arguments::group_list, Data::blank({experts + 1}, ACL_INT64));
    refuse(161002, "groupList", &Arguments::group_list, Data::blank({1, experts}, ACL_INT64));
    refuse(161002, "output", &Arguments::output, Data::blank({m, n}, ACL_INT8));
    refuse(161002, "output", &Arguments::output, Data::blank({m, n / 2}, ACL_UINT8));
    refuse(161002, "outputScale", &Arguments::output_scale, Data::blank({m + 1}, ACL_FLOAT));
    // The forms of a weight.
    Arguments args(matrices, false);
    refused(findings, 161002, "5 dimensions", args.base());
    args = Arguments(rows, false);
    refused(findings, 161002, "weight: format 2, needed 29", args.base());
    refused(findings, 161002, "storage of 3 dimensions", args.nz(), "nz-not-ready");
    args.x = nullptr;  // which comes later
    refused(findings, 161002, "storage of 3 dimensions", args.nz(), "nz-not-ready");
    // Five dimensions of storage are enough, whatever the format.
    Problem told = tiled(Problem(false), true);
    told.weight.storage.clear();
    Tensors nd(told);
    CHECK(run(session, Arguments(nd, false).nz(), aclnnGroupedMatmulSwigluQuantWeightNZ) == 0);
    Problem expected(false);
    expected.compute();
    CHECK(nd.output.read() == expected.output.bytes);
}

TEST_CASE("without rows or without groups nothing is written") {
    Findings findings;
    Session session;
    Problem of = tiled(Problem(false), true);
    of.group_list = Data::blank({0}, ACL_INT64);
    Tensors tensors(of);
    CHECK(run(session, Arguments(tensors, false).nz(), aclnnGroupedMatmulSwigluQuantWeightNZ) == 0);
    CHECK(tensors.output.read() == of.output.bytes);
    of.x = Data::blank({0, k}, ACL_INT8);
    of.x_scale = of.output_scale = Data::blank({0}, ACL_FLOAT);
    of.output = Data::blank({0, n / 2}, ACL_INT8);
    Tensors empty(of);
    CHECK(run(session, Arguments(empty, false).base(), aclnnGroupedMatmulSwigluQuant) == 0);
    CHECK(findings.rules(true).empty());
}

TEST_CASE("group lists out of range: skipped, faulted or refused") {
    for (const moe_aclnn_mode mode : every_mode)
        for (const std::vector<int64_t>& bad : {std::vector<int64_t>{4, 3, 8}, {-1, 4, 8}, {4, 4, m + 1}}) {
            const InMode in_mode(mode);
            Findings findings;
            Session session;
            Problem of = tiled(Problem(false), true);
            of.group_list = Data::of<int64_t>({experts}, bad);
            Tensors tensors(of);
            uint64_t size = 0;
            aclOpExecutor* executor = nullptr;
            REQUIRE(Arguments(tensors, false).nz()(&size, &executor) == 0);
            const Buffer workspace(size);
            error_text();
            CHECK(aclnnGroupedMatmulSwigluQuantWeightNZ(workspace.data, size, executor, session.stream) ==
                  (mode == MOE_ACLNN_STRICT ? 161002 : 0));
            CHECK(session.synchronise() == (mode == MOE_ACLNN_REAL ? 507015 : 0));
            CHECK(findings.rules(true) == Rules{"data-range"});
            if (mode != MOE_ACLNN_COMPAT) {
                CHECK(contains(error_text(), "groupList"));
                CHECK(tensors.output.read() == of.output.bytes);
            }
        }
}

TEST_CASE("only a real host changes the caller's tensors") {
    for (const moe_aclnn_mode mode : every_mode) {
        const InMode in_mode(mode);
        Findings findings;
        Session session;
        const Problem of = tiled(Problem(true), false);
        Tensors tensors(of);
        const Arguments args(tensors, true);
        CHECK(run(session, args.nz(), aclnnGroupedMatmulSwigluQuantWeightNZ) == 0);
        aclDataType weight, scale;
        REQUIRE(aclGetDataType(tensors.weight, &weight) == 0);
        REQUIRE(aclGetDataType(tensors.weight_scale, &scale) == 0);
        const bool real = mode == MOE_ACLNN_REAL;
        CHECK(weight == (real ? ACL_INT4 : ACL_INT32));
        CHECK(scale == (real ? ACL_UINT64 : ACL_INT64));
        CHECK(findings.rules(true).empty());
        if (real)
            refused(findings, 161002, "since phase 1 of aclnnGroupedMatmulSwigluQuantWeightNZ", args.nz(), "mutated");
        else
            CHECK(run(session, args.nz(), aclnnGroupedMatmulSwigluQuantWeightNZ) == 0);
    }
}
