#include "aclnnop/aclnn_npu_format_cast.h"
#include "aclnnop/aclnn_trans_matmul_weight.h"
#include "operands.h"

using namespace client;

namespace {

constexpr aclDataType weights[] = {ACL_INT8, ACL_FLOAT16, ACL_BF16};
constexpr aclDataType castable[] = {ACL_INT8, ACL_UINT8, ACL_FLOAT16, ACL_BF16, ACL_FLOAT, ACL_INT32, ACL_UINT32};

Data numbers(const Shape& shape, aclDataType dtype) {
    Data data = Data::blank(shape, dtype);
    for (size_t i = 0; i < data.bytes.size(); ++i) data.bytes[i] = static_cast<char>(i * 7 + 1);
    return data;
}

aclTensor* tensor(const Shape& shape, aclDataType dtype, aclFormat format, const Shape& storage, void* memory) {
    return aclCreateTensor(shape.data(), shape.size(), dtype, nullptr, 0, format, storage.data(), storage.size(),
                           memory);
}

FirstPhase trans(aclTensor* weight) {
    return [=](uint64_t* size, aclOpExecutor** executor) {
        return aclnnTransMatmulWeightGetWorkspaceSize(weight, size, executor);
    };
}
FirstPhase cast(const aclTensor* source, aclTensor* target) {
    return [=](uint64_t* size, aclOpExecutor** executor) {
        return aclnnNpuFormatCastGetWorkspaceSize(source, target, size, executor);
    };
}

// What aclnnNpuFormatCastCalculateSizeAndFormat says; no dims when it fails.
struct Target {
    aclnnStatus status;
    Shape dims;
    int format = -7;

    Target(const aclTensor* source, int wanted, int additional = -1) {
        int64_t* shape = nullptr;
        uint64_t rank = 0;
        status = aclnnNpuFormatCastCalculateSizeAndFormat(source, wanted, additional, &shape, &rank, &format);
        if (status != 0) return;
        dims.assign(shape, shape + rank);
        delete[] shape;
    }
};

}  // namespace

TEST_CASE("the sizes of weights") {
    Findings findings;
    Session session;
    uint64_t size = 77;
    const auto v1 = [&](const Shape& shape) {
        const aclIntArray* array = aclCreateIntArray(shape.data(), shape.size());
        const aclnnStatus status = aclnnCalculateMatmulWeightSize(array, &size);
        CHECK(aclDestroyIntArray(array) == 0);
        return status;
    };
    const auto v2 = [&](const Shape& shape, aclDataType dtype) {
        const aclIntArray* array = aclCreateIntArray(shape.data(), shape.size());
        const aclnnStatus status = aclnnCalculateMatmulWeightSizeV2(array, dtype, &size);
        CHECK(aclDestroyIntArray(array) == 0);
        return status;
    };
    CHECK(v1({510, 510}) == 0);
    CHECK(size == 262144);
    CHECK(v2({510, 270}, ACL_INT8) == 0);
    CHECK(size == 147456);
    CHECK(v2({3, 17, 17}, ACL_BF16) == 0);
    CHECK(size == 3 * 32 * 32);
    CHECK(v2({2, 1, 1, 1, 17, 33}, ACL_INT8) == 0);
    CHECK(size == 2 * 32 * 64);
    CHECK(findings.rules(true).empty());
    size = 77;
    CHECK(v1({510}) == 161002);
    CHECK(v1({2, 2, 2, 2}) == 161002);
    CHECK(v2({2}, ACL_INT8) == 161002);
    CHECK(v2({2, 2, 2, 2, 2, 2, 2}, ACL_INT8) == 161002);
    CHECK(v2({0, 16}, ACL_INT8) == 161002);
    CHECK(v2({-1, 16}, ACL_INT8) == 161002);
    CHECK(v2({int64_t{1} << 40, int64_t{1} << 40}, ACL_INT8) == 161002);
    CHECK(v2({16, 16}, ACL_FLOAT) == 161002);
    CHECK(findings.rules(true) == Rules(8, "argument"));
    CHECK(aclnnCalculateMatmulWeightSize(nullptr, &size) == 161001);
    CHECK(aclnnCalculateMatmulWeightSizeV2(nullptr, ACL_INT8, &size) == 161001);
    const aclIntArray* array = aclCreateIntArray(nullptr, 0);
    CHECK(aclnnCalculateMatmulWeightSizeV2(array, ACL_INT8, nullptr) == 161001);
    CHECK(findings.rules(true) == Rules(3, "null-argument"));
    CHECK(size == 77);
    CHECK(aclDestroyIntArray(array) == 0);
    CHECK(aclnnCalculateMatmulWeightSize(array, &size) == 161002);
    CHECK(findings.rules(true) == Rules{"double-destroy"});
}

