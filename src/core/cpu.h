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

const char* isa_name(Isa isa);

// The highest set that this processor has.
Isa isa_of_processor();

// The highest set that may be used: what the processor has, within the limit set by the user.
Isa isa_limit();

// What has set it: "processor", "MOE_NATIVE_ISA" or "moe_set_isa_limit".
const char* isa_origin();

// Whether instructions that broadcast a value from memory themselves pay. On Intel's processors they leave the decoder
// more for another program on the same core; on AMD's they take twice as long.
bool folds_broadcasts();

// Fails when MOE_NATIVE_ISA names a set that is unknown or missing here.
Status isa_environment();

// One implementation of a kernel family.
template <class Table>
struct KernelRow {
    const char* name;
    Isa isa;
    const Table* table;
};

// Choices of kernels that this thread has made since it started to watch, if it did: a list of rows is known by its
// address.
void watch_choices(bool watch);
void note_choice(const void* rows, int row);
bool was_chosen(const void* rows, int row);

// The best row within the limit. Rows stand in ascending order, the first is for every processor.
template <class Table, int count>
const Table& choose(const KernelRow<Table> (&rows)[count]) {
    const Isa limit = isa_limit();
    int best = 0;
    for (int i = 1; i < count; ++i)
        if (rows[i].isa <= limit) best = i;
    note_choice(rows, best);
    return *rows[best].table;
}

}  // namespace moe
