#include <dlfcn.h>
#include <omp.h>

#include "core/cpu.h"
#include "moe_native/info.h"
#include "moe_native/runtime.h"

const char* moe_version(void) {
    return MOE_NATIVE_VERSION;
}

void moe_get_config(moe_config* config) {
    Dl_info openmp;
    const bool found = dladdr(reinterpret_cast<void*>(&omp_get_max_threads), &openmp) != 0;
    *config = {
        MOE_NATIVE_VERSION,
        __VERSION__,
        MOE_NATIVE_FLAGS,
        moe::isa_name(moe::isa_of_processor()),
        moe_get_isa_limit(),
        moe::isa_origin(),
        found && openmp.dli_fname != nullptr ? openmp.dli_fname : "",
        _OPENMP,
        moe_get_num_threads(),
    };
}
