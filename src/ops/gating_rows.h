// Rows of a gating, and what threads work on them in.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/divide.h"
#include "core/threads.h"
#include "core/workspace.h"
#include "kernels/gating/gating.h"

namespace moe {

class GatingRows {
  public:
    // Some rows, [first, first + count), and memory for them: scores[count][experts], weights[count][k], and keys as
    // `select` takes them.
    struct Batch {
        int64_t first;
        int64_t count;
        float* scores;
        float* weights;
        int32_t* keys;
        int thread;
    };

    void book(int64_t rows, int64_t experts, int64_t k, Ledger& ledger) {
        rows_ = rows;
        // A thread pays from about 16 Ki scores on, a call of the kernels for several rows up to about as many.
        constexpr int64_t grain = 16 * 1024;
        threads_ = static_cast<int>(std::clamp<int64_t>(rows * experts / grain, 1, ledger.threads()));
        most_ = std::min<int64_t>(rows, std::clamp<int64_t>(grain / std::max<int64_t>(1, experts), 1, 8));
        scores_size_ = padded(most_ * experts);
        weights_size_ = padded(most_ * k);
        keys_size_ = most_ * selection_size(experts);
        scores_ = ledger.book<float>("scores", threads_ * scores_size_);
        weights_ = ledger.book<float>("weights", threads_ * weights_size_);
        keys_ = ledger.book<int32_t>("keys", threads_ * keys_size_);
    }

    int threads() const { return threads_; }
    // Rows of a batch, at most.
    int64_t most() const { return most_; }

    // Pieces of different threads do not share cache lines.
    static int64_t padded(int64_t count) { return ceil_divide(count, 16) * 16; }

    // Calls body(batch) for batches that cover all rows.
    template <class Body>
    void for_each_batch(const Workspace& workspace, Body&& body) const {
        parallel_ranges(threads_, rows_, 1, [&](int thread, int64_t begin, int64_t end) {
            Batch batch = {begin,
                           0,
                           workspace.at<float>(scores_) + thread * scores_size_,
                           workspace.at<float>(weights_) + thread * weights_size_,
                           workspace.at<int32_t>(keys_) + thread * keys_size_,
                           thread};
            for (; batch.first < end; batch.first += batch.count) {
                batch.count = std::min(most_, end - batch.first);
                body(batch);
            }
        });
    }

  private:
    int64_t rows_ = 0;
    int64_t most_ = 0;
    int threads_ = 1;
    int64_t scores_size_ = 0, weights_size_ = 0, keys_size_ = 0;
    Piece scores_, weights_, keys_;
};

}  // namespace moe
