// Quantisation of rows to int8, one after the other, in steps that can be done between other things.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/divide.h"
#include "kernels/rows/rows.h"

namespace moe {

class RowQuantiser {
  public:
    struct Row {
        const char* values;
        const float* factors;  // that values are multiplied by before, or null
    };
    struct Static {
        float scale;
        float offset;
    };

    // `fixed` is null for a scale of the row itself. `buffer` holds n floats when there are factors.
    RowQuantiser(const RowKernels& kernels, Dtype dtype, const Static* fixed, int64_t n, float* buffer)
        : kernels_(kernels), dtype_(dtype), fixed_(fixed), n_(n), buffer_(buffer) {}

    // The next row, and one that is read ahead meanwhile, or null.
    void begin(Row row, int8_t* codes, const char* ahead) {
        row_ = row;
        codes_ = codes;
        ahead_ = ahead;
        step_ = 0;
        largest_ = 0.0f;
        scale_ = 0.0f;
    }

    // Does part `part` of `parts` of the work, in ascending order.
    void advance(int64_t part, int64_t parts) {
        for (const int64_t end = steps() * (part + 1) / parts; step_ < end; ++step_) {
            if (ahead_ != nullptr) read_ahead();
            if (step_ < tiles())
                measure(step_ * tile);
            else
                quantise((step_ - tiles()) * tile);
        }
    }

    void complete() { advance(0, 1); }

    // Of the complete row.
    float scale() const { return scale_; }

  private:
    static constexpr int64_t tile = 1024;

    int64_t tiles() const { return ceil_divide(n_, tile); }
    int64_t steps() const { return 2 * tiles(); }

    // The share of one step.
    void read_ahead() const {
        constexpr int64_t line = 64;
        const int64_t lines = n_ * moe_dtype_size(dtype_) / line;
        for (int64_t i = lines * step_ / steps(); i < lines * (step_ + 1) / steps(); ++i)
            __builtin_prefetch(ahead_ + i * line, 0, 2);
    }

    void measure(int64_t column) {
        if (fixed_ != nullptr) return;
        const int64_t count = std::min(tile, n_ - column);
        const char* values = row_.values + column * moe_dtype_size(dtype_);
        float largest;
        if (row_.factors == nullptr) {
            largest = largest_magnitude(kernels_, dtype_, values, count);
        } else {
            float* products = buffer_ + column;
            widen_row(kernels_, dtype_, values, products, count);
            kernels_.multiply(products, row_.factors + column, count);
            largest = kernels_.largest_magnitude(products, count);
        }
        // NaN stays.
        if (largest > largest_ || largest != largest) largest_ = largest;
        if (column + count == n_) scale_ = scale_of_largest(largest_);
    }

    void quantise(int64_t column) {
        const int64_t count = std::min(tile, n_ - column);
        const char* values = row_.values + column * moe_dtype_size(dtype_);
        int8_t* codes = codes_ + column;
        if (fixed_ != nullptr) {
            alignas(64) float widened[tile];
            widen_row(kernels_, dtype_, values, widened, count);
            kernels_.quantise_static(widened, fixed_->scale, fixed_->offset, codes, count);
        } else if (row_.factors == nullptr) {
            quantise_by_scale(kernels_, dtype_, values, scale_, codes, count);
        } else {
            quantise_by_scale(kernels_, MOE_FLOAT32, buffer_ + column, scale_, codes, count);
        }
    }

    const RowKernels& kernels_;
    Dtype dtype_;
    const Static* fixed_;
    int64_t n_;
    float* buffer_;
    Row row_ = {nullptr, nullptr};
    int8_t* codes_ = nullptr;
    const char* ahead_ = nullptr;
    int64_t step_ = 0;
    float largest_ = 0.0f;
    float scale_ = 0.0f;
};

}  // namespace moe
