#include "core/cpu.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "moe_native/runtime.h"

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace moe {
namespace {

constexpr const char* names[] = {
    "baseline",
#if defined(__x86_64__)
    "avx2",     "avx512", "avx512vnni", "avx512bf16",
#elif defined(__aarch64__)
    "neon",
    "dotprod",
    "i8mm",
#endif
};
constexpr int name_count = sizeof names / sizeof names[0];

Isa detect() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
        return Isa::baseline;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return Isa::avx2;
    if (!__builtin_cpu_supports("avx512vnni")) return Isa::avx512;
    if (!__builtin_cpu_supports("avx512bf16")) return Isa::avx512vnni;
    return Isa::avx512bf16;
#elif defined(__aarch64__)
    constexpr unsigned long hwcap_asimddp = 1UL << 20;
    constexpr unsigned long hwcap2_i8mm = 1UL << 13;
    if (!(getauxval(AT_HWCAP) & hwcap_asimddp)) return Isa::neon;
    return getauxval(AT_HWCAP2) & hwcap2_i8mm ? Isa::i8mm : Isa::dotprod;
#else
    return Isa::baseline;
#endif
}

Isa detected() {
    static const Isa isa = detect();
    return isa;
}

Status find(const char* name, const char* argument, Isa* isa) {
    for (int i = 0; i < name_count; ++i) {
        if (std::strcmp(name, names[i]) != 0) continue;
        if (static_cast<Isa>(i) > detected())
            return fail(MOE_ERROR_RUNTIME, Kind::runtime, argument, "this processor has no %s, its best is %s", name,
                        names[static_cast<int>(detected())]);
        *isa = static_cast<Isa>(i);
        return MOE_OK;
    }
    return fail(MOE_ERROR_RUNTIME, Kind::runtime, argument, "unknown instruction set \"%s\", needed \"baseline\"%s",
                name,
#if defined(__x86_64__)
                ", \"avx2\", \"avx512\", \"avx512vnni\" or \"avx512bf16\""
#elif defined(__aarch64__)
                ", \"neon\", \"dotprod\" or \"i8mm\""
#else
                ""
#endif
    );
}

// -1 until it is known, so that the environment is read at the first call and not at load.
std::atomic<int> limit{-1};
std::atomic<const char*> origin{""};

struct Choice {
    const void* rows;
    int row;
};
constexpr int most_choices = 32;
struct Choices {
    bool watching;
    int count;
    Choice made[most_choices];
};
thread_local Choices choices{};

const char* environment() {
    const char* name = std::getenv("MOE_NATIVE_ISA");
    return name == nullptr ? "" : name;
}

Status from_environment(Isa* isa) {
    const char* name = environment();
    *isa = detected();
    return name[0] == '\0' ? static_cast<Status>(MOE_OK) : find(name, "MOE_NATIVE_ISA", isa);
}

}  // namespace

Status isa_environment() {
    if (limit.load(std::memory_order_relaxed) >= 0) return MOE_OK;
    Isa isa;
    MOE_TRY(from_environment(&isa));
    int unknown = -1;
    if (limit.compare_exchange_strong(unknown, static_cast<int>(isa), std::memory_order_relaxed))
        origin.store(environment()[0] == '\0' ? "processor" : "MOE_NATIVE_ISA", std::memory_order_relaxed);
    return MOE_OK;
}

const char* isa_name(Isa isa) {
    return names[static_cast<int>(isa)];
}

Isa isa_of_processor() {
    return detected();
}

bool folds_broadcasts() {
#if defined(__x86_64__)
    static const bool intel = [] {
        __builtin_cpu_init();
        return __builtin_cpu_is("intel") != 0;
    }();
    return intel;
#else
    return false;
#endif
}

const char* isa_origin() {
    isa_limit();
    return origin.load(std::memory_order_relaxed);
}

void watch_choices(bool watch) {
    if (watch) choices.count = 0;
    choices.watching = watch;
}

bool was_chosen(const void* rows, int row) {
    for (int i = 0; i < choices.count; ++i)
        if (choices.made[i].rows == rows && choices.made[i].row == row) return true;
    return false;
}

void note_choice(const void* rows, int row) {
    if (!choices.watching || choices.count == most_choices || was_chosen(rows, row)) return;
    choices.made[choices.count++] = {rows, row};
}

Isa isa_limit() {
    const int known = limit.load(std::memory_order_relaxed);
    // Without a usable environment nothing above the floor is safe to assume; every operator refuses before
    // this.
    if (known < 0) return isa_environment() == MOE_OK ? isa_limit() : Isa::baseline;
    return static_cast<Isa>(known);
}

}  // namespace moe

moe_status moe_set_isa_limit(const char* name) {
    moe::Isa isa = moe::detected();
    if (name != nullptr && name[0] != '\0') MOE_TRY(moe::find(name, "isa", &isa));
    moe::limit.store(static_cast<int>(isa), std::memory_order_relaxed);
    moe::origin.store(name != nullptr && name[0] != '\0' ? "moe_set_isa_limit" : "processor",
                      std::memory_order_relaxed);
    return MOE_OK;
}

const char* moe_get_isa_limit(void) {
    return moe::isa_name(moe::isa_limit());
}
