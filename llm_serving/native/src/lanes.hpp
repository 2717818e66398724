// Eight f32 lanes: an AVX2 register, two of NEON, or a plain array where there are none. Same operations, same bits.
// Included only by files that are compiled once per instruction set.
#pragma once
#include "elementwise.hpp"
#include "numeric.hpp"
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(LLM_NEON)
#include <arm_neon.h>
#endif
#include <utility>

#define LLM_INLINE __attribute__((always_inline)) static inline

namespace llm::LLM_NAMESPACE {

using llm::fused;

// LLM_EACH(i, n) { … }: a loop over 0 … n - 1 that the compiler unrolls. It must: an array indexed by a loop's variable would
// end up in memory, and a store for every accumulator and step costs more than the arithmetic.
#if defined(__clang__)
#define LLM_EACH(i, n) _Pragma("clang loop unroll(full)") for (int i = 0; i < (n); i++)
#else
#define LLM_EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)
#endif

#define LLM_WITH(i) [&](auto i) __attribute__((always_inline))

// body(0), body(1), …, with indices that are constants, also for templates. Slow to compile: for little code.
template <int N, class Body>
LLM_INLINE void unrolled(Body body) {
    [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
        (body(std::integral_constant<int, I>{}), ...);
    }(std::make_integer_sequence<int, N>{});
}

// 3 * 2^22: x + kMagic is x rounded to the nearest integer n, ties to even, and has n in its lowest bits, the nine lowest of
// kMagic itself being zero.
constexpr float kMagic = 12582912.0f;

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
LLM_INLINE Lanes maximum(Lanes a, Lanes b) { return _mm256_max_ps(b, a); }  // b > a ? b : a: a NaN in b loses
LLM_INLINE Lanes minimum(Lanes a, Lanes b) { return _mm256_min_ps(b, a); }
// The first `count` lanes of v, and `other` after them.
LLM_INLINE Lanes first_lanes(Lanes v, int count, Lanes other) {
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_blendv_ps(other, v, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count), index)));
}
// Bit i: a[i] >= b[i]; a NaN is not.
LLM_INLINE uint32_t at_least(Lanes a, Lanes b) { return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ))); }
// As sum_lanes and max_lanes do it.
LLM_INLINE float sum(Lanes v) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
LLM_INLINE float largest(Lanes v) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
LLM_INLINE Lanes widen8(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
// p * 2^n of n + kMagic.
LLM_INLINE Lanes times_power_of_two(Lanes p, Lanes shifted) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
}

// The least numbers of eight significant bits that are not below these, which are not below 0.
LLM_INLINE Lanes eight_bits_above(Lanes v) {
    const __m256i more = _mm256_add_epi32(_mm256_castps_si256(v), _mm256_set1_epi32(0xffff));
    return _mm256_castsi256_ps(_mm256_and_si256(more, _mm256_set1_epi32(int32_t(0xffff0000))));
}
LLM_INLINE Lanes ceiling(Lanes v) { return _mm256_ceil_ps(v); }

// The largest magnitude of each of eight halves of groups that follow each other; a NaN is none. Maxima are made while they are
// transposed: half the work of one half after the other.
LLM_INLINE Lanes largest_of_halves(const float* x) {
    const Lanes sign = broadcast(-0.0f);
    Lanes of_eights[8], of_pairs[4], of_fours[2];
    LLM_EACH(i, 8) {
        const Lanes first = maximum(broadcast(0.0f), _mm256_andnot_ps(sign, load(x + i * kHalf)));
        of_eights[i] = maximum(first, _mm256_andnot_ps(sign, load(x + i * kHalf + kLanes)));
    }
    LLM_EACH(i, 4) {
        const Lanes a = of_eights[2 * i], b = of_eights[2 * i + 1];
        of_pairs[i] = maximum(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    }
    LLM_EACH(i, 2) {
        const __m256d a = _mm256_castps_pd(of_pairs[2 * i]), b = _mm256_castps_pd(of_pairs[2 * i + 1]);
        of_fours[i] = maximum(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)), _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
    }
    return maximum(_mm256_permute2f128_ps(of_fours[0], of_fours[1], 0x20), _mm256_permute2f128_ps(of_fours[0], of_fours[1], 0x31));
}

// Sixteen values times `factor`, rounded to the nearest integers, ties to even: of every eight, four lie in one half and four in the other.
LLM_INLINE __m256i round16(const float* x, float factor) {
    const __m256i low = _mm256_cvtps_epi32(multiply(load(x), broadcast(factor)));
    const __m256i high = _mm256_cvtps_epi32(multiply(load(x + kLanes), broadcast(factor)));
    return _mm256_packs_epi32(low, high);
}
LLM_INLINE void round_wide(const float* x, float factor, int16_t* q) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm256_permute4x64_epi64(round16(x, factor), 0xd8));
}
// Each half of a group times its factor; `totals` are the sums of its integers.
LLM_INLINE void round_narrow(const float* x, const float* factors, int8_t* q, int32_t* totals) {
    const __m256i first = round16(x, factors[0]), second = round16(x + kHalf, factors[1]), one = _mm256_set1_epi16(1);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm256_permutevar8x32_epi32(_mm256_packs_epi16(first, second), order));
    const __m256i pairs = _mm256_hadd_epi32(_mm256_madd_epi16(first, one), _mm256_madd_epi16(second, one));
    const __m128i sums = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(totals), _mm_hadd_epi32(sums, sums));
}

