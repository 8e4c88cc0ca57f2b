// Reading a routing map: one byte per (token, expert), not zero where the token goes to the expert.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/op.h"

namespace moe {

// Bit i is set when byte i is not zero. Adding 0x7F to the low seven bits of a byte carries into its top bit, and no
// further. The product then moves the eight top bits side by side into the highest byte: the bit of byte i, shifted
// to place 8 * i, meets one bit of the factor that takes it to place 56 + i, and no two of the others meet there.
inline uint64_t nonzero_bytes(uint64_t bytes) {
    constexpr uint64_t low = 0x7F7F7F7F7F7F7F7Full;
    const uint64_t top_bits = (((bytes & low) + low) | bytes) & ~low;
    return (top_bits >> 7) * 0x0102040810204080ull >> 56;
}

// Calls visit(expert) for the experts of one row of the map, ascending. They are looked for 64 at a time: how many of
// so many are found varies less than it would for a few, and ends fewer loops at an unforeseen place.
template <class Visit>
inline void for_each_routed(const uint8_t* row, int64_t experts, Visit&& visit) {
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first byte is the lowest");
    for (int64_t first = 0; first < experts; first += 64) {
        uint64_t mask = 0;
        for (int64_t e = first; e < std::min(experts, first + 64); e += 8) {
            uint64_t bytes = 0;
            if (e + 8 <= experts)
                std::memcpy(&bytes, row + e, 8);
            else
                std::memcpy(&bytes, row + e, static_cast<size_t>(experts - e));
            mask |= nonzero_bytes(bytes) << (e - first);
        }
        for (; mask != 0; mask &= mask - 1) visit(first + __builtin_ctzll(mask));
    }
}

inline int64_t count_routed(const uint8_t* row, int64_t experts) {
    int64_t count = 0;
    for (int64_t e = 0; e < experts; ++e) count += row[e] != 0;
    return count;
}

// A fixed split of the tokens into blocks, which several passes share: what one pass found out about a block must hold
// for the next, whatever team each of them gets.
struct TokenBlocks {
    int64_t tokens = 0;
    int64_t count = 1;

    // A block for every `grain` tokens, at most one per thread.
    void split(int64_t token_count, int threads, int64_t grain) {
        tokens = token_count;
        count = std::clamp<int64_t>(token_count / grain, 1, threads);
    }
    int64_t begin(int64_t block) const { return block * (tokens / count) + std::min(block, tokens % count); }
};

// Fails for, or reports, every row of the map that has not `needed` experts. `what` says where that number is from.
inline Status check_row_counts(const RunContext& context, const uint8_t* map, int64_t tokens, int64_t experts,
                               int64_t needed, const char* what) {
    for (int64_t t = 0; t < tokens; ++t) {
        const int64_t seen = count_routed(map + t * experts, experts);
        if (seen == needed) continue;
        if (!context.skips_bad_data())
            return fail(MOE_ERROR_INVALID, Kind::data, "routing_map", "row %lld has %lld experts, needed %s = %lld",
                        static_cast<long long>(t), static_cast<long long>(seen), what, static_cast<long long>(needed));
        MOE_TRY(context.bad_data("routing_map", t * experts, seen, what));
    }
    return MOE_OK;
}

}  // namespace moe
