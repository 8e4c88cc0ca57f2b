// All kernel families, for those who want to know about them.
#pragma once

#include <cstdint>

#include "core/cpu.h"

namespace moe {

struct Tile {
    int32_t rows;
    int32_t columns;
};

// A family without the type of its tables.
struct KernelFamily {
    const char* name;
    const void* rows;  // the list, as note_choice knows it
    int count;
    int first_choice;  // rows before it define results, calls never use them
    const char* (*name_of)(int row);
    Isa (*isa_of)(int row);
    Tile (*tile_of)(int row);
};

constexpr int kernel_family_count = 9;
extern const KernelFamily kernel_families[kernel_family_count];

}  // namespace moe