#elif defined(LLM_NEON)

struct Lanes {
    float32x4_t low, high;
};
LLM_INLINE Lanes load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
LLM_INLINE void store(float* p, Lanes v) {
    vst1q_f32(p, v.low);
    vst1q_f32(p + 4, v.high);
}
LLM_INLINE Lanes broadcast(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
LLM_INLINE Lanes add(Lanes a, Lanes b) { return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
LLM_INLINE Lanes subtract(Lanes a, Lanes b) { return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }
LLM_INLINE Lanes multiply(Lanes a, Lanes b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
LLM_INLINE Lanes divide(Lanes a, Lanes b) { return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)}; }
LLM_INLINE Lanes fused(Lanes a, Lanes b, Lanes c) { return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)}; }
// Not vmaxq_f32 and vminq_f32: they give NaN for one in either operand.
LLM_INLINE float32x4_t larger4(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
LLM_INLINE float32x4_t smaller4(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
LLM_INLINE Lanes maximum(Lanes a, Lanes b) { return {larger4(b.low, a.low), larger4(b.high, a.high)}; }
LLM_INLINE Lanes minimum(Lanes a, Lanes b) { return {smaller4(b.low, a.low), smaller4(b.high, a.high)}; }
LLM_INLINE Lanes first_lanes(Lanes v, int count, Lanes other) {
    const int32x4_t low = {0, 1, 2, 3}, high = {4, 5, 6, 7}, end = vdupq_n_s32(count);
    return {vbslq_f32(vcgtq_s32(end, low), v.low, other.low), vbslq_f32(vcgtq_s32(end, high), v.high, other.high)};
}
LLM_INLINE uint32_t at_least(Lanes a, Lanes b) {
    const uint32x4_t low = {1, 2, 4, 8}, high = {16, 32, 64, 128};
    return vaddvq_u32(vorrq_u32(vandq_u32(vcgeq_f32(a.low, b.low), low), vandq_u32(vcgeq_f32(a.high, b.high), high)));
}
LLM_INLINE float sum(Lanes v) {
    const float32x4_t x = vaddq_f32(v.low, v.high);
    const float32x2_t y = vadd_f32(vget_low_f32(x), vget_high_f32(x));
    return vget_lane_f32(y, 0) + vget_lane_f32(y, 1);
}
LLM_INLINE float largest(Lanes v) {
    const float32x4_t x = larger4(v.low, v.high);
    const float32x4_t y = larger4(x, vextq_f32(x, x, 2));
    return larger(vgetq_lane_f32(y, 0), vgetq_lane_f32(y, 1));
}
LLM_INLINE Lanes widen8(const uint16_t* p) {
    const float16x8_t halves = vreinterpretq_f16_u16(vld1q_u16(p));
    return {vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)};
}
LLM_INLINE float32x4_t times_power_of_two4(float32x4_t p, float32x4_t shifted) {
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(p), vshlq_n_s32(vreinterpretq_s32_f32(shifted), 23)));
}
LLM_INLINE Lanes times_power_of_two(Lanes p, Lanes shifted) {
    return {times_power_of_two4(p.low, shifted.low), times_power_of_two4(p.high, shifted.high)};
}

LLM_INLINE float32x4_t eight_bits_above4(float32x4_t v) {
    return vreinterpretq_f32_u32(vandq_u32(vaddq_u32(vreinterpretq_u32_f32(v), vdupq_n_u32(0xffff)), vdupq_n_u32(0xffff0000)));
}
LLM_INLINE Lanes eight_bits_above(Lanes v) { return {eight_bits_above4(v.low), eight_bits_above4(v.high)}; }
LLM_INLINE Lanes ceiling(Lanes v) { return {vrndpq_f32(v.low), vrndpq_f32(v.high)}; }

LLM_INLINE Lanes largest_of_halves(const float* x) {
    float32x4_t of_fours[8];
    LLM_EACH(i, 8) {
        of_fours[i] = vdupq_n_f32(0.0f);
        LLM_EACH(j, 4) { of_fours[i] = larger4(vabsq_f32(vld1q_f32(x + i * kHalf + 4 * j)), of_fours[i]); }
    }
    LLM_EACH(i, 4) { of_fours[i] = vpmaxq_f32(of_fours[2 * i], of_fours[2 * i + 1]); }
    return {vpmaxq_f32(of_fours[0], of_fours[1]), vpmaxq_f32(of_fours[2], of_fours[3])};
}

