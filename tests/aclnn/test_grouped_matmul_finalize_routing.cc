#include <memory>

#include "aclnnop/aclnn_grouped_matmul_finalize_routing.h"
#include "aclnnop/aclnn_grouped_matmul_finalize_routing_v2.h"
#include "aclnnop/aclnn_grouped_matmul_finalize_routing_v3.h"
#include "aclnnop/aclnn_grouped_matmul_finalize_routing_weight_nz.h"
#include "aclnnop/aclnn_grouped_matmul_finalize_routing_weight_nz_v2.h"
#include "aclnnop/aclnn_trans_matmul_weight.h"
#include "moe_native/grouped_matmul.h"
#include "operands.h"

using namespace client;

namespace {

constexpr int64_t m = 12, experts = 3, batch = 6;

// Contents of a call, of int8 or int4.
struct Problem {
    bool int4;
    int64_t k = 192, n = 256;
    Data x, w, scale, bias, offset, pertoken, group_list, shared, logit, row_index, out;

    explicit Problem(bool packed, int64_t list_type = 1) : int4(packed) {
        x = Data::random({m, k}, ACL_INT8, 1);
        w = int4 ? Data::random({experts, k, n / 8}, ACL_INT32, 2) : Data::random({experts, k, n}, ACL_INT8, 2);
        scale = int4 ? Data::random({experts, 1, n}, ACL_INT64, 3) : Data::random({experts, n}, ACL_FLOAT, 3);
        bias = Data::random({experts, n}, int4 ? ACL_FLOAT : ACL_BF16, 4);
        offset = Data::random({experts, 1, n}, ACL_FLOAT, 5);
        pertoken = Data::random({m}, ACL_FLOAT, 6);
        group_list = Data::of<int64_t>({experts},
                                       list_type == 1 ? std::vector<int64_t>{5, 0, 6} : std::vector<int64_t>{5, 5, 11});
        shared = Data::random({2, n}, ACL_BF16, 7);
        logit = Data::random({m}, ACL_FLOAT, 8);
        row_index = Data::of<int64_t>({m}, {3, 1, 4, 1, 5, 0, 2, 3, 5, 5, 0, 99});  // the last row is of no expert
        out = Data::blank({batch, n}, ACL_FLOAT);
    }

    // What the core makes of it.
    std::vector<char> expected(bool with_bias, bool with_offset, bool with_shared, int64_t list_type = 1) const {
        Problem of = *this;
        moe_tensor t_x = of.x.core(), t_w = of.w.core(), t_scale = of.scale.core(), t_bias = of.bias.core(),
                   t_offset = of.offset.core(), t_pertoken = of.pertoken.core(), t_list = of.group_list.core(),
                   t_shared = of.shared.core(), t_logit = of.logit.core(), t_index = of.row_index.core(),
                   t_out = of.out.core();
        moe_grouped_matmul_finalize_routing_args args = {};
        args.x = &t_x;
        args.w = &t_w;
        args.group_list = &t_list;
        args.scale = &t_scale;
        args.bias = with_bias ? &t_bias : nullptr;
        args.offset = with_offset ? &t_offset : nullptr;
        args.pertoken_scale = &t_pertoken;
        args.shared_input = with_shared ? &t_shared : nullptr;
        args.logit = &t_logit;
        args.row_index = &t_index;
        args.shared_input_weight = 0.5f;
        args.shared_input_offset = 1;
        args.output_bs = batch;
        args.group_list_type = list_type;
        args.out = &t_out;
        REQUIRE(MOE_RUN_CORE(moe_grouped_matmul_finalize_routing, args) == 0);
        return of.out.bytes;
    }
};

// The tensors of a problem, which a test may replace or leave out.
struct Tensors {
    OnDevice x, w, scale, bias, offset, pertoken, group_list, shared, logit, row_index, out;

