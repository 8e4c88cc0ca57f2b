#include "core/limits.h"

#include <cstdlib>
#include <cstring>

namespace moe {
namespace {

// Negative until moe_set_limits was called on this thread.
thread_local int own_limits = -1;

struct Environment {
    moe_limits limits = MOE_LIMITS_NONE;
    const char* unknown = nullptr;
};

const Environment& environment() {
    static const Environment known = [] {
        const char* name = std::getenv("MOE_NATIVE_LIMITS");
        Environment read;
        if (name == nullptr || name[0] == '\0' || std::strcmp(name, "none") == 0) return read;
        if (std::strcmp(name, "atlas-a2") == 0)
            read.limits = MOE_LIMITS_ATLAS_A2;
        else if (std::strcmp(name, "seed") == 0)
            read.limits = MOE_LIMITS_SEED;
        else
            read.unknown = name;
        return read;
    }();
    return known;
}

}  // namespace

moe_limits limits() {
    return own_limits < 0 ? environment().limits : static_cast<moe_limits>(own_limits);
}

Status limits_environment() {
    if (own_limits >= 0 || environment().unknown == nullptr) return MOE_OK;
    return fail(MOE_ERROR_RUNTIME, Kind::runtime, "MOE_NATIVE_LIMITS",
                "unknown limits \"%s\", needed \"none\", \"atlas-a2\" or \"seed\"", environment().unknown);
}

}  // namespace moe

moe_limits moe_set_limits(moe_limits limits) {
    const moe_limits previous = moe::limits();
    const bool known = limits == MOE_LIMITS_ATLAS_A2 || limits == MOE_LIMITS_SEED;
    moe::own_limits = known ? limits : MOE_LIMITS_NONE;
    return previous;
}
