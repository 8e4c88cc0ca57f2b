#include "moe_native/probe.h"

#include <climits>

#include "core/cpu.h"
#include "core/status.h"
#include "core/threads.h"
#include "kernels/probe/probe.h"

namespace moe {
namespace {

constexpr int64_t page = 4096;

char* aligned(void* memory) {
    return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(memory) + page - 1) / page * page);
}

uint64_t accumulate(const ProbePeak& peak, int64_t rounds) {
    const int threads = team_size(INT_MAX);
    parallel_ranges(threads, threads, 1, [&](int, int64_t, int64_t) {
        alignas(64) char sink[64] = {};
        peak.run(rounds, sink);
    });
    return static_cast<uint64_t>(threads) * static_cast<uint64_t>(peak.operations) * static_cast<uint64_t>(rounds);
}

}  // namespace
}  // namespace moe

moe_status moe_probe(moe_probe_kind kind, void* memory, uint64_t size, int64_t rounds, uint64_t* amount) {
    using namespace moe;
    const OpScope scope("probe");
    MOE_TRY(isa_environment());
    if (amount == nullptr) return fail(MOE_ERROR_NULL, Kind::missing, "amount", "null");
    if (kind < MOE_PROBE_INT8 || kind > MOE_PROBE_COPY)
        return fail(MOE_ERROR_INVALID, Kind::value, "kind", "%d, needed 0 to 5", static_cast<int>(kind));
    if (rounds < 0)
        return fail(MOE_ERROR_INVALID, Kind::value, "rounds", "%lld, needed >= 0", static_cast<long long>(rounds));
    if (kind >= MOE_PROBE_READ && memory == nullptr) return fail(MOE_ERROR_NULL, Kind::missing, "memory", "null");
    const ProbeKernels& kernels = probe_kernels();
    if (kind == MOE_PROBE_INT8) *amount = accumulate(kernels.int8, rounds);
    if (kind == MOE_PROBE_FLOAT32) *amount = accumulate(kernels.float32, rounds);
    if (kind == MOE_PROBE_BFLOAT16) *amount = accumulate(kernels.bfloat16, rounds);
    if (kind < MOE_PROBE_READ) return MOE_OK;

    char* base = aligned(memory);
    const uint64_t lost = static_cast<uint64_t>(base - static_cast<char*>(memory));
    const int64_t halves = kind == MOE_PROBE_COPY ? 2 : 1;
    const int64_t pages = size <= lost ? 0 : static_cast<int64_t>((size - lost) / page) / halves;
    for (int64_t r = 0; r < rounds; ++r) {
        parallel_ranges(team_size(INT_MAX), pages, 1, [&](int, int64_t begin, int64_t end) {
            alignas(64) char sink[64];
            char* first = base + begin * page;
            const int64_t bytes = (end - begin) * page;
            if (kind == MOE_PROBE_READ) kernels.read(first, bytes, sink);
            if (kind == MOE_PROBE_WRITE) kernels.write(first, bytes);
            if (kind == MOE_PROBE_COPY) kernels.copy(first, first + pages * page, bytes);
        });
    }
    *amount = static_cast<uint64_t>(rounds) * static_cast<uint64_t>(pages * halves * page);
    return MOE_OK;
}
