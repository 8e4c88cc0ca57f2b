// Operands as kernels want them, contiguous and aligned, whatever the caller's strides are.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "core/workspace.h"

namespace moe {

// Copies `count` items of 1, 2, 4 or 8 bytes; strides in bytes.
void copy_line(int64_t count, int64_t item_size, char* target, int64_t target_stride, const char* source,
               int64_t source_stride);

// Copies between two views of the same shape; strides in bytes. Parallel when it pays.
void copy_strided(int threads, int32_t rank, const int64_t* shape, int64_t item_size, void* target,
                  const int64_t* target_stride, const void* source, const int64_t* source_stride);

// A tensor in plain storage as kernels want it. Absent (null) ones are fine.
class Operand {
  public:
    // Run step: makes the copy that was booked.
    Status load(const Workspace& workspace);

    explicit operator bool() const { return tensor_ != nullptr; }

  protected:
    // Plan step: books a copy if the view needs one, refuses FRACTAL_NZ. `name` must be a literal.
    void book(const Tensor* tensor, const char* name, Ledger& ledger);

    const Tensor* tensor_ = nullptr;
    const char* name_ = "";
    bool copied_ = false;
    int threads_ = 1;
    Piece copy_;
    int64_t copy_stride_[MOE_MAX_RANK] = {};
    void* data_ = nullptr;
};

class Input : public Operand {
  public:
    void book(const Tensor* tensor, const char* name, Ledger& ledger) { Operand::book(tensor, name, ledger); }

    // Null for an absent one.
    template <class T>
    const T* data() const {
        return static_cast<const T*>(data_);
    }
};

// A strided output is computed in a copy that starts with the caller's contents, so that parts an operator leaves alone
// stay as they were.
class Output : public Operand {
  public:
    void book(Tensor* tensor, const char* name, Ledger& ledger) { Operand::book(tensor, name, ledger); }
    // End of the run step: writes a copy back through the strides.
    void store() const;

    template <class T>
    T* data() const {
        return static_cast<T*>(data_);
    }
};

}  // namespace moe
