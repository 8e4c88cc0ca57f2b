// npu_format_cast and the FRACTAL_NZ functions through the C API.
#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>

#include "call.h"

using namespace moe_test;

namespace {

moe_tensor nz(void* data, moe_dtype dtype, std::initializer_list<int64_t> shape, int64_t c0) {
    moe_tensor tensor;
    REQUIRE(moe_nz_make(data, dtype, static_cast<int32_t>(shape.size()), shape.begin(), c0, &tensor) == MOE_OK);
    return tensor;
}

moe_status run(const moe_format_cast_args& args) {
    return plan_and_run(args, moe_format_cast_plan, moe_format_cast_run);
}

// (2, 20, 40) int8: two tiles below each other, two beside each other, 2 x 2048 bytes of storage.
struct Weight {
    std::vector<int8_t> plain = std::vector<int8_t>(1600);
    std::vector<int8_t> storage = std::vector<int8_t>(4096, 99);
    moe_tensor t_plain = tensor(plain, MOE_INT8, {2, 20, 40});
    moe_tensor t_storage = nz(storage.data(), MOE_INT8, {2, 20, 40}, 32);
    moe_format_cast_args to_nz{&t_plain, MOE_FORMAT_NZ, 0, false, &t_storage};
    moe_format_cast_args to_nd{&t_storage, MOE_FORMAT_ND, 0, false, &t_plain};

    Weight() {
        for (size_t i = 0; i < plain.size(); ++i) plain[i] = static_cast<int8_t>(static_cast<int>(i % 251) - 125);
    }
};

}  // namespace

TEST_CASE("sizes that were worked out by hand") {
    CHECK(moe_nz_default_c0(MOE_INT8) == 32);
    CHECK(moe_nz_default_c0(MOE_UINT8) == 32);
    CHECK(moe_nz_default_c0(MOE_FLOAT16) == 16);
    CHECK(moe_nz_default_c0(MOE_BFLOAT16) == 16);
    CHECK(moe_nz_default_c0(MOE_FLOAT32) == 8);
    CHECK(moe_nz_default_c0(MOE_INT32) == 8);
    CHECK(moe_nz_default_c0(MOE_UINT32) == 8);
    CHECK(moe_nz_default_c0(MOE_INT64) == 4);
    CHECK(moe_nz_default_c0(MOE_INT4) == 64);
    CHECK(moe_nz_default_c0(static_cast<moe_dtype>(99)) == 0);

    int64_t count = 0;
    const int64_t square[] = {510, 510};
    CHECK(moe_nz_element_count(2, square, 16, &count) == MOE_OK);
    CHECK(count == 262144);
    const int64_t oblong[] = {510, 270};
    CHECK(moe_nz_element_count(2, oblong, 32, &count) == MOE_OK);
    CHECK(count == 147456);
    const int64_t real[] = {8, 2048, 7168};
    CHECK(moe_nz_element_count(3, real, 32, &count) == MOE_OK);
    CHECK(count == 117440512);
    const int64_t none[] = {0, 510};
    CHECK(moe_nz_element_count(2, none, 32, &count) == MOE_OK);
    CHECK(count == 0);

    const moe_tensor packed = nz(nullptr, MOE_INT4, {1, 20, 130}, 64);
    const std::vector<int64_t> needed{1, 3, 2, 16, 64};
    CHECK(packed.format == MOE_FORMAT_NZ);
    CHECK(packed.rank == 3);
    CHECK(packed.storage_rank == 5);
    CHECK(std::equal(needed.begin(), needed.end(), packed.storage_shape));
}

