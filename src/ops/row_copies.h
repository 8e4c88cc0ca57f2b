// Copies of rows to their places in a result.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/cache.h"
#include "kernels/copy/copy.h"

namespace moe {

// A result of `rows` rows of `bytes` each, which the threads of a parallel_ranges fill together.
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
            if (count_ == most) copy(source, {nullptr, 0});
            rows_[count_++] = copies_.base_ + row * copies_.bytes_;
        }

        // Copies to all rows that were added since the last call. `ahead` is what this thread reads afterwards.
        void copy(const char* source, ReadAhead ahead) {
            copy(source, ahead, [](int64_t, int64_t) {});
        }

        // Between the copies, whose stores go on for a while, it calls work(i, n) for part i of n of other work, in
        // ascending order.
        template <class Work>
        void copy(const char* source, ReadAhead ahead, Work&& work) {
            const int64_t bytes = copies_.bytes_;
            const CopyKernels* streaming = copies_.streaming_;
            // Rows seldom begin and end with a line of the cache. The lines that two rows share are the only ones that
            // a copy reads, and it would wait for each of them.
            for (int64_t i = 0; streaming != nullptr && bytes > 0 && i < count_; ++i) {
                __builtin_prefetch(rows_[i], 1);
                __builtin_prefetch(rows_[i] + bytes - 1, 1);
            }
            const int64_t parts = std::max<int64_t>(1, count_);
            for (int64_t i = 0; i < parts; ++i) {
                const int64_t first = ahead.bytes * i / parts;
                const int64_t end = ahead.bytes * (i + 1) / parts;
                if (i < count_ && streaming != nullptr)
                    streaming->stream_and_read(rows_[i], source, bytes, {ahead.first + first, end - first});
                else if (i < count_ && bytes > 0)
                    std::memcpy(rows_[i], source, static_cast<size_t>(bytes));
                work(i, parts);
            }
            count_ = 0;
        }

      private:
        static constexpr int64_t most = 32;

        const RowCopies& copies_;
        char* rows_[most];
        int64_t count_ = 0;
    };

    bool streams() const { return streaming_ != nullptr; }

  private:
    char* base_;
    int64_t bytes_;
    const CopyKernels* streaming_;  // null when the result goes through the caches
};

}  // namespace moe
