// Limits of a card, which a user can ask to be enforced on top of what the CPU needs.
#pragma once

#include "core/status.h"
#include "moe_native/runtime.h"

namespace moe {

// The limits that hold for this thread: what moe_set_limits said, else MOE_NATIVE_LIMITS, else none.
moe_limits limits();

// Fails when MOE_NATIVE_LIMITS names limits that do not exist.
Status limits_environment();

}  // namespace moe