LLM_INLINE int16x8_t round8(const float* x, float factor) {
    const Lanes scaled = multiply(load(x), broadcast(factor));
    return vqmovn_high_s32(vqmovn_s32(vcvtnq_s32_f32(scaled.low)), vcvtnq_s32_f32(scaled.high));
}
LLM_INLINE void round_wide(const float* x, float factor, int16_t* q) {
    vst1q_s16(q, round8(x, factor));
    vst1q_s16(q + kLanes, round8(x + kLanes, factor));
}
LLM_INLINE void round_narrow(const float* x, const float* factors, int8_t* q, int32_t* totals) {
    for (int half = 0; half < 2; half++, x += kHalf, q += kHalf) {
        const int16x8_t low = round8(x, factors[half]), high = round8(x + kLanes, factors[half]);
        vst1q_s8(q, vqmovn_high_s16(vqmovn_s16(low), high));
        totals[half] = vaddlvq_s16(vaddq_s16(low, high));
    }
}

#else

struct Lanes {
    float v[kLanes];
};
#define LLM_LANES(expression)                        \
    Lanes r;                                        \
    for (int i = 0; i < kLanes; i++) r.v[i] = expression; \
    return r
LLM_INLINE Lanes load(const float* p) { LLM_LANES(p[i]); }
LLM_INLINE void store(float* p, Lanes a) {
    for (int i = 0; i < kLanes; i++) p[i] = a.v[i];
}
LLM_INLINE Lanes broadcast(float x) { LLM_LANES(x); }
LLM_INLINE Lanes add(Lanes a, Lanes b) { LLM_LANES(a.v[i] + b.v[i]); }
LLM_INLINE Lanes subtract(Lanes a, Lanes b) { LLM_LANES(a.v[i] - b.v[i]); }
LLM_INLINE Lanes multiply(Lanes a, Lanes b) { LLM_LANES(a.v[i] * b.v[i]); }
LLM_INLINE Lanes divide(Lanes a, Lanes b) { LLM_LANES(a.v[i] / b.v[i]); }
LLM_INLINE Lanes fused(Lanes a, Lanes b, Lanes c) { LLM_LANES(llm::fused(a.v[i], b.v[i], c.v[i])); }
LLM_INLINE Lanes maximum(Lanes a, Lanes b) { LLM_LANES(b.v[i] > a.v[i] ? b.v[i] : a.v[i]); }
LLM_INLINE Lanes minimum(Lanes a, Lanes b) { LLM_LANES(b.v[i] < a.v[i] ? b.v[i] : a.v[i]); }
LLM_INLINE Lanes first_lanes(Lanes a, int count, Lanes b) { LLM_LANES(i < count ? a.v[i] : b.v[i]); }
LLM_INLINE uint32_t at_least(Lanes a, Lanes b) {
    uint32_t bits = 0;
    for (int i = 0; i < kLanes; i++) bits |= uint32_t(a.v[i] >= b.v[i]) << i;
    return bits;
}
LLM_INLINE float sum(Lanes a) { return sum_lanes(a.v); }
LLM_INLINE float largest(Lanes a) { return max_lanes(a.v); }
LLM_INLINE Lanes widen8(const uint16_t* p) { LLM_LANES(half_to_float(p[i])); }
LLM_INLINE Lanes times_power_of_two(Lanes p, Lanes shifted) {
    LLM_LANES(bits_to_float(float_to_bits(p.v[i]) + (float_to_bits(shifted.v[i]) << 23)));
}
LLM_INLINE Lanes eight_bits_above(Lanes a) { LLM_LANES(bits_to_float((float_to_bits(a.v[i]) + 0xffff) & 0xffff0000)); }
LLM_INLINE Lanes ceiling(Lanes a) { LLM_LANES(__builtin_ceilf(a.v[i])); }
#undef LLM_LANES
LLM_INLINE Lanes largest_of_halves(const float* x) {
    Lanes most = broadcast(0.0f);
    for (int i = 0; i < kLanes * kHalf; i++) most.v[i / kHalf] = larger(__builtin_fabsf(x[i]), most.v[i / kHalf]);
    return most;
}
LLM_INLINE void round_wide(const float* x, float factor, int16_t* q) {
    for (int i = 0; i < kHalf; i++) q[i] = int16_t(int32_t(round_even(x[i] * factor)));
}
LLM_INLINE void round_narrow(const float* x, const float* factors, int8_t* q, int32_t* totals) {
    for (int half = 0; half < 2; half++, x += kHalf, q += kHalf) {
        totals[half] = 0;
        for (int i = 0; i < kHalf; i++) {
            const int32_t rounded = int32_t(round_even(x[i] * factors[half]));
            q[i] = int8_t(rounded);
            totals[half] += rounded;
        }
    }
}

#endif

}  // namespace llm::LLM_NAMESPACE
