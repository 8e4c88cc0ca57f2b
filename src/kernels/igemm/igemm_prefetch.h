// Reading ahead between the steps of a product. Included by one file per instruction set.
#include "kernels/igemm/igemm.h"

namespace moe {
namespace {

// Prefetches in equal shares, one for each stretch of steps.
template <int64_t stretch = 8>
class Prefetcher {
  public:
    static constexpr int64_t steps_at_once = stretch;

    Prefetcher(const Ahead& ahead, int64_t steps)
        : place_(ahead.first),
          stride_(ahead.stride),
          lines_(ahead.lines),
          left_(ahead.count),
          share_((ahead.count * stretch + steps - 1) / steps) {}

    // Before a stretch.
    void operator()() {
        for (int64_t i = 0; i < share_ && left_ > 0; ++i, --left_, place_ += stride_)
            for (int64_t line = 0; line < lines_; ++line) __builtin_prefetch(place_ + 64 * line, 0, 2);
    }

    // Before every step, where a loop over stretches around one over steps makes GCC 12 keep sums in memory.
    void before(int64_t step) {
        if (step % stretch == 0) (*this)();
    }

  private:
    const char* place_;
    int64_t stride_;
    int64_t lines_;
    int64_t left_;
    int64_t share_;
};

}  // namespace
}  // namespace moe