TEST_CASE("sizes that are refused") {
    moe_tensor tensor;
    int64_t count;
    const int64_t shape[] = {16, 32, 1, 1, 1, 1, 1};
    CHECK(moe_nz_make(nullptr, MOE_INT8, 1, shape, 32, &tensor) == MOE_ERROR_INVALID);
    CHECK(last_message() == "rank: 1, needed 2 to 6");
    for (const int32_t rank : {-1, 0, 7, 1000}) {
        CHECK(moe_nz_make(nullptr, MOE_INT8, rank, shape, 32, &tensor) == MOE_ERROR_INVALID);
        CHECK(moe_nz_element_count(rank, shape, 32, &count) == MOE_ERROR_INVALID);
    }
    for (const int64_t c0 : {INT64_MIN, int64_t{-32}, int64_t{0}, int64_t{1}, int64_t{24}, int64_t{128}, INT64_MAX})
        CHECK(moe_nz_make(nullptr, MOE_INT8, 2, shape, c0, &tensor) == MOE_ERROR_INVALID);
    CHECK(moe_nz_make(nullptr, static_cast<moe_dtype>(5), 2, shape, 32, &tensor) == MOE_ERROR_INVALID);
    CHECK(moe_nz_make(nullptr, MOE_INT8, 2, nullptr, 32, &tensor) == MOE_ERROR_NULL);
    CHECK(moe_nz_make(nullptr, MOE_INT8, 2, shape, 32, nullptr) == MOE_ERROR_NULL);
    CHECK(moe_nz_element_count(2, nullptr, 32, &count) == MOE_ERROR_NULL);
    CHECK(moe_nz_element_count(2, shape, 32, nullptr) == MOE_ERROR_NULL);
    const int64_t negative[] = {-1, 32};
    CHECK(moe_nz_make(nullptr, MOE_INT8, 2, negative, 32, &tensor) == MOE_ERROR_INVALID);
    // The product of the dimensions fits, that of the padded ones does not.
    const int64_t huge[] = {1, int64_t{1} << 55};
    CHECK(moe_nz_make(nullptr, MOE_INT8, 2, huge, 32, &tensor) == MOE_ERROR_INVALID);
    CHECK(last_message().find("storage shape") != std::string::npos);
    const int64_t overflowing[] = {INT64_MAX, INT64_MAX};
    CHECK(moe_nz_element_count(2, overflowing, 32, &count) == MOE_ERROR_INVALID);
}

TEST_CASE("descriptions that are refused") {
    Weight weight;
    CHECK(moe_nz_check(&weight.t_storage) == MOE_OK);
    CHECK(moe_nz_check(nullptr) == MOE_ERROR_NULL);
    CHECK(moe_nz_check(&weight.t_plain) == MOE_ERROR_INVALID);
    CHECK(last_message() == "storage: format 2, needed 29 (FRACTAL_NZ)");
    moe_tensor bad = weight.t_storage;
    bad.dtype = MOE_BOOL;
    CHECK(moe_nz_check(&bad) == MOE_ERROR_INVALID);
    CHECK(moe_last_error()->kind == MOE_KIND_DTYPE);
    for (int32_t d = 0; d < 5; ++d)
        for (const int64_t change : {-1, 1}) {
            bad = weight.t_storage;
            bad.storage_shape[d] += change;
            CHECK(moe_nz_check(&bad) == MOE_ERROR_INVALID);
        }
    for (const int32_t rank : {-1, 0, 4, 6, 9}) {
        bad = weight.t_storage;
        bad.storage_rank = rank;
        CHECK(moe_nz_check(&bad) == MOE_ERROR_INVALID);
    }
    bad = weight.t_storage;
    bad.shape[1] = 33;
    CHECK(moe_nz_check(&bad) == MOE_ERROR_INVALID);
    CHECK(last_message() == "storage: storage shape (2, 2, 2, 16, 32), needed (2, 2, 3, 16, 32) for shape (2, 33, 40)");
}

