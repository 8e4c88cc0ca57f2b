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
    int64_t bias_rows;  // 0 without a bias
    int64_t rows_read;  // with those of the skips
    const char* out;
    CombineTerm* terms;  // combine_terms_bytes(threads, experts_per_token)

    int64_t row_bytes() const { return hidden * moe_dtype_size(dtype); }
};

// Scratch: the terms of a sum and of the one after it, for every thread.
inline uint64_t combine_terms_bytes(int threads, int64_t experts_per_token) {
    uint64_t bytes;
    const uint64_t sums = static_cast<uint64_t>(threads) * 2 * sizeof(CombineTerm);
    return __builtin_mul_overflow(sums, static_cast<uint64_t>(experts_per_token), &bytes) ? UINT64_MAX : bytes;
}

// Columns that are computed for all tokens of a thread before the next ones. Tokens meet the rows of the bias in any
// order; a narrow enough part of all of them stays in the second-level cache. Not worth it when hardly any row of the
// bias is read twice.
inline int64_t combine_columns(const CombineProblem& problem, int64_t tokens) {
    const int64_t part = second_level_cache_bytes() / 2;
    const int64_t bias_bytes = problem.bias_rows * problem.row_bytes();
    if (bias_bytes <= part || tokens * problem.experts_per_token < 2 * problem.bias_rows) return problem.hidden;
    constexpr int64_t narrowest = 512;
    return std::max(narrowest, part / (problem.bias_rows * moe_dtype_size(problem.dtype)) / narrowest * narrowest);
}

// describe(token, terms) writes the terms of a token and returns its sum.
template <class Describe>
void combine_rows(const CombineProblem& problem, int threads, Describe&& describe) {
    const CombineKernel combine = combine_kernel(problem.dtype);
    const bool streams = outgrows_caches((problem.rows_read + problem.tokens) * problem.row_bytes());
    // Parts of a row that are not the first begin with a line of the output, as far as one can tell from the first row.
    const auto misplaced = static_cast<int64_t>(reinterpret_cast<uintptr_t>(problem.out) % 64);
    const int64_t lead = misplaced == 0 ? 0 : (64 - misplaced) / moe_dtype_size(problem.dtype);
    // A thread pays from about 64 KiB of combined rows on.
    const int64_t grain = 1 + 16 * 1024 / (1 + problem.experts_per_token * problem.hidden);
    parallel_ranges(threads, problem.tokens, grain, [&](int thread, int64_t begin, int64_t end) {
        CombineTerm* here = problem.terms + thread * 2 * problem.experts_per_token;
        CombineTerm* ahead = here + problem.experts_per_token;
        const int64_t columns = combine_columns(problem, end - begin);
        for (int64_t first = 0; first < problem.hidden;) {
            const int64_t last = columns == problem.hidden
                                     ? columns
                                     : std::min(problem.hidden, first + columns + (first == 0 ? lead : 0));
            CombineSum sum = describe(begin, here);
            for (int64_t token = begin; token < end; ++token) {
                CombineSum next = {};
                if (token + 1 < end) next = describe(token + 1, ahead);
                combine(sum, next, first, last, streams);
                sum = next;
                std::swap(here, ahead);
            }
            first = last;
        }
        if (streams) copy_kernels().end();
    });
}

}  // namespace moe
