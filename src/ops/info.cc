#include "moe_native/info.h"

#include "kernels/registry.h"

namespace {

moe_kernel_state state_of(const moe::KernelFamily& family, int row) {
    const moe::Isa isa = family.isa_of(row);
    if (isa > moe::isa_of_processor()) return MOE_KERNEL_UNSUPPORTED;
    if (isa > moe::isa_limit()) return MOE_KERNEL_ABOVE_LIMIT;
    for (int later = row + 1; later < family.count; ++later)
        if (family.isa_of(later) <= moe::isa_limit()) return MOE_KERNEL_SURPASSED;
    return row < family.first_choice ? MOE_KERNEL_REFERENCE : MOE_KERNEL_CHOSEN;
}

}  // namespace

int32_t moe_kernels(moe_kernel* kernels, int32_t capacity) {
    int32_t count = 0;
    for (const moe::KernelFamily& family : moe::kernel_families) {
        for (int row = 0; row < family.count; ++row, ++count) {
            if (count >= capacity) continue;
            const moe::Tile tile = family.tile_of(row);
            kernels[count] = {
                family.name,
                family.name_of(row),
                moe::isa_name(family.isa_of(row)),
                state_of(family, row),
                row >= family.first_choice && moe::was_chosen(family.rows, row),
                tile.rows,
                tile.columns,
            };
        }
    }
    return count;
}

void moe_watch_kernels(bool watch) {
    moe::watch_choices(watch);
}