TEST_CASE("positions need 64 bits") {
    // 128 x 8192 x 8192 int8: 2^33 elements.
    const moe_tensor weight = nz(nullptr, MOE_INT8, {128, 8192, 8192}, 32);
    const int64_t last[] = {127, 8191, 8191};
    int64_t position = 0;
    int64_t where[MOE_MAX_RANK];
    REQUIRE(moe_nz_locate(&weight, last, &position, where) == MOE_OK);
    CHECK(position == (int64_t{1} << 33) - 1);
    const std::vector<int64_t> needed{127, 255, 511, 15, 31};
    CHECK(std::equal(needed.begin(), needed.end(), where));
    const int64_t middle[] = {64, 16, 32};
    REQUIRE(moe_nz_locate(&weight, middle, &position, nullptr) == MOE_OK);
    CHECK(position == (int64_t{1} << 32) + 8192 * 32 + 512);
    REQUIRE(moe_nz_locate(&weight, middle, nullptr, where) == MOE_OK);
    CHECK(where[1] == 1);
    CHECK(where[2] == 1);
    const int64_t outside[] = {0, 8192, 0};
    CHECK(moe_nz_locate(&weight, outside, &position, where) == MOE_ERROR_INVALID);
    CHECK(last_message() == "index: 8192 in dimension 1, needed 0 to 8191");
    const int64_t negative[] = {-1, 0, 0};
    CHECK(moe_nz_locate(&weight, negative, &position, where) == MOE_ERROR_INVALID);
    CHECK(moe_nz_locate(&weight, nullptr, &position, where) == MOE_ERROR_NULL);
    CHECK(moe_nz_locate(nullptr, last, &position, where) == MOE_ERROR_NULL);
}

TEST_CASE("every element goes where locate says, and padding is zero") {
    Weight weight;
    REQUIRE(run(weight.to_nz) == MOE_OK);
    std::vector<int8_t> needed(4096, 0);
    for (int64_t e = 0; e < 2; ++e)
        for (int64_t k = 0; k < 20; ++k)
            for (int64_t n = 0; n < 40; ++n) {
                const int64_t index[] = {e, k, n};
                int64_t position;
                REQUIRE(moe_nz_locate(&weight.t_storage, index, &position, nullptr) == MOE_OK);
                needed[static_cast<size_t>(position)] = weight.plain[static_cast<size_t>((e * 20 + k) * 40 + n)];
            }
    CHECK(weight.storage == needed);
    CHECK(needed[1639] == -79);
    const std::vector<int8_t> before = weight.plain;
    std::fill(weight.plain.begin(), weight.plain.end(), int8_t{0});
    // The strides of a FRACTAL_NZ tensor mean nothing.
    for (int64_t& stride : weight.t_storage.stride) stride = -12345;
    REQUIRE(run(weight.to_nd) == MOE_OK);
    CHECK(weight.plain == before);
}

TEST_CASE("shapes need no output") {
    Weight weight;
    weight.to_nz.out = nullptr;
    moe_tensor shape;
    REQUIRE(moe_format_cast_shapes(&weight.to_nz, &shape) == MOE_OK);
    CHECK(shape.format == MOE_FORMAT_NZ);
    CHECK(shape.dtype == MOE_INT8);
    CHECK(std::equal(shape.storage_shape, shape.storage_shape + 5, weight.t_storage.storage_shape));
    weight.to_nz.c0 = 16;
    REQUIRE(moe_format_cast_shapes(&weight.to_nz, &shape) == MOE_OK);
    CHECK(shape.storage_shape[1] == 3);
    CHECK(shape.storage_shape[4] == 16);
    weight.to_nz.c0 = 17;
    CHECK(moe_format_cast_shapes(&weight.to_nz, &shape) == MOE_ERROR_INVALID);
    CHECK(last_message() == "c0: tiles of 17 columns, needed 2, 4, 8, 16, 32 or 64");
    weight.to_nd.out = nullptr;
    REQUIRE(moe_format_cast_shapes(&weight.to_nd, &shape) == MOE_OK);
    CHECK(shape.format == MOE_FORMAT_ND);
    CHECK(shape.rank == 3);
    CHECK(shape.shape[2] == 40);
    CHECK(moe_format_cast_shapes(&weight.to_nd, nullptr) == MOE_ERROR_NULL);
}