    explicit Tensors(const Problem& of, Layout layout = Layout::dense)
        : x(of.x, layout),
          w(of.w, layout),
          scale(of.scale, layout),
          bias(of.bias, layout),
          offset(of.offset, layout),
          pertoken(of.pertoken, layout),
          group_list(of.group_list, layout),
          shared(of.shared, layout),
          logit(of.logit, layout),
          row_index(of.row_index, layout),
          out(of.out, layout) {}
};

// The arguments of the longest version.
struct Arguments {
    aclTensor *x, *w, *scale, *bias, *offset = nullptr, *antiquant_scale = nullptr, *antiquant_offset = nullptr,
                                     *pertoken, *group_list, *shared, *logit, *row_index;
    int64_t dtype = 0;
    int64_t shared_offset = 1;
    bool transpose_x1 = false, transpose_x2 = false;
    int64_t list_type = 1;
    aclIntArray* tuning = nullptr;
    aclTensor* out;

    explicit Arguments(const Tensors& of)
        : x(of.x),
          w(of.w),
          scale(of.scale),
          bias(of.bias),
          pertoken(of.pertoken),
          group_list(of.group_list),
          shared(of.shared),
          logit(of.logit),
          row_index(of.row_index),
          out(of.out) {}

    FirstPhase base() const {
        return [of = *this](uint64_t* size, aclOpExecutor** executor) {
            return aclnnGroupedMatmulFinalizeRoutingGetWorkspaceSize(
                of.x, of.w, of.scale, of.bias, of.pertoken, of.group_list, of.shared, of.logit, of.row_index, of.dtype,
                0.5f, of.shared_offset, of.transpose_x1, of.transpose_x2, of.list_type, of.out, size, executor);
        };
    }
    FirstPhase v2() const {
        return [of = *this](uint64_t* size, aclOpExecutor** executor) {
            return aclnnGroupedMatmulFinalizeRoutingV2GetWorkspaceSize(
                of.x, of.w, of.scale, of.bias, of.offset, of.antiquant_scale, of.antiquant_offset, of.pertoken,
                of.group_list, of.shared, of.logit, of.row_index, of.dtype, 0.5f, of.shared_offset, of.transpose_x1,
                of.transpose_x2, of.list_type, of.out, size, executor);
        };
    }
    FirstPhase v3() const {
        return [of = *this](uint64_t* size, aclOpExecutor** executor) {
            return aclnnGroupedMatmulFinalizeRoutingV3GetWorkspaceSize(
                of.x, of.w, of.scale, of.bias, of.offset, of.antiquant_scale, of.antiquant_offset, of.pertoken,
                of.group_list, of.shared, of.logit, of.row_index, of.dtype, 0.5f, of.shared_offset, of.transpose_x1,
                of.transpose_x2, of.list_type, of.tuning, of.out, size, executor);
        };
    }
    FirstPhase nz() const {
        return [of = *this](uint64_t* size, aclOpExecutor** executor) {
            return aclnnGroupedMatmulFinalizeRoutingWeightNzGetWorkspaceSize(
                of.x, of.w, of.scale, of.bias, of.pertoken, of.group_list, of.shared, of.logit, of.row_index, of.dtype,
                0.5f, of.shared_offset, of.transpose_x1, of.transpose_x2, of.list_type, of.out, size, executor);
        };
    }
    FirstPhase nz_v2() const {
        return [of = *this](uint64_t* size, aclOpExecutor** executor) {
            return aclnnGroupedMatmulFinalizeRoutingWeightNzV2GetWorkspaceSize(
                of.x, of.w, of.scale, of.bias, of.offset, of.antiquant_scale, of.antiquant_offset, of.pertoken,
                of.group_list, of.shared, of.logit, of.row_index, of.dtype, 0.5f, of.shared_offset, of.transpose_x1,
                of.transpose_x2, of.list_type, of.tuning, of.out, size, executor);
        };
    }
};

Problem tiled(Problem of) {
    of.w = of.w.tiled();
    return of;
}

}  // namespace

