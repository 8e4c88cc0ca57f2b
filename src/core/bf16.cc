#include "core/bf16.h"

#include <cstdlib>
#include <cstring>

#include "moe_native/runtime.h"

namespace moe {
namespace {

// Negative until moe_set_bf16_mode was called on this thread.
thread_local int own_mode = -1;

struct Environment {
    moe_bf16_mode mode = MOE_BF16_FAST;
    const char* unknown = nullptr;
};

const Environment& environment() {
    static const Environment known = [] {
        const char* name = std::getenv("MOE_NATIVE_BF16");
        Environment read;
        if (name == nullptr || name[0] == '\0' || std::strcmp(name, "fast") == 0) return read;
        if (std::strcmp(name, "exact") == 0)
            read.mode = MOE_BF16_EXACT;
        else if (std::strcmp(name, "dot") == 0)
            read.mode = MOE_BF16_DOT;
        else
            read.unknown = name;
        return read;
    }();
    return known;
}

// Intel's processors take four cycles where two FMA instructions, which do the same work, take one and a half.
bool dot_is_fast() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    return !__builtin_cpu_is("intel");
#else
    return true;
#endif
}

moe_bf16_mode mode() {
    return own_mode < 0 ? environment().mode : static_cast<moe_bf16_mode>(own_mode);
}

}  // namespace

bool bf16_dot() {
    return mode() == MOE_BF16_DOT || (mode() == MOE_BF16_FAST && dot_is_fast());
}

Status bf16_environment() {
    if (own_mode >= 0 || environment().unknown == nullptr) return MOE_OK;
    return fail(MOE_ERROR_RUNTIME, Kind::runtime, "MOE_NATIVE_BF16",
                "unknown mode \"%s\", needed \"fast\", \"exact\" or \"dot\"", environment().unknown);
}

}  // namespace moe

moe_bf16_mode moe_set_bf16_mode(moe_bf16_mode mode) {
    const moe_bf16_mode previous = moe::mode();
    moe::own_mode = mode == MOE_BF16_EXACT || mode == MOE_BF16_DOT ? mode : MOE_BF16_FAST;
    return previous;
}