TEST_CASE("arguments that are refused") {
    CHECK(moe_format_cast_check(nullptr) == MOE_ERROR_NULL);
    const auto refused = [](auto change) {
        Weight weight;
        change(weight);
        const moe_status status = moe_format_cast_check(&weight.to_nz);
        CHECK(run(weight.to_nz) == status);
        CHECK(weight.storage == std::vector<int8_t>(4096, 99));
        return status;
    };
    CHECK(refused([](Weight& w) { w.to_nz.input = nullptr; }) == MOE_ERROR_NULL);
    CHECK(refused([](Weight& w) { w.to_nz.out = nullptr; }) == MOE_ERROR_NULL);
    CHECK(refused([](Weight& w) { w.to_nz.acl_format = static_cast<moe_format>(3); }) == MOE_ERROR_INVALID);
    CHECK(refused([](Weight& w) { w.to_nz.acl_format = MOE_FORMAT_ND; }) == MOE_ERROR_RUNTIME);
    CHECK(last_message() == "input: in format 2 already, needed the other one");
    CHECK(refused([](Weight& w) { w.to_nz.input = &w.t_storage; }) == MOE_ERROR_RUNTIME);
    CHECK(refused([](Weight& w) { w.to_nz.c0 = -1; }) == MOE_ERROR_INVALID);
    CHECK(refused([](Weight& w) { w.t_plain.dtype = MOE_INT4; }) == MOE_ERROR_INVALID);
    CHECK(refused([](Weight& w) { w.t_plain.dtype = MOE_BOOL; }) == MOE_ERROR_INVALID);
    CHECK(moe_last_error()->kind == MOE_KIND_DTYPE);
    CHECK(refused([](Weight& w) { w.t_plain.rank = 1; }) == MOE_ERROR_INVALID);
    CHECK(refused([](Weight& w) { w.t_plain.rank = 7; }) == MOE_ERROR_INVALID);
    // The output: dtype, format, shape, width of the tiles, storage shape.
    CHECK(refused([](Weight& w) { w.t_storage.dtype = MOE_UINT8; }) == MOE_ERROR_INVALID);
    CHECK(std::string(moe_last_error()->argument) == "out");
    CHECK(refused([](Weight& w) { w.t_storage.format = MOE_FORMAT_ND; }) == MOE_ERROR_INVALID);
    CHECK(last_message() == "out: format 2, needed 29 as acl_format says");
    CHECK(refused([](Weight& w) { w.t_storage.shape[1] = 21; }) == MOE_ERROR_INVALID);
    CHECK(last_message() == "out: shape (2, 21, 40), needed (2, 20, 40) as input has");
    CHECK(refused([](Weight& w) {
              w.t_storage = nz(w.storage.data(), MOE_INT8, {2, 20, 40}, 16);
          }) == MOE_ERROR_INVALID);
    CHECK(last_message() == "out: tiles of 16 columns, needed 32");
    CHECK(refused([](Weight& w) { w.t_storage.storage_shape[1] = 3; }) == MOE_ERROR_INVALID);
}

TEST_CASE("memory") {
    Weight weight;
    weight.t_plain.data = nullptr;
    CHECK(moe_format_cast_check(&weight.to_nz) == MOE_OK);
    CHECK(run(weight.to_nz) == MOE_ERROR_NULL);
    weight.t_plain.data = weight.plain.data();
    weight.t_storage.data = nullptr;
    CHECK(run(weight.to_nz) == MOE_ERROR_NULL);
    weight.t_storage.data = weight.plain.data();
    CHECK(run(weight.to_nz) == MOE_ERROR_INVALID);
    CHECK(last_message() == "out: the memory of input, needed other memory or in_place");

    std::vector<int8_t> nothing;
    moe_tensor empty = tensor(nothing, MOE_INT8, {0, 20, 40});
    moe_tensor empty_storage = nz(nullptr, MOE_INT8, {0, 20, 40}, 32);
    CHECK(run({&empty, MOE_FORMAT_NZ, 0, false, &empty_storage}) == MOE_OK);
    CHECK(run({&empty, MOE_FORMAT_NZ, 0, true, &empty_storage}) == MOE_OK);
}

