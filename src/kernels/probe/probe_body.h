// The loops of the probes. Included by one file per instruction set, which defines before, in an anonymous namespace
// of moe: Bytes, a vector, with load, stream (a store past the cache) and merge; Int8, Float32 and Bfloat16, each
// with Type, operations (of one step), start(chain), which differs, and step(value). And MOE_PROBE_TABLE.
#include <cstring>

namespace moe {
namespace {

template <class Chain>
void accumulate(int64_t rounds, void* sink) {
    typename Chain::Type value[probe_chains];
#pragma GCC unroll 12
    for (int c = 0; c < probe_chains; ++c) value[c] = Chain::start(c);
    for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
        for (int c = 0; c < probe_chains; ++c) value[c] = Chain::step(value[c]);
    }
    // All of them are seen, so that none is left out.
    unsigned char all[sizeof value];
#pragma GCC unroll 12
    for (int c = 0; c < probe_chains; ++c) std::memcpy(all + c * sizeof value[0], &value[c], sizeof value[0]);
    auto* bytes = static_cast<unsigned char*>(sink);
    for (size_t b = 0; b < sizeof all; ++b) bytes[b % 64] = static_cast<unsigned char>(31 * bytes[b % 64] + all[b]);
}

template <class Chain>
constexpr ProbePeak peak_of() {
    return {Chain::operations * probe_chains, accumulate<Chain>};
}

constexpr int64_t vector_bytes = sizeof(Bytes::Type);
constexpr int64_t line = 64;
constexpr int64_t vectors = line / vector_bytes;

// Several streams at once keep more requests under way than one: a third faster on some processors.
constexpr int64_t streams = 8;

void read_all(const void* source, int64_t bytes, void* sink) {
    const char* from = static_cast<const char*>(source);
    const int64_t part = bytes / streams;
    Bytes::Type sum[vectors];
    for (int v = 0; v < vectors; ++v) sum[v] = Bytes::load(from + v * vector_bytes);
    for (int64_t b = 0; b < part; b += line)
        for (int64_t s = 0; s < streams; ++s)
            for (int v = 0; v < vectors; ++v)
                sum[v] = Bytes::merge(sum[v], Bytes::load(from + s * part + b + v * vector_bytes));
    std::memcpy(sink, sum, sizeof sum);
}

void write_all(void* target, int64_t bytes) {
    static constexpr char pattern[line] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    char* to = static_cast<char*>(target);
    Bytes::Type value[vectors];
    std::memcpy(value, pattern, sizeof value);
    for (int64_t b = 0; b < bytes; b += line)
        for (int v = 0; v < vectors; ++v) Bytes::stream(to + b + v * vector_bytes, value[v]);
    Bytes::finish();
}

void copy_all(const void* source, void* target, int64_t bytes) {
    const char* from = static_cast<const char*>(source);
    char* to = static_cast<char*>(target);
    for (int64_t b = 0; b < bytes; b += line)
        for (int v = 0; v < vectors; ++v)
            Bytes::stream(to + b + v * vector_bytes, Bytes::load(from + b + v * vector_bytes));
    Bytes::finish();
}

}  // namespace

extern const ProbeKernels MOE_PROBE_TABLE;
const ProbeKernels MOE_PROBE_TABLE = {
    peak_of<Int8>(), peak_of<Float32>(), peak_of<Bfloat16>(), read_all, write_all, copy_all,
};

}  // namespace moe
