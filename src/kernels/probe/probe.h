// What an instruction set can do at most: loops that touch nothing but registers, and passes over memory. They are the
// limits that the benchmark holds the operators against.
#pragma once

#include <cstdint>

namespace moe {

// Independent accumulations: at least latency times throughput of the instructions on the processors we know, and
// few enough for 16 registers.
constexpr int probe_chains = 12;

struct ProbePeak {
    int64_t operations;  // of one round; a multiplication and an addition are two
    // Accumulates `rounds` times; writes 64 bytes, so that nothing of it can be left out.
    void (*run)(int64_t rounds, void* sink);
};

struct ProbeKernels {
    ProbePeak int8;      // exact products of bytes into int32
    ProbePeak float32;   // products and sums of float32
    ProbePeak bfloat16;  // products of bfloat16 into float32, by float32 arithmetic where nothing is made for them

    // Passes over memory that is aligned to 64 bytes and a multiple of 512 long. Stores go past the cache where the
    // instruction set knows how to.
    void (*read)(const void* source, int64_t bytes, void* sink);
    void (*write)(void* target, int64_t bytes);
    void (*copy)(const void* source, void* target, int64_t bytes);
};

// The kernels to use now.
const ProbeKernels& probe_kernels();

}  // namespace moe