TEST_CASE("in place, both ways") {
    Weight weight;
    REQUIRE(run(weight.to_nz) == MOE_OK);
    std::vector<int8_t> memory(4096, 77);
    std::copy(weight.plain.begin(), weight.plain.end(), memory.begin());
    moe_tensor plain = tensor(memory, MOE_INT8, {2, 20, 40});
    moe_tensor storage = nz(memory.data(), MOE_INT8, {2, 20, 40}, 32);

    const moe_format_cast_args to_nz{&plain, MOE_FORMAT_NZ, 0, true, &storage};
    moe_plan plan;
    REQUIRE(moe_format_cast_plan(&to_nz, &plan) == MOE_OK);
    CHECK(plan.piece_count == 1);
    CHECK(std::string(plan.pieces[0].name) == "input");
    CHECK(plan.pieces[0].size == 1600);
    REQUIRE(run(to_nz) == MOE_OK);
    CHECK(memory == weight.storage);

    const moe_format_cast_args to_nd{&storage, MOE_FORMAT_ND, 0, true, &plain};
    REQUIRE(moe_format_cast_plan(&to_nd, &plan) == MOE_OK);
    CHECK(plan.pieces[0].size == 4096);
    REQUIRE(run(to_nd) == MOE_OK);
    CHECK(std::equal(weight.plain.begin(), weight.plain.end(), memory.begin()));

    // Otherwise nothing is booked, and a plan of the other kind does not fit.
    REQUIRE(moe_format_cast_plan(&weight.to_nz, &plan) == MOE_OK);
    CHECK(plan.workspace_size == 0);
    CHECK(moe_format_cast_run(&to_nz, &plan, nullptr, 0, nullptr) == MOE_ERROR_INVALID);
}

TEST_CASE("a strided source in place, and a strided result") {
    // (20, 40) transposed in memory.
    std::vector<int16_t> memory(2048, 9);
    std::vector<int16_t> matrix(800);
    std::iota(matrix.begin(), matrix.end(), int16_t{1});
    for (size_t k = 0; k < 20; ++k)
        for (size_t n = 0; n < 40; ++n) memory[n * 20 + k] = matrix[k * 40 + n];
    moe_tensor plain = tensor(memory, MOE_INT16, {20, 40});
    plain.stride[0] = 2;
    plain.stride[1] = 40;
    moe_tensor storage = nz(memory.data(), MOE_INT16, {20, 40}, 32);
    REQUIRE(run({&plain, MOE_FORMAT_NZ, 32, true, &storage}) == MOE_OK);
    for (int64_t k = 0; k < 20; ++k)
        for (int64_t n = 0; n < 40; ++n)
            CHECK(memory[static_cast<size_t>(((n / 32 * 2 + k / 16) * 16 + k % 16) * 32 + n % 32)] ==
                  matrix[static_cast<size_t>(k * 40 + n)]);

    // Every other row, columns back to front.
    std::vector<int16_t> wide(1600, -7);
    moe_tensor result = tensor(wide, MOE_INT16, {20, 40});
    result.data = wide.data() + 39;
    result.stride[0] = 2 * 40 * 2;
    result.stride[1] = -2;
    REQUIRE(run({&storage, MOE_FORMAT_ND, 0, false, &result}) == MOE_OK);
    for (size_t k = 0; k < 40; ++k)
        for (size_t n = 0; n < 40; ++n) CHECK(wide[k * 40 + n] == (k % 2 == 0 ? matrix[k / 2 * 40 + 39 - n] : -7));
}
