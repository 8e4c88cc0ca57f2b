#include "moe_native/runtime.h"

const char* moe_version(void) {
    return MOE_NATIVE_VERSION;
}
