// Eight f32 lanes: AVX2 registers, or a plain array where there are none. Same operations, same bits.
// Included only by files that are compiled once per instruction set.
#pragma once
#include "elementwise.hpp"
#include "numeric.hpp"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define LLM_INLINE __attribute__((always_inline)) static inline

namespace llm::LLM_NAMESPACE {

using llm::fused;

#if defined(__AVX2__)

using Lanes = __m256;
LLM_INLINE Lanes load(const float* p) { return _mm256_loadu_ps(p); }
LLM_INLINE void store(float* p, Lanes v) { _mm256_storeu_ps(p, v); }
LLM_INLINE Lanes broadcast(float x) { return _mm256_set1_ps(x); }
LLM_INLINE Lanes add(Lanes a, Lanes b) { return _mm256_add_ps(a, b); }
LLM_INLINE Lanes subtract(Lanes a, Lanes b) { return _mm256_sub_ps(a, b); }
LLM_INLINE Lanes multiply(Lanes a, Lanes b) { return _mm256_mul_ps(a, b); }
LLM_INLINE Lanes divide(Lanes a, Lanes b) { return _mm256_div_ps(a, b); }
LLM_INLINE Lanes fused(Lanes a, Lanes b, Lanes c) { return _mm256_fmadd_ps(a, b, c); }
LLM_INLINE Lanes maximum(Lanes a, Lanes b) { return _mm256_max_ps(b, a); }  // a > b ? a : b, NaN in a loses
LLM_INLINE Lanes minimum(Lanes a, Lanes b) { return _mm256_min_ps(b, a); }
LLM_INLINE Lanes widen8(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
LLM_INLINE Lanes times_power_of_two(Lanes p, Lanes n) {
    __m256i exponent = _mm256_slli_epi32(_mm256_cvttps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
}

#else

struct Lanes {
    float v[kLanes];
};
#define LLM_EACH(expression)                        \
    Lanes r;                                        \
    for (int i = 0; i < kLanes; i++) r.v[i] = expression; \
    return r
LLM_INLINE Lanes load(const float* p) { LLM_EACH(p[i]); }
LLM_INLINE void store(float* p, Lanes a) {
    for (int i = 0; i < kLanes; i++) p[i] = a.v[i];
}
LLM_INLINE Lanes broadcast(float x) { LLM_EACH(x); }
LLM_INLINE Lanes add(Lanes a, Lanes b) { LLM_EACH(a.v[i] + b.v[i]); }
LLM_INLINE Lanes subtract(Lanes a, Lanes b) { LLM_EACH(a.v[i] - b.v[i]); }
LLM_INLINE Lanes multiply(Lanes a, Lanes b) { LLM_EACH(a.v[i] * b.v[i]); }
LLM_INLINE Lanes divide(Lanes a, Lanes b) { LLM_EACH(a.v[i] / b.v[i]); }
LLM_INLINE Lanes fused(Lanes a, Lanes b, Lanes c) { LLM_EACH(llm::fused(a.v[i], b.v[i], c.v[i])); }
LLM_INLINE Lanes maximum(Lanes a, Lanes b) { LLM_EACH(b.v[i] > a.v[i] ? b.v[i] : a.v[i]); }
LLM_INLINE Lanes minimum(Lanes a, Lanes b) { LLM_EACH(b.v[i] < a.v[i] ? b.v[i] : a.v[i]); }
LLM_INLINE Lanes widen8(const uint16_t* p) { LLM_EACH(half_to_float(p[i])); }
LLM_INLINE Lanes times_power_of_two(Lanes p, Lanes n) {
    LLM_EACH(bits_to_float(float_to_bits(p.v[i]) + (uint32_t(int32_t(n.v[i])) << 23)));
}
#undef LLM_EACH

#endif

LLM_INLINE float sum(Lanes a) {
    float lanes[kLanes];
    store(lanes, a);
    return sum_lanes(lanes);
}

// e^x to about 1 ulp for x in [-87, 88], clamped outside. Cephes' reduction, degree-6 polynomial.
LLM_INLINE Lanes exponential(Lanes x) {
    const Lanes magic = broadcast(12582912.0f);  // adding and taking it away rounds to the nearest integer
    x = minimum(maximum(x, broadcast(-87.0f)), broadcast(88.0f));
    Lanes n = subtract(add(multiply(x, broadcast(1.44269504088896341f)), magic), magic);
    Lanes r = fused(n, broadcast(-0.693359375f), x);
    r = fused(n, broadcast(2.12194440e-4f), r);
    Lanes p = broadcast(1.9875691500e-4f);
    p = fused(p, r, broadcast(1.3981999507e-3f));
    p = fused(p, r, broadcast(8.3334519073e-3f));
    p = fused(p, r, broadcast(4.1665795894e-2f));
    p = fused(p, r, broadcast(1.6666665459e-1f));
    p = fused(p, r, broadcast(5.0000001201e-1f));
    p = add(fused(p, multiply(r, r), r), broadcast(1.0f));
    return times_power_of_two(p, n);
}

}  // namespace llm::LLM_NAMESPACE
