// How the columns of a weight lie in packed weights: panel by panel.
#pragma once

#include <cstdint>

namespace moe {

// The numbers stand in files: a layout never changes, a new one gets a new number.
enum class PanelLayout : int64_t {
    rows = 1,           // as the tiles of FRACTAL_NZ
    flipped_quads = 2,  // unsigned, fours of columns in turn from both halves of the panel
    pairs = 3,
    quads = 4,
    octets = 5,
    // Of floating types, which lie as they are: rows of so many columns.
    floats_8 = 6,
    floats_16 = 7,
    floats_64 = 8,
    float_pairs_64 = 9,  // of two bytes: rows two by two, the pair of a column side by side
};

// Bytes: panels of 32 columns.
constexpr int64_t panel_width = 32;

struct PanelOrder {
    int64_t step;  // consecutive k of a column that lie side by side; divides 16
    bool flipped;  // the sign bit: bytes are the weight + 128
    bool crossed;  // columns stand in the order 0-3, 16-19, 4-7, 20-23, ...

    // Bytes of `k` rows. A panel ends with a whole step.
    int64_t size(int64_t k) const { return (k + step - 1) / step * step * panel_width; }
    // Where the byte of row t and column j is.
    int64_t place(int64_t t, int64_t j) const {
        const int64_t column = crossed ? j % 16 / 4 * 8 + j / 16 * 4 + j % 4 : j;
        return (t / step * panel_width + column) * step + t % step;
    }
};

constexpr PanelOrder panel_order(PanelLayout layout) {
    switch (layout) {
        case PanelLayout::rows:
            return {1, false, false};
        case PanelLayout::flipped_quads:
            return {4, true, true};
        case PanelLayout::pairs:
            return {2, false, false};
        case PanelLayout::quads:
            return {4, false, false};
        case PanelLayout::octets:
            return {8, false, false};
        default:
            return {};
    }
}

// Floats: panels of `width` columns, `step` consecutive k of a column side by side.
struct FloatPanelOrder {
    int64_t width;
    int64_t step;

    // The last panel is no wider than the next multiple of it.
    int64_t unit() const { return width < 16 ? width : 16; }
};

constexpr FloatPanelOrder float_panel_order(PanelLayout layout) {
    switch (layout) {
        case PanelLayout::floats_8:
            return {8, 1};
        case PanelLayout::floats_16:
            return {16, 1};
        case PanelLayout::floats_64:
            return {64, 1};
        case PanelLayout::float_pairs_64:
            return {64, 2};
        default:
            return {};
    }
}

// That of panels as wide as a tile of the kernels.
template <int width>
constexpr PanelLayout float_layout() {
    static_assert(width == 8 || width == 16 || width == 64);
    return width == 8 ? PanelLayout::floats_8 : width == 16 ? PanelLayout::floats_16 : PanelLayout::floats_64;
}

}  // namespace moe