TEST_CASE("int4: three versions give the bits of the core, silently, in every mode and layout") {
    Findings findings;
    for (const moe_aclnn_mode mode : every_mode)
        for (const Layout layout : {Layout::dense, Layout::strided, Layout::flat}) {
            const InMode in_mode(mode);
            {
                Session session;
                const Problem of(true);
                {
                    Tensors tensors(of, layout);
                    const Arguments args(tensors);
                    CHECK(run(session, args.base(), aclnnGroupedMatmulFinalizeRouting) == 0);
                    CHECK(tensors.out.read() == of.expected(true, false, true));
                }
                {
                    Tensors tensors(of, layout);
                    Arguments args(tensors);
                    args.offset = tensors.offset;
                    CHECK(run(session, args.v2(), aclnnGroupedMatmulFinalizeRoutingV2) == 0);
                    CHECK(tensors.out.read() == of.expected(true, true, true));
                }
                {
                    const Problem ends(true, 0);
                    Tensors tensors(ends, layout);
                    Arguments args(tensors);
                    const int64_t rows = m;
                    args.tuning = aclCreateIntArray(&rows, 1);
                    args.shared = nullptr;
                    args.list_type = 0;
                    CHECK(run(session, args.v3(), aclnnGroupedMatmulFinalizeRoutingV3) == 0);
                    CHECK(tensors.out.read() == ends.expected(true, false, false, 0));
                    CHECK(aclDestroyIntArray(args.tuning) == 0);
                }
            }
            CHECK_MESSAGE(findings.rules(true).empty(), findings.text());
        }
}

TEST_CASE("FRACTAL_NZ: both versions give the bits of the core, silently, in every mode and layout") {
    Findings findings;
    for (const moe_aclnn_mode mode : every_mode)
        for (const Layout layout : {Layout::dense, Layout::strided, Layout::flat}) {
            const InMode in_mode(mode);
            {
                Session session;
                const Problem plain(false);
                const Problem of = tiled(plain);
                Tensors tensors(of, layout);
                Arguments args(tensors);
                CHECK(run(session, args.nz(), aclnnGroupedMatmulFinalizeRoutingWeightNz) == 0);
                CHECK(tensors.out.read() == of.expected(true, false, true));
                CHECK(tensors.out.read() == plain.expected(true, false, true));
                args.bias = args.shared = nullptr;
                CHECK(run(session, args.nz_v2(), aclnnGroupedMatmulFinalizeRoutingWeightNzV2) == 0);
                CHECK(tensors.out.read() == of.expected(false, false, false));
            }
            {
                Session session;
                const Problem of = tiled(Problem(true));
                Tensors tensors(of, layout);
                Arguments args(tensors);
                args.offset = tensors.offset;
                CHECK(run(session, args.nz_v2(), aclnnGroupedMatmulFinalizeRoutingWeightNzV2) == 0);
                CHECK(tensors.out.read() == of.expected(true, true, true));
                // A second time: nothing of the weight has changed.
                CHECK(run(session, args.nz_v2(), aclnnGroupedMatmulFinalizeRoutingWeightNzV2) == 0);
            }
            CHECK_MESSAGE(findings.rules(true).empty(), findings.text());
        }
}

TEST_CASE("a weight that TransMatmulWeight has converted, in one stream, and one that it has not") {
    for (const moe_aclnn_mode mode : every_mode) {
        const InMode in_mode(mode);
        Findings findings;
        Session session;
        const Problem of(false);
        Tensors tensors(of, Layout::flat);
        const Arguments args(tensors);
        uint64_t trans_size = 0, size = 0;
        aclOpExecutor *trans = nullptr, *executor = nullptr;
        REQUIRE(aclnnTransMatmulWeightGetWorkspaceSize(tensors.w, &trans_size, &trans) == 0);
        REQUIRE(args.nz()(&size, &executor) == 0);
        SUBCASE("converted") {
            const Buffer trans_workspace(trans_size), workspace(size);
            CHECK(aclnnTransMatmulWeight(trans_workspace.data, trans_size, trans, session.stream) == 0);
            CHECK(aclnnGroupedMatmulFinalizeRoutingWeightNz(workspace.data, size, executor, session.stream) == 0);
            CHECK(session.synchronise() == 0);
            CHECK(tensors.out.read() == of.expected(true, false, true));
            CHECK(findings.rules(true).empty());
        }
        SUBCASE("in name only") {
            const aclnnStatus status = run(session, aclnnGroupedMatmulFinalizeRoutingWeightNz, size, executor);
            CHECK(status == (mode == MOE_ACLNN_STRICT ? 161002 : 0));
            CHECK(findings.rules(true) == Rules{"nz-not-ready"});
            CHECK(aclDestroyAclOpExecutor(trans) == 0);
        }
    }
}

