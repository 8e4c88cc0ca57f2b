// Whether products of bfloat16 may use the dot instruction, as moe_set_bf16_mode says.
#pragma once

#include "core/status.h"

namespace moe {

bool bf16_dot();

// Fails when MOE_NATIVE_BF16 names no mode.
Status bf16_environment();

}  // namespace moe
