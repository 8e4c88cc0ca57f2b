// What the processor is taken for, and which kernels follow from it.
#include <doctest/doctest.h>

#include <cstdlib>
#include <string>

#include "kernels/fgemm/fgemm_list.h"
#include "kernels/gating/gating_list.h"
#include "kernels/igemm/igemm_list.h"
#include "kernels/qgemm/qgemm_list.h"
#include "kernels/rows/rows_list.h"
#include "moe_native/runtime.h"

using namespace moe;

namespace {

// Set where the tests run on an emulated processor that is known.
const char* const emulated = std::getenv("MOE_TEST_ISA");

template <class Table, size_t count>
std::string name_of(const KernelRow<Table> (&rows)[count], const Table& chosen) {
    for (const auto& row : rows)
        if (row.table == &chosen) return row.name;
    return "none of the list";
}

template <class Table, size_t count>
bool best_within_limit(const KernelRow<Table> (&rows)[count], const Table& chosen) {
    const KernelRow<Table>* best = &rows[0];
    for (const auto& row : rows)
        if (row.isa <= isa_limit()) best = &row;
    return best->table == &chosen;
}

}  // namespace

TEST_CASE("the emulated processor is recognised" * doctest::skip(emulated == nullptr)) {
    CHECK(std::string(moe_get_isa_limit()) == emulated);
}

TEST_CASE("the last row of each family within the limit is taken") {
    for (const char* limit : {"", "baseline"}) {
        REQUIRE(moe_set_isa_limit(limit) == MOE_OK);
        CHECK(best_within_limit(igemm_kernel_list, igemm_kernels()));
        CHECK(best_within_limit(qgemm_kernel_list, qgemm_kernels()));
        CHECK(best_within_limit(fgemm_kernel_list, fgemm_kernels()));
        CHECK(best_within_limit(row_kernel_list, row_kernels()));
        CHECK(best_within_limit(gating_kernel_list, gating_kernels()));
    }
    CHECK(name_of(igemm_kernel_list, igemm_kernels()) == "baseline");
    moe_set_isa_limit(nullptr);
}

#if defined(__aarch64__)
TEST_CASE("matrix products take the instructions made for them") {
    for (const std::string isa : {"neon", "dotprod", "i8mm"}) {
        if (moe_set_isa_limit(isa.c_str()) != MOE_OK) continue;
        CHECK(name_of(igemm_kernel_list, igemm_kernels()) == isa);
        CHECK(name_of(qgemm_kernel_list, qgemm_kernels()) == isa);
        CHECK(name_of(fgemm_kernel_list, fgemm_kernels()) == "neon");
        CHECK(fgemm_kernels().fused);
    }
    moe_set_isa_limit(nullptr);
}
#endif