TEST_CASE("null arguments") {
    Findings findings;
    Session session;
    const Problem plain(true);
    const Problem nz = tiled(Problem(false));
    Tensors tensors(plain), tiles(nz);
    const auto without = [](const Tensors& of, aclTensor* Arguments::*which) {
        Arguments args(of);
        args.*which = nullptr;
        return args;
    };
    const struct {
        aclTensor* Arguments::*which;
        const char *name, *v2_name;
        bool required;  // in FRACTAL_NZ
    } nulls[] = {{&Arguments::x, "x1", "x1", true},
                 {&Arguments::w, "x2", "x2", true},
                 {&Arguments::scale, "scale", "scaleOptional", true},
                 {&Arguments::bias, "bias", "biasOptional", false},
                 {&Arguments::pertoken, "pertokenScaleOptional", "pertokenScaleOptional", false},
                 {&Arguments::group_list, "groupList", "groupListOptional", true},
                 {&Arguments::logit, "logit", "logitOptional", true},
                 {&Arguments::row_index, "rowIndex", "rowIndexOptional", true},
                 {&Arguments::out, "out", "out", true}};
    for (const auto& it : nulls) {
        const Arguments args = without(tensors, it.which);
        refused(findings, 161001, std::string(it.name) + ": null", args.base(), "null-argument");
        refused(findings, 161001, std::string(it.v2_name) + ": null", args.v2(), "null-argument");
        refused(findings, 161001, std::string(it.name) + ": null", args.v3(), "null-argument");
        if (!it.required) continue;
        const Arguments tiled_args = without(tiles, it.which);
        refused(findings, 161001, std::string(it.name) + ": null", tiled_args.nz(), "null-argument");
        refused(findings, 161001, std::string(it.name) + ": null", tiled_args.nz_v2(),
                it.which == &Arguments::w ? "null-crash" : "null-argument");
    }
    const Arguments args(tensors);
    CHECK(args.base()(nullptr, nullptr) == 161001);
    uint64_t size = 0;
    CHECK(args.v3()(&size, nullptr) == 161001);
    CHECK(findings.rules(true) == Rules{"null-argument", "null-argument"});

    // Not null, and refused like a null.
    Arguments antiquant(tensors);
    antiquant.antiquant_scale = tensors.scale;
    refused(findings, 161001, "antiquantScaleOptional", antiquant.v2());
    antiquant.antiquant_scale = nullptr;
    antiquant.antiquant_offset = tensors.scale;
    refused(findings, 161001, "antiquantOffsetOptional", antiquant.v3());
    Arguments ignored(tiles);
    ignored.antiquant_scale = tensors.scale;
    CHECK(run(session, ignored.nz_v2(), aclnnGroupedMatmulFinalizeRoutingWeightNzV2) == 0);
    CHECK(findings.rules(true) == Rules{"argument"});

    // int4 needs what int8 can do without.
    const Problem packed = tiled(Problem(true));
    const Tensors words(packed);
    refused(findings, 161001, "pertokenScaleOptional", without(words, &Arguments::pertoken).nz_v2());
    refused(findings, 161001, "bias", without(words, &Arguments::bias).nz_v2());
    CHECK(run(session, without(tiles, &Arguments::pertoken).nz(), aclnnGroupedMatmulFinalizeRoutingWeightNz) == 0);
}

