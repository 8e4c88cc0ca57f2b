// The probes: what they say they did, they did. How fast is the benchmark's business.
#include <doctest/doctest.h>

#include <cstring>
#include <vector>

#include "kernels/probe/probe_list.h"
#include "moe_native/moe_native.h"

using namespace moe;

TEST_CASE("passes over memory") {
    for (const auto& row : probe_kernel_list) {
        if (row.isa > isa_limit()) continue;
        CAPTURE(row.name);
        constexpr int64_t bytes = 3 * 512;
        alignas(64) unsigned char source[bytes], target[bytes + 64], sink[64];
        for (int64_t i = 0; i < bytes; ++i) source[i] = static_cast<unsigned char>(i * 7 + 1);
        std::memset(target, 0, sizeof target);
        row.table->copy(source, target, bytes);
        CHECK(std::memcmp(source, target, bytes) == 0);
        CHECK(target[bytes] == 0);
        row.table->write(target, bytes);
        CHECK(std::memcmp(target, target + 64, bytes - 64) == 0);
        CHECK(target[0] != 0);
        CHECK(target[bytes] == 0);
        // A different byte anywhere is seen.
        alignas(64) unsigned char first[64];
        row.table->read(source, bytes, first);
        for (int64_t i = 64; i < bytes; ++i) {
            source[i] ^= 1;
            row.table->read(source, bytes, sink);
            CHECK(std::memcmp(first, sink, sizeof first) != 0);
            source[i] ^= 1;
        }
    }
}

TEST_CASE("arithmetic depends on the number of rounds") {
    for (const auto& row : probe_kernel_list) {
        if (row.isa > isa_limit()) continue;
        CAPTURE(row.name);
        for (const ProbePeak* peak : {&row.table->int8, &row.table->float32, &row.table->bfloat16}) {
            CHECK(peak->operations >= 2 * 4 * probe_chains);
            unsigned char one[64] = {}, two[64] = {};
            peak->run(1, one);
            peak->run(2, two);
            CHECK(std::memcmp(one, two, sizeof one) != 0);
        }
    }
}

TEST_CASE("amounts") {
    uint64_t amount = 1;
    std::vector<unsigned char> memory(10 * 4096, 1);
    CHECK(moe_probe(MOE_PROBE_READ, memory.data(), memory.size(), 3, &amount) == MOE_OK);
    CHECK(amount >= 3 * 9 * 4096);
    CHECK(amount <= 3 * 10 * 4096);
    CHECK(moe_probe(MOE_PROBE_COPY, memory.data(), memory.size(), 1, &amount) == MOE_OK);
    CHECK(amount >= 8 * 4096);
    CHECK(moe_probe(MOE_PROBE_WRITE, memory.data(), 100, 1, &amount) == MOE_OK);
    CHECK(amount == 0);
    CHECK(moe_probe(MOE_PROBE_INT8, nullptr, 0, 5, &amount) == MOE_OK);
    const uint64_t one_round = amount / 5;
    CHECK(moe_probe(MOE_PROBE_INT8, nullptr, 0, 7, &amount) == MOE_OK);
    CHECK(amount == 7 * one_round);
    CHECK(moe_probe(MOE_PROBE_FLOAT32, nullptr, 0, 0, &amount) == MOE_OK);
    CHECK(amount == 0);
}

TEST_CASE("refusals") {
    uint64_t amount = 0;
    CHECK(moe_probe(MOE_PROBE_INT8, nullptr, 0, 1, nullptr) == MOE_ERROR_NULL);
    CHECK(std::strstr(moe_last_error()->message, "amount: null") != nullptr);
    CHECK(moe_probe(MOE_PROBE_READ, nullptr, 4096, 1, &amount) == MOE_ERROR_NULL);
    CHECK(moe_probe(static_cast<moe_probe_kind>(6), nullptr, 0, 1, &amount) == MOE_ERROR_INVALID);
    CHECK(moe_probe(MOE_PROBE_BFLOAT16, nullptr, 0, -1, &amount) == MOE_ERROR_INVALID);
    CHECK(std::strstr(moe_last_error()->message, "rounds: -1, needed >= 0") != nullptr);
}
