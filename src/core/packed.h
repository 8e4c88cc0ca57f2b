// Packed weights: their storage as operators see it, and the header in front of it.
#pragma once

#include <cstdint>

#include "core/panel.h"
#include "core/tensor.h"
#include "moe_native/pack.h"

namespace moe {

inline bool is_packed(const Tensor& tensor) {
    return tensor.format == MOE_FORMAT_PACKED;
}

// Of a tensor in MOE_FORMAT_PACKED that passed `required`.
struct PackedStorage {
    int64_t experts, k, n;
    int64_t panels;       // of an expert
    int64_t panel_bytes;  // of one
    PanelLayout layout;
    int64_t bytes() const { return experts * panels * panel_bytes; }
};
PackedStorage packed_storage(const Tensor& tensor);

// The storage shape belongs to the shape. Dimensions must have been checked for size.
Status packed_consistent(const Tensor& tensor, const char* name);

// A packed tensor; complains about `name`. `memory` is that of the contents.
Status packed_describe(void* memory, Dtype dtype, int64_t experts, int64_t k, int64_t n, PanelLayout layout,
                       const char* name, Tensor* tensor);

// Writes the header of a packed tensor whose contents are there, in front of them.
void write_packed_header(const Tensor& tensor);

}  // namespace moe