TEST_CASE("attributes, dtypes and shapes") {
    Findings findings;
    Session session;
    const Problem plain(true);
    const Problem nz = tiled(Problem(false));
    const Tensors tensors(plain), tiles(nz);
    // What is changed, in both interfaces.
    const auto both = [&](const std::string& part, const std::function<void(Arguments&)>& change) {
        Arguments args(tensors);
        change(args);
        refused(findings, 161002, part, args.v3());
        Arguments tiled_args(tiles);
        change(tiled_args);
        refused(findings, 161002, part, tiled_args.nz_v2());
    };
    both("dtype: 1", [](Arguments& args) { args.dtype = 1; });
    both("dtype: 1", [](Arguments& args) { args.dtype = 1, args.out = nullptr; });
    both("transposeX1", [](Arguments& args) { args.transpose_x1 = true; });
    both("transposeX2", [](Arguments& args) { args.transpose_x2 = true, args.out = nullptr; });
    both("groupListType: 2", [](Arguments& args) { args.list_type = 2; });
    both("sharedInputOffset: 5", [](Arguments& args) { args.shared_offset = 5; });
    both("sharedInputOffset: -1", [](Arguments& args) { args.shared_offset = -1; });
    for (const int64_t rows : {int64_t{-1}, m + 1}) {
        aclIntArray* tuning = aclCreateIntArray(&rows, 1);
        both("tuningConfigOptional: " + std::to_string(rows), [&](Arguments& args) { args.tuning = tuning; });
        CHECK(aclDestroyIntArray(tuning) == 0);
    }
    const OnDevice long_vector(Data::random({m + 1}, ACL_FLOAT, 1)), column(Data::random({m, 1}, ACL_FLOAT, 1)),
        integers(Data::of<int64_t>({m}, std::vector<int64_t>(m))), floats(Data::random({m, 192}, ACL_FLOAT, 1)),
        list(Data::of<int64_t>({experts + 1}, {1, 1, 1, 1})), empty(Data::random({0, 192}, ACL_INT8, 1)),
        cube(Data::blank({2, 3, 256}, ACL_FLOAT)), long_out(Data::blank({m + 1, 256}, ACL_FLOAT)),
        half_out(Data::blank({batch, 256}, ACL_FLOAT16)), wide_out(Data::blank({batch, 257}, ACL_FLOAT)),
        long_shared(Data::random({batch + 1, 256}, ACL_BF16, 1)), matrix(Data::random({192, 256}, ACL_INT8, 1));
    both("pertokenScaleOptional", [&](Arguments& args) { args.pertoken = long_vector; });
    both("pertokenScaleOptional", [&](Arguments& args) { args.pertoken = column; });
    both("logit", [&](Arguments& args) { args.logit = long_vector; });
    both("logit", [&](Arguments& args) { args.logit = integers; });
    both("rowIndex", [&](Arguments& args) { args.row_index = long_vector; });
    both("groupList", [&](Arguments& args) { args.group_list = list; });
    both("x1", [&](Arguments& args) { args.x = floats; });
    both("x1", [&](Arguments& args) { args.x = empty; });
    both("x2", [&](Arguments& args) { args.w = matrix; });
    both("scale", [&](Arguments& args) { args.scale = long_vector; });
    both("bias", [&](Arguments& args) { args.bias = long_vector; });
    both("out", [&](Arguments& args) { args.out = cube; });
    both("out", [&](Arguments& args) { args.out = long_out; });
    both("out", [&](Arguments& args) { args.out = half_out; });
    both("out", [&](Arguments& args) { args.out = wide_out; });
    both("sharedInput", [&](Arguments& args) { args.shared = long_shared; });
    both("sharedInput", [&](Arguments& args) { args.shared = long_out; });
    // Each interface has its weights.
    Arguments args(tensors);
    args.w = tiles.w;
    refused(findings, 161002, "x2", args.base());
    args = Arguments(tiles);
    args.w = tensors.w;
    refused(findings, 161002, "x2: format 2, needed 29", args.nz());
    args = Arguments(tensors);
    const OnDevice tiled_x(Data{{m, 192}, ACL_INT8, std::vector<char>(m * 192), {m, 192}});
    args.x = tiled_x;
    refused(findings, 161002, "x1: format 29", args.base());
    const Problem packed = tiled(Problem(true));
    const Tensors words(packed);
    refused(findings, 161002, "x2", Arguments(words).nz());
    // The scales of the other kind.
    args = Arguments(tiles);
    args.scale = tensors.scale;
    refused(findings, 161002, "scale", args.nz());
    args = Arguments(tiles);
    args.bias = tensors.bias;
    refused(findings, 161002, "bias", args.nz());
    args = Arguments(tiles);
    args.offset = tiles.offset;
    refused(findings, 161002, "offsetOptional", args.nz_v2());
}

