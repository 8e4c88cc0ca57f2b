// Copies of rows to their places in a result.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/cache.h"
#include "kernels/copy/copy.h"

namespace moe {

// Rows of `bytes` each in a result of `rows` of them. What every thread of a parallel_ranges shares.
class RowCopies {
  public:
    RowCopies(char* base, int64_t rows, int64_t bytes)
        : base_(base), bytes_(bytes), streaming_(outgrows_caches(rows * bytes) ? &copy_kernels() : nullptr) {}

    // The rows that one source is copied to, collected by one thread.
    class Targets {
      public:
        explicit Targets(const RowCopies& copies) : copies_(copies) {}
        Targets(const Targets&) = delete;
        Targets& operator=(const Targets&) = delete;
        ~Targets() {
            if (copies_.streaming_ != nullptr) copies_.streaming_->end();
        }

        void add(int64_t row, const char* source) {
            if (count_ == most) copy(source, nullptr, 0);
            rows_[count_++] = copies_.base_ + row * copies_.bytes_;
        }

        // To all that were added since the last call. `next` is what the thread reads afterwards.
        void copy(const char* source, const char* next, int64_t next_bytes) {
            if (copies_.streaming_ != nullptr)
                copies_.streaming_->stream_to_all(rows_, count_, source, copies_.bytes_, next, next_bytes);
            else if (copies_.bytes_ > 0)
                for (int64_t i = 0; i < count_; ++i) std::memcpy(rows_[i], source, static_cast<size_t>(copies_.bytes_));
            count_ = 0;
        }

      private:
        static constexpr int64_t most = 32;

        const RowCopies& copies_;
        char* rows_[most];
        int64_t count_ = 0;
    };

  private:
    char* base_;
    int64_t bytes_;
    const CopyKernels* streaming_;  // null when the caches hold the result
};

}  // namespace moe
