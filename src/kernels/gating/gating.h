// Rows of a gating: softmax, scores in a form that orders as integers, the largest of them.
//
// Results are identical on every instruction set; NaN results are the positive quiet NaN without payload.
#pragma once

#include <cstdint>

namespace moe {

// Values are compared as integers, "keys": key(a) < key(b) when a < b, with -0 as 0 and every NaN as one key below
// that of -inf. Below all of them is the key of a place that cannot be chosen.
constexpr int32_t key_of_nothing = INT32_MIN;
constexpr int32_t key_of_minus_infinity = INT32_MIN + 0x7FFFFF;

// Keys of n values are given to `select` with room for a tree above them: so many keys in all for a row.
int64_t selection_size(int64_t n);

// Rows of n values lie side by side, rows of keys selection_size(n) apart. Operations on a row wait for one another: a
// call for several takes less time than as many calls.
struct GatingKernels {
    // In place: exp(v - max) / sum, in the order of summation that include/moe_native/gating.h prescribes.
    void (*softmax)(float* values, int64_t rows, int64_t n);
    // In place.
    void (*sigmoid)(float* values, int64_t n);
    // keys of values, or of values + bias; bias[n] may be null
    void (*keys)(const float* values, const float* bias, int32_t* keys, int64_t rows, int64_t n);
    // Of one row: the key of each group's largest value, or of the float32 sum of its two largest.
    void (*largest_of_groups)(const int32_t* keys, int64_t groups, int64_t group_size, int32_t* scores);
    void (*sums_of_two_largest)(const int32_t* keys, int64_t groups, int64_t group_size, int32_t* scores);
    // positions[rows][k] of the k <= n largest of n keys in descending order, equal ones in ascending position. `keys` is
    // used up.
    void (*select)(int32_t* keys, int64_t rows, int64_t n, int64_t k, int32_t* positions);
};

// The kernels to use now.
const GatingKernels& gating_kernels();

}  // namespace moe