TEST_CASE("sizes of a card") {
    Findings findings;
    Session session;
    const auto with = [](bool int4, int64_t k, int64_t n) {
        Problem of(int4);
        of.k = k, of.n = n;
        of.x = Data::random({m, k}, ACL_INT8, 1);
        of.w = int4 ? Data::random({experts, k, n / 8}, ACL_INT32, 2) : Data::random({experts, k, n}, ACL_INT8, 2);
        of.scale = int4 ? Data::random({experts, 1, n}, ACL_INT64, 3) : Data::random({experts, n}, ACL_FLOAT, 3);
        of.bias = Data::random({experts, n}, int4 ? ACL_FLOAT : ACL_BF16, 4);
        of.shared = Data::random({2, n}, ACL_BF16, 7);
        of.out = Data::blank({batch, n}, ACL_FLOAT);
        return of;
    };
    for (const auto& [k, n, part] : {std::tuple{128, 256, "k = 128"}, {200, 256, "k = 200"}, {192, 64, "n = 64"}}) {
        const Tensors tensors(with(true, k, n));
        refused(findings, 161002, part, Arguments(tensors).base());
    }
    const Tensors words(tiled(with(true, 192, 96)));
    refused(findings, 161002, "n = 96", Arguments(words).nz_v2());
    for (const auto& [k, n, part] : {std::tuple{24, 256, "k = 24"}, {32, 224, "n = 224"}, {32, 272, "n = 272"}}) {
        const Tensors tensors(tiled(with(false, k, n)));
        refused(findings, 161002, part, Arguments(tensors).nz());
    }
}

TEST_CASE("storage of FRACTAL_NZ") {
    Findings findings;
    Session session;
    const Problem of = tiled(Problem(false));
    Tensors tensors(of);
    const Buffer memory(of.w.bytes);
    const auto weight = [&](const Shape& shape, const Shape& storage) {
        return aclCreateTensor(shape.data(), shape.size(), ACL_INT8, nullptr, 0, ACL_FORMAT_FRACTAL_NZ, storage.data(),
                               storage.size(), memory.data);
    };
    const Shape shape = of.w.shape, storage = of.w.storage;
    Shape flat = {product(storage)}, short_one = storage, exchanged = storage, longer = storage;
    short_one[1] -= 1;
    std::swap(exchanged[1], exchanged[2]);
    longer.insert(longer.begin(), 1);
    for (const Shape& wrong : {flat, short_one, exchanged}) {
        Arguments args(tensors);
        args.w = weight(shape, wrong);
        refused(findings, 161002, "x2: storage of", args.nz(), "nz-not-ready");
        CHECK(aclDestroyTensor(args.w) == 0);
    }
    Arguments args(tensors);
    args.w = weight(storage, storage);
    refused(findings, 161002, "3 dimensions", args.nz());
    CHECK(aclDestroyTensor(args.w) == 0);
    args.w = weight(shape, longer);
    CHECK(run(session, args.nz(), aclnnGroupedMatmulFinalizeRoutingWeightNz) == 0);
    CHECK(tensors.out.read() == of.expected(true, false, true));
    CHECK(aclDestroyTensor(args.w) == 0);
    CHECK(findings.rules(true).empty());
}

