#pragma once

#include <cstdint>

namespace moe {

// Rounded up, for value >= 0; does not overflow.
constexpr int64_t ceil_divide(int64_t value, int64_t divisor) {
    return value / divisor + (value % divisor != 0 ? 1 : 0);
}

}  // namespace moe
