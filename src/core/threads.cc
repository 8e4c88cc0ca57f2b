#include "core/threads.h"

#include <pthread.h>

#include <atomic>
#include <climits>

#include "core/status.h"
#include "moe_native/runtime.h"

namespace moe {
namespace {

std::atomic<int> requested_threads{0};
thread_local bool forked = false;

// What OpenMP would use before anyone lowered it for a thread.
int default_threads() {
    static const int threads = omp_get_max_threads();
    return threads;
}

struct AtLoad {
    AtLoad() {
        default_threads();
        pthread_atfork(nullptr, nullptr, [] { forked = true; });
    }
} at_load;

}  // namespace

int team_size(int limit) {
    if (forked) return 1;
    const int openmp = omp_get_max_threads();
    const int requested = requested_threads.load(std::memory_order_relaxed);
    // A count lowered through OpenMP (threadpoolctl, omp_set_num_threads) is a limit; the initial one is a
    // default.
    const int lowered = openmp < default_threads() ? openmp : INT_MAX;
    return std::max(1, std::min({requested > 0 ? requested : openmp, lowered, limit, most_threads}));
}

}  // namespace moe

moe_status moe_set_num_threads(int32_t threads) {
    if (threads < 0)
        return moe::fail(MOE_ERROR_INVALID, moe::Kind::value, "threads", "%d, needed >= 0 (0 follows OpenMP)", threads);
    moe::requested_threads.store(threads, std::memory_order_relaxed);
    return MOE_OK;
}

int32_t moe_get_num_threads(void) {
    return moe::team_size(INT_MAX);
}