TEST_CASE("TransMatmulWeight writes the tiles of the core in place, in every mode, and only once") {
    for (const moe_aclnn_mode mode : every_mode)
        for (const aclDataType dtype : weights)
            for (const Shape& shape : {Shape{20, 40}, Shape{2, 17, 33}}) {
                const InMode in_mode(mode);
                Findings findings;
                Session session;
                Data plain = numbers(shape, dtype);
                const Data tiles = plain.tiled();
                const Buffer memory(tiles.bytes.size());
                REQUIRE(aclrtMemcpy(memory.data, memory.size, plain.bytes.data(), plain.bytes.size(),
                                    ACL_MEMCPY_HOST_TO_DEVICE) == 0);
                aclTensor* weight = tensor(shape, dtype, shape.size() == 3 ? ACL_FORMAT_NCL : ACL_FORMAT_ND,
                                           {product(shape)}, memory.data);
                CHECK(run(session, trans(weight), aclnnTransMatmulWeight) == 0);
                CHECK(memory.read<char>() == tiles.bytes);
                aclFormat format;
                int64_t* storage = nullptr;
                uint64_t rank = 0;
                REQUIRE(aclGetFormat(weight, &format) == 0);
                REQUIRE(aclGetStorageShape(weight, &storage, &rank) == 0);
                CHECK(format == ACL_FORMAT_FRACTAL_NZ);
                CHECK(Shape(storage, storage + rank) == tiles.storage);
                delete[] storage;
                CHECK_MESSAGE(findings.rules(true).empty(), findings.text());
                refused(findings, 161002, "FRACTAL_NZ already", trans(weight), "mutated");
                CHECK(aclDestroyTensor(weight) == 0);
            }
}

TEST_CASE("TransMatmulWeight refuses") {
    Findings findings;
    Session session;
    refused(findings, 161001, "mmWeightRef: null", trans(nullptr), "null-argument");
    const Buffer memory(4096);
    const auto refuse = [&](const Shape& shape, aclDataType dtype, const int64_t* strides = nullptr) {
        aclTensor* weight = aclCreateTensor(shape.data(), shape.size(), dtype, strides, 0, ACL_FORMAT_ND, shape.data(),
                                            shape.size(), memory.data);
        refused(findings, 161002, "mmWeightRef", trans(weight));
        aclFormat format;
        REQUIRE(aclGetFormat(weight, &format) == 0);
        CHECK(format == ACL_FORMAT_ND);
        CHECK(aclDestroyTensor(weight) == 0);
    };
    refuse({4, 4}, ACL_FLOAT);
    refuse({4, 4}, ACL_INT32);
    refuse({4}, ACL_INT8);
    refuse({1, 1, 1, 1, 1, 4, 4}, ACL_INT8);
    refuse({1, 1, 4, 4}, ACL_FLOAT16);
    const int64_t transposed[] = {1, 4};
    refuse({4, 4}, ACL_INT8, transposed);
    // Nothing is to be done.
    aclTensor* empty = tensor({0, 4}, ACL_INT8, ACL_FORMAT_ND, {0}, memory.data);
    uint64_t size = 77;
    aclOpExecutor* executor = nullptr;
    REQUIRE(trans(empty)(&size, &executor) == 0);
    CHECK(size == 0);
    CHECK(run(session, aclnnTransMatmulWeight, size, executor) == 0);
    CHECK(findings.rules(true).empty());
    CHECK(aclDestroyTensor(empty) == 0);
}

