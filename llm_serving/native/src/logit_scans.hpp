// Passes over the logits of one row, eight at a time. Every instruction set computes the same bits.
#pragma once
#include <stdint.h>

namespace llm {

constexpr int kScanSlack = 8;  // elements behind the end that `collect` and `weigh` may write, and `weigh` may read

struct LogitScans {
    // The greatest of x[0, n), a NaN taken as -inf.
    float (*greatest)(const float* x, int n);
    // The first i in [from, n) with x[i] >= bound, or n.
    int (*next_at_least)(const float* x, int from, int n, float bound);
    // Indices and values of x[i] >= bound in ascending order of i; returns how many.
    int (*collect)(const float* x, int n, float bound, int32_t* ids, float* values);
    // w = exp32((x - greatest) / temperature), rounded to a multiple of 2^-32: engine/sampler.py, step 5.
    void (*weigh)(const float* x, int n, float greatest, float temperature, float* w);
    // Exact for up to 2^21 weights: multiples of 2^-32 up to 1.
    double (*sum)(const float* w, int n);
};

const LogitScans& logit_scans_scalar();
#if defined(LLM_HAVE_X86)
const LogitScans& logit_scans_avx2();
const LogitScans& logit_scans_avx512();
#elif defined(LLM_HAVE_ARM64)
const LogitScans& logit_scans_neon();
#endif

// As select_kernels in kernels.hpp, and with the same names.
const LogitScans& select_logit_scans(const char* isa);

}  // namespace llm
