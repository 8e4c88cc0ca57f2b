// What the environment and moe_aclnn.h decide about the device.
#pragma once

#include <string>

#include "aclnn/findings.h"
#include "aclnn/moe_aclnn.h"

namespace moe::device {

using Mode = moe_aclnn_mode;

Mode mode();
bool option(moe_aclnn_option option);
inline bool deferred() {
    return option(MOE_ACLNN_OPTION_DEFERRED);
}

// The chip as aclrtGetSocName tells it; the text lives as long as the process.
const char* soc_name();

// Of a variable with an impossible value: "MOE_ACLNN_MODE: loud, needed one of ..."; empty when all is well.
const std::string& environment_fault();

}  // namespace moe::device
