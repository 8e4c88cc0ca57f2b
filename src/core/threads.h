// OpenMP, in one place. Work is split statically, so that a thread count never changes a result.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace moe {

// The largest team. Scratch grows with the team, and libgomp ends the process when the system gives it no thread.
constexpr int most_threads = 1024;

// Threads that a parallel region of this thread may use: every region says num_threads(team_size(...)). At
// most `limit` and most_threads. In the thread of a forked child that did the fork it is 1: the runtime's pool
// did not survive there.
int team_size(int limit);

// Splits [0, count) into one contiguous range per thread and calls body(thread, begin, end) for each that is
// not empty. Uses no more than `threads` threads, no region for one, and a thread only for `grain` items or
// more.
template <class Body>
void parallel_ranges(int threads, int64_t count, int64_t grain, Body&& body) {
    const int64_t useful = std::max<int64_t>(1, count / std::max<int64_t>(1, grain));
    const int limit = static_cast<int>(std::min<int64_t>(threads, useful));
    if (limit <= 1) {
        if (count > 0) body(0, static_cast<int64_t>(0), count);
        return;
    }
#pragma omp parallel num_threads(team_size(limit))
    {
        const int64_t team = omp_get_num_threads();
        const int64_t thread = omp_get_thread_num();
        const int64_t share = count / team;
        const int64_t rest = count % team;
        const int64_t begin = thread * share + std::min(thread, rest);
        const int64_t end = begin + share + (thread < rest ? 1 : 0);
        if (begin < end) body(static_cast<int>(thread), begin, end);
    }
}

}  // namespace moe