TEST_CASE("only a real host changes the caller's tensors") {
    for (const moe_aclnn_mode mode : every_mode) {
        const InMode in_mode(mode);
        Findings findings;
        Session session;
        const Problem of(true);
        Tensors tensors(of, Layout::flat);
        const Arguments args(tensors);
        CHECK(run(session, args.v3(), aclnnGroupedMatmulFinalizeRoutingV3) == 0);
        aclDataType dtype;
        aclFormat format;
        int64_t* shape = nullptr;
        uint64_t rank = 0;
        REQUIRE(aclGetDataType(tensors.w, &dtype) == 0);
        REQUIRE(aclGetFormat(tensors.scale, &format) == 0);
        REQUIRE(aclGetViewShape(tensors.w, &shape, &rank) == 0);
        const bool real = mode == MOE_ACLNN_REAL;
        CHECK(dtype == (real ? ACL_INT4 : ACL_INT32));
        CHECK(format == (real ? ACL_FORMAT_ND : ACL_FORMAT_NCL));
        CHECK(Shape(shape, shape + rank) == Shape{experts, of.k, real ? of.n : of.n / 8});
        delete[] shape;
        CHECK(findings.rules(true).empty());
        if (real)
            refused(findings, 161002, "since phase 1 of aclnnGroupedMatmulFinalizeRoutingV3", args.v2(), "mutated");
        else
            CHECK(run(session, args.v3(), aclnnGroupedMatmulFinalizeRoutingV3) == 0);
        CHECK(tensors.out.read() == of.expected(true, false, true));
    }
}

TEST_CASE("groups and rows out of range: skipped, faulted or refused") {
    for (const moe_aclnn_mode mode : every_mode)
        for (const bool rows : {false, true}) {
            const InMode in_mode(mode);
            Findings findings;
            Session session;
            Problem of = tiled(Problem(false));
            if (rows)
                of.row_index = Data::of<int64_t>({m}, {3, 1, 4, -1, 5, 0, 2, 3, 5, batch, 0, 0});
            else
                of.group_list = Data::of<int64_t>({experts}, {5, -1, m});
            Tensors tensors(of);
            uint64_t size = 0;
            aclOpExecutor* executor = nullptr;
            REQUIRE(Arguments(tensors).nz()(&size, &executor) == 0);
            const Buffer workspace(size);
            const aclnnStatus status =
                aclnnGroupedMatmulFinalizeRoutingWeightNz(workspace.data, size, executor, session.stream);
            CHECK(status == (mode == MOE_ACLNN_STRICT ? 161002 : 0));
            CHECK(session.synchronise() == (mode == MOE_ACLNN_REAL ? 507015 : 0));
            CHECK(findings.rules(true) == Rules{"data-range"});
            if (mode == MOE_ACLNN_COMPAT)
                CHECK(tensors.out.read() == of.expected(true, false, true));
            else
                CHECK(tensors.out.read() == of.out.bytes);
            if (mode != MOE_ACLNN_COMPAT) CHECK(contains(error_text(), rows ? "rowIndex" : "groupList"));
        }
}

TEST_CASE("phase 2: a null executor, a null workspace, a workspace that is too small") {
    for (const moe_aclnn_mode mode : every_mode) {
        const InMode in_mode(mode);
        Findings findings;
        Session session;
        const Problem of = tiled(Problem(false));
        Tensors tensors(of);
        const FirstPhase first = Arguments(tensors).nz();
        CHECK(aclnnGroupedMatmulFinalizeRoutingWeightNz(nullptr, 0, nullptr, session.stream) == 161001);
        CHECK(findings.rules(true) == Rules{"null-argument"});
        uint64_t size = 0;
        aclOpExecutor* executor = nullptr;
        REQUIRE(first(&size, &executor) == 0);
        REQUIRE(size > 0);
        CHECK(aclnnGroupedMatmulFinalizeRoutingWeightNz(nullptr, size, executor, session.stream) == 161001);
        CHECK(findings.rules(true) == Rules{"workspace-null"});
        // A composite executor is gone with that.
        CHECK(aclnnGroupedMatmulFinalizeRoutingWeightNz(nullptr, size, executor, session.stream) == 561000);
        CHECK(findings.rules(true) == Rules{"executor-spent"});
        REQUIRE(first(&size, &executor) == 0);
        CHECK(run(session, aclnnGroupedMatmulFinalizeRoutingWeightNz, size - 512, executor) ==
              (mode == MOE_ACLNN_STRICT ? 161002 : 0));
        CHECK(findings.rules(true) == Rules{"workspace-size"});
        if (mode != MOE_ACLNN_STRICT) CHECK(tensors.out.read() == of.expected(true, false, true));
    }
}
