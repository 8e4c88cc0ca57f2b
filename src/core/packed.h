// Packed weights: their storage as operators see it, and the header in front of it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/divide.h"
#include "core/panel.h"
#include "core/tensor.h"
#include "moe_native/pack.h"

namespace moe {

inline bool is_packed(const Tensor& tensor) {
    return tensor.format == MOE_FORMAT_PACKED;
}

// The floating types that a weight may have.
inline bool is_float_weight(Dtype dtype) {
    return dtype == MOE_FLOAT32 || dtype == MOE_FLOAT16 || dtype == MOE_BFLOAT16;
}

// Of a tensor in MOE_FORMAT_PACKED that passed `required`. Of floats, panels are counted in units of their order.
struct PackedStorage {
    int64_t experts, k, n;
    int64_t panels;       // of an expert
    int64_t panel_bytes;  // of one
    PanelLayout layout;
    int64_t bytes() const { return experts * panels * panel_bytes; }
};
PackedStorage packed_storage(const Tensor& tensor);

// The panels of a packed tensor of a floating type; none are in a default one.
struct FloatPanels {
    char* data = nullptr;
    int64_t item = 0;
    int64_t n = 0;
    FloatPanelOrder order = {};
    int64_t stored_k = 0;
    int64_t expert_bytes = 0;

    FloatPanels() = default;
    explicit FloatPanels(const Tensor& tensor);
    explicit operator bool() const { return order.width > 0; }

    // Columns that the panel has which begins with this one.
    int64_t columns_from(int64_t first) const {
        return std::min(order.width, ceil_divide(n - first, order.unit()) * order.unit());
    }
    // Row k of the panel which begins with column `first`; with pairs, an even k.
    char* at(int64_t expert, int64_t first, int64_t k) const {
        return data + expert * expert_bytes + (first * stored_k + k * columns_from(first)) * item;
    }
    // From one panel to the next.
    int64_t stride() const { return order.width * stored_k * item; }
    // Whether kernels may read them: memory may begin at any byte.
    bool aligned() const { return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(item) == 0; }
    // Whether these columns are neighbours in memory, row by row.
    bool has_rows_of(int64_t column, int64_t columns) const {
        return order.step == 1 && column / order.width == (column + columns - 1) / order.width;
    }
    // Copies rows [k, k + rows) of these columns to and from plain rows, `row_bytes` apart. Padding stays as it is.
    void read(int64_t expert, int64_t k, int64_t rows, int64_t column, int64_t columns, char* target,
              int64_t row_bytes) const;
    void write(int64_t expert, int64_t k, int64_t rows, int64_t column, int64_t columns, const char* source,
               int64_t row_bytes) const;

  private:
    // Calls visit(stored, row, offset, count) for the runs of columns of a row that are in one panel: the first one's item
    // there, and its offset in a plain row.
    template <class Visit>
    void for_each_run(int64_t expert, int64_t k, int64_t rows, int64_t column, int64_t columns, Visit&& visit) const;
};

// The storage shape belongs to the shape. Dimensions must have been checked for size.
Status packed_consistent(const Tensor& tensor, const char* name);

// A packed tensor; complains about `name`. `memory` is that of the contents.
Status packed_describe(void* memory, Dtype dtype, int64_t experts, int64_t k, int64_t n, PanelLayout layout,
                       const char* name, Tensor* tensor);

// Writes the header of a packed tensor whose contents are there, in front of them.
void write_packed_header(const Tensor& tensor);

}  // namespace moe
