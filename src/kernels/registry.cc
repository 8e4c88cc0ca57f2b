#include "kernels/registry.h"

#include "kernels/combine/combine_list.h"
#include "kernels/copy/copy_list.h"
#include "kernels/fgemm/fgemm_list.h"
#include "kernels/gating/gating_list.h"
#include "kernels/igemm/igemm_list.h"
#include "kernels/probe/probe_list.h"
#include "kernels/qgemm/qgemm_list.h"
#include "kernels/rows/rows_list.h"

namespace moe {
namespace {

template <class Table>
Tile tile(const Table&) {
    return {0, 0};
}
Tile tile(const IgemmKernels& kernels) {
    return {static_cast<int32_t>(kernels.rows), static_cast<int32_t>(igemm::columns)};
}
Tile tile(const FgemmKernels& kernels) {
    return {kernels.mr, kernels.nr};
}
Tile tile(const QgemmKernels& kernels) {
    return {kernels.mr, kernels.nr};
}

template <auto& rows>
constexpr KernelFamily family(const char* name, int first_choice = 0) {
    return {
        name,
        rows,
        static_cast<int>(sizeof rows / sizeof rows[0]),
        first_choice,
        [](int row) { return rows[row].name; },
        [](int row) { return rows[row].isa; },
        [](int row) { return tile(*rows[row].table); },
    };
}

}  // namespace

const KernelFamily kernel_families[kernel_family_count] = {
    family<row_kernel_list>("rows"),    family<gating_kernel_list>("gating"),
    family<copy_kernel_list>("copy"),   family<combine_kernel_list>("combine"),
    family<igemm_kernel_list>("igemm"), family<qgemm_kernel_list>("qgemm"),
    family<fgemm_kernel_list>("fgemm"), family<fgemm_pairs_kernel_list>("fgemm pairs", 1),
    family<probe_kernel_list>("probe"),
};

}  // namespace moe
