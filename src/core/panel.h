// How the elements of a panel, 32 columns of a weight, lie in memory: what kernels consume, and packed weights hold.
#pragma once

#include <cstdint>

namespace moe {

// The numbers stand in files: a layout never changes, a new one gets a new number.
enum class PanelLayout : int64_t {
    rows = 1,
    pairs_of_16 = 2,    // int16
    flipped_quads = 3,  // unsigned, in the order that interleaving in 128-bit lanes yields
    pairs = 4,
    quads = 5,
    octets = 6,
};
constexpr int64_t panel_layouts = 6;

constexpr int64_t panel_width = 32;

struct PanelOrder {
    int64_t step;       // consecutive k of a column that lie side by side; divides 16
    int64_t item_size;  // bytes of an element
    bool flipped;       // the sign bit: elements are the weight + 128
    bool crossed;       // columns stand in the order 0-3, 16-19, 4-7, 20-23, ...

    // Elements of `k` rows. A panel ends with a whole step.
    int64_t size(int64_t k) const { return (k + step - 1) / step * step * panel_width; }
    // Where the element of row t and column j is.
    int64_t place(int64_t t, int64_t j) const {
        const int64_t column = crossed ? j % 16 / 4 * 8 + j / 16 * 4 + j % 4 : j;
        return (t / step * panel_width + column) * step + t % step;
    }
};

constexpr PanelOrder panel_order(PanelLayout layout) {
    switch (layout) {
        case PanelLayout::rows:
            return {1, 1, false, false};
        case PanelLayout::pairs_of_16:
            return {2, 2, false, false};
        case PanelLayout::flipped_quads:
            return {4, 1, true, true};
        case PanelLayout::pairs:
            return {2, 1, false, false};
        case PanelLayout::quads:
            return {4, 1, false, false};
        case PanelLayout::octets:
            return {8, 1, false, false};
    }
    return {};
}

}  // namespace moe