TEST_CASE("a buffer that holds the matrix and not its tiles") {
    for (const moe_aclnn_mode mode : every_mode) {
        const InMode in_mode(mode);
        Findings findings;
        Session session;
        const Buffer memory(numbers({20, 40}, ACL_INT8).bytes);
        aclTensor* weight = tensor({20, 40}, ACL_INT8, ACL_FORMAT_ND, {800}, memory.data);
        CHECK(run(session, trans(weight), aclnnTransMatmulWeight) == (mode == MOE_ACLNN_COMPAT ? 0
                                                                      : mode == MOE_ACLNN_REAL ? 507015
                                                                                               : 161002));
        CHECK(findings.rules(true) == Rules{"tensor-extent"});
        CHECK(aclDestroyTensor(weight) == 0);
    }
}

TEST_CASE("NpuFormatCast there and back gives the bits of the core, silently, in every mode") {
    Findings findings;
    for (const moe_aclnn_mode mode : every_mode)
        for (const aclDataType dtype : castable)
            for (const Shape& shape : {Shape{20, 40}, Shape{2, 17, 33}, Shape{2, 2, 3, 5}}) {
                const InMode in_mode(mode);
                Session session;
                Data plain = numbers(shape, dtype);
                const Data expected = plain.tiled();
                OnDevice source(plain, Layout::flat);
                const Target target(source, ACL_FORMAT_FRACTAL_NZ);
                REQUIRE(target.status == 0);
                CHECK(target.dims == expected.storage);
                CHECK(target.format == ACL_FORMAT_FRACTAL_NZ);
                CHECK(Target(source, ACL_FORMAT_FRACTAL_NZ, dtype).dims == expected.storage);
                Data blank = expected;
                std::fill(blank.bytes.begin(), blank.bytes.end(), '\x11');
                OnDevice tiles(blank), back(Data::blank(shape, dtype));
                CHECK(run(session, cast(source, tiles), aclnnNpuFormatCast) == 0);
                CHECK(tiles.read() == expected.bytes);
                const Target plain_target(tiles, ACL_FORMAT_ND);
                CHECK(plain_target.dims == shape);
                CHECK(plain_target.format == ACL_FORMAT_ND);
                CHECK(run(session, cast(tiles, back), aclnnNpuFormatCast) == 0);
                CHECK(back.read() == plain.bytes);
            }
    CHECK_MESSAGE(findings.rules(true).empty(), findings.text());
}

TEST_CASE("a tensor is FRACTAL_NZ in name only until its conversion has run") {
    Findings findings;
    for (const moe_aclnn_mode mode : every_mode)
        for (const bool in_place : {false, true}) {
            const InMode in_mode(mode);
            Session session;
            Data plain = numbers({32, 32}, ACL_INT8);
            const OnDevice source(plain), apart(Data::blank({32, 32}, ACL_INT8).tiled());
            OnDevice back(Data::blank({32, 32}, ACL_INT8));
            aclTensor* const tiles = in_place ? source : apart;
            const FirstPhase conversion = in_place ? trans(source) : cast(source, apart);
            uint64_t size = 0;
            aclOpExecutor* executor = nullptr;
            REQUIRE(conversion(&size, &executor) == 0);
            CHECK(run(session, cast(tiles, back), aclnnNpuFormatCast) == (mode == MOE_ACLNN_STRICT ? 161002 : 0));
            CHECK(findings.rules() == Rules{"nz-not-ready"});
            CHECK(run(session, in_place ? aclnnTransMatmulWeight : aclnnNpuFormatCast, size, executor) == 0);
            CHECK(run(session, cast(tiles, back), aclnnNpuFormatCast) == 0);
            CHECK(back.read() == plain.bytes);
            if (in_place) continue;
            // The tiles of the first conversion are there until the second one runs.
            REQUIRE(conversion(&size, &executor) == 0);
            CHECK(run(session, cast(tiles, back), aclnnNpuFormatCast) == 0);
            CHECK(aclDestroyAclOpExecutor(executor) == 0);
            CHECK_MESSAGE(findings.rules(true).empty(), findings.text());
        }
    aclGetRecentErrMsg();
}

