// Which instruction set the kernels may use: asked of the processor once, before any of them runs.
#pragma once

#include "core/status.h"

namespace moe {

// In ascending order: a set contains those above it in this list that its architecture has.
enum class Isa {
    baseline = 0,
#if defined(__x86_64__)
    avx2,    // with FMA and F16C
    avx512,  // F, BW, DQ, VL
    avx512vnni,
    avx512bf16,
#elif defined(__aarch64__)
    neon,  // what every aarch64 processor has, by intrinsics
    dotprod,
    i8mm,
#endif
};

// The highest set that may be used: what the processor has, within the limit set by the user.
Isa isa_limit();

// Fails when MOE_NATIVE_ISA names a set that is unknown or missing here.
Status isa_environment();

// One implementation of a kernel family.
template <class Table>
struct KernelRow {
    const char* name;
    Isa isa;
    const Table* table;
};

// The best row within the limit. Rows stand in ascending order, the first is for every processor.
template <class Table, int count>
const Table& choose(const KernelRow<Table> (&rows)[count]) {
    const Isa limit = isa_limit();
    int best = 0;
    for (int i = 1; i < count; ++i)
        if (rows[i].isa <= limit) best = i;
    return *rows[best].table;
}

}  // namespace moe
