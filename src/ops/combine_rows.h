// The sums of finalize and unpermute: for every token, rows of its experts.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/cache.h"
#include "core/threads.h"
#include "kernels/combine/combine.h"
#include "kernels/copy/copy.h"

namespace moe {

struct CombineProblem {
    Dtype dtype;
    int64_t tokens;
    int64_t hidden;
    int64_t experts_per_token;
    int64_t rows_read;   // with those of the skips
    CombineTerm* terms;  // combine_terms_bytes(threads, experts_per_token)
};

// Scratch: the terms of a sum and of the one after it, for every thread.
inline uint64_t combine_terms_bytes(int threads, int64_t experts_per_token) {
    uint64_t bytes;
    const uint64_t sums = static_cast<uint64_t>(threads) * 2 * sizeof(CombineTerm);
    return __builtin_mul_overflow(sums, static_cast<uint64_t>(experts_per_token), &bytes) ? UINT64_MAX : bytes;
}

// describe(token, terms) writes the terms of a token and returns its sum.
template <class Describe>
void combine_rows(const CombineProblem& problem, int threads, Describe&& describe) {
    const CombineKernel combine = combine_kernel(problem.dtype);
    const bool streams =
        outgrows_caches((problem.rows_read + problem.tokens) * problem.hidden * moe_dtype_size(problem.dtype));
    // A thread pays from about 64 KiB of combined rows on.
    const int64_t grain = 1 + 16 * 1024 / (1 + problem.experts_per_token * problem.hidden);
    parallel_ranges(threads, problem.tokens, grain, [&](int thread, int64_t begin, int64_t end) {
        CombineTerm* here = problem.terms + thread * 2 * problem.experts_per_token;
        CombineTerm* ahead = here + problem.experts_per_token;
        CombineSum sum = describe(begin, here);
        for (int64_t token = begin; token < end; ++token) {
            const CombineSum next = token + 1 < end ? describe(token + 1, ahead) : CombineSum{};
            combine(sum, next, problem.hidden, streams);
            sum = next;
            std::swap(here, ahead);
        }
        if (streams) copy_kernels().end();
    });
}

}  // namespace moe