TEST_CASE("the size and format of a cast: refusals, and what official examples pass") {
    for (const moe_aclnn_mode mode : every_mode) {
        const InMode in_mode(mode);
        Findings findings;
        Session session;
        Data plain = numbers({20, 40}, ACL_FLOAT16);
        const OnDevice source(plain), tiles(plain.tiled()), vector(numbers({40}, ACL_FLOAT16)),
            doubles(numbers({20, 40}, ACL_DOUBLE));
        CHECK(Target(nullptr, ACL_FORMAT_FRACTAL_NZ).status == 161001);
        int64_t* shape = nullptr;
        uint64_t rank = 77;
        int format = 77;
        CHECK(aclnnNpuFormatCastCalculateSizeAndFormat(source, 29, -1, nullptr, &rank, &format) == 161001);
        CHECK(aclnnNpuFormatCastCalculateSizeAndFormat(source, 29, -1, &shape, nullptr, &format) == 161001);
        CHECK(aclnnNpuFormatCastCalculateSizeAndFormat(source, 29, -1, &shape, &rank, nullptr) == 161001);
        CHECK(findings.rules(true) == Rules(4, "null-argument"));
        CHECK(Target(vector, ACL_FORMAT_FRACTAL_NZ).status == 161002);
        CHECK(Target(doubles, ACL_FORMAT_FRACTAL_NZ).status == 161002);
        CHECK(Target(source, ACL_FORMAT_NC1HWC0).status == 161002);
        CHECK(Target(source, ACL_FORMAT_FRACTAL_NZ, ACL_INT32).status == 161002);
        CHECK(Target(tiles, ACL_FORMAT_FRACTAL_NZ).status == 361001);
        CHECK(findings.rules(true) == Rules(5, "argument"));
        // ACL_FORMAT_ND in the place of a data type: tiles of the source's.
        const Target official(source, ACL_FORMAT_FRACTAL_NZ, ACL_FORMAT_ND);
        CHECK(official.status == (mode == MOE_ACLNN_COMPAT ? 0 : 161002));
        if (mode == MOE_ACLNN_COMPAT) CHECK(official.dims == plain.tiled().storage);
        CHECK(findings.rules(true).size() == (mode == MOE_ACLNN_COMPAT ? 0 : 1));
        CHECK(shape == nullptr);
        CHECK(rank == 77);
        CHECK(format == 77);
    }
}

TEST_CASE("NpuFormatCast refuses") {
    Findings findings;
    Session session;
    Data plain = numbers({20, 40}, ACL_FLOAT16);
    const Data other = numbers({20, 41}, ACL_FLOAT16).tiled(), bytes = numbers({20, 40}, ACL_INT8).tiled();
    Data narrow = plain.tiled();
    narrow.storage = {5, 2, 16, 8};  // tiles of 16 bytes
    Data short_storage = plain.tiled();
    short_storage.storage = {2, 2, 16, 16};
    const OnDevice source(plain), strided(plain, Layout::strided), tiles(plain.tiled()), other_tiles(other),
        byte_tiles(bytes), narrow_tiles(narrow), short_tiles(short_storage), empty(Data::blank({0, 40}, ACL_FLOAT16)),
        vector(numbers({800}, ACL_FLOAT16)), plain_too(plain), doubles(numbers({20, 40}, ACL_DOUBLE));
    refused(findings, 161001, "srcTensor: null", cast(nullptr, tiles), "null-argument");
    refused(findings, 161001, "dstTensor: null", cast(source, nullptr), "null-argument");
    refused(findings, 361001, "srcTensor", cast(source, plain_too));
    refused(findings, 361001, "srcTensor", cast(tiles, other_tiles));
    refused(findings, 161002, "srcTensor", cast(strided, tiles));
    refused(findings, 161002, "srcTensor", cast(empty, tiles));
    refused(findings, 161002, "srcTensor", cast(vector, tiles));
    refused(findings, 161002, "srcTensor", cast(doubles, tiles));
    refused(findings, 161002, "dstTensor", cast(tiles, strided));
    refused(findings, 161002, "dstTensor", cast(source, other_tiles));
    refused(findings, 161002, "dstTensor", cast(source, byte_tiles), "nz-not-ready");
    refused(findings, 161002, "dstTensor", cast(source, narrow_tiles), "nz-not-ready");
    refused(findings, 161002, "srcTensor", cast(narrow_tiles, plain_too), "nz-not-ready");
    refused(findings, 161002, "dstTensor", cast(source, short_tiles));
    refused(findings, 161002, "srcTensor", cast(short_tiles, plain_too));
}
