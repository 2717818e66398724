// Sixteen sums of products of 16-bit pairs: lane i of fused(a, b, c) is c[i] + a[2i] * b[2i] + a[2i + 1] * b[2i + 1]. Sums are
// exact, so their order is free. A `Pairs` holds either the 32 factors or the 16 sums.
// Included only by files that are compiled once per instruction set.
#pragma once
#include "wide_lanes.hpp"

namespace llm::LLM_NAMESPACE {

// The pair that `x` holds in every lane, and 32 bytes from memory, widened.
template <class V>
V spread(int32_t x);
template <class V>
V load_as(const int8_t* p);

#if defined(__AVX512F__) || defined(__AVX2__) || defined(LLM_NEON)
constexpr bool kPairsAreVectors = true;
#else
constexpr bool kPairsAreVectors = false;
#endif

#if defined(__AVX512F__)

using Pairs = __m512i;
LLM_INLINE Pairs fused(Pairs a, Pairs b, Pairs c) { return _mm512_dpwssd_epi32(c, a, b); }
LLM_INLINE Wide as_floats(Pairs sums) { return _mm512_cvtepi32_ps(sums); }
template <>
inline Pairs spread<Pairs>(int32_t x) { return _mm512_set1_epi32(x); }
template <>
inline Pairs load_as<Pairs>(const int8_t* p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

#elif defined(__AVX2__)

struct Pairs {
    __m256i low, high;
};
LLM_INLINE Pairs fused(Pairs a, Pairs b, Pairs c) {
    return {_mm256_add_epi32(c.low, _mm256_madd_epi16(a.low, b.low)), _mm256_add_epi32(c.high, _mm256_madd_epi16(a.high, b.high))};
}
LLM_INLINE Wide as_floats(Pairs sums) { return {_mm256_cvtepi32_ps(sums.low), _mm256_cvtepi32_ps(sums.high)}; }
template <>
inline Pairs spread<Pairs>(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
template <>
inline Pairs load_as<Pairs>(const int8_t* p) {
    const auto* bytes = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtepi8_epi16(_mm_loadu_si128(bytes)), _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes + 1))};
}

#elif defined(LLM_NEON)

struct Pairs {
    int32x4_t v[4];
};
LLM_INLINE int32x4_t fused4(int32x4_t a, int32x4_t b, int32x4_t c) {
    const int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
    return vaddq_s32(c, vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y)));
}
LLM_INLINE Pairs fused(Pairs a, Pairs b, Pairs c) {
    return {{fused4(a.v[0], b.v[0], c.v[0]), fused4(a.v[1], b.v[1], c.v[1]), fused4(a.v[2], b.v[2], c.v[2]), fused4(a.v[3], b.v[3], c.v[3])}};
}
LLM_INLINE Wide as_floats(Pairs s) {
    return {{vcvtq_f32_s32(s.v[0]), vcvtq_f32_s32(s.v[1])}, {vcvtq_f32_s32(s.v[2]), vcvtq_f32_s32(s.v[3])}};
}
template <>
inline Pairs spread<Pairs>(int32_t x) {
    const int32x4_t v = vdupq_n_s32(x);
    return {{v, v, v, v}};
}
template <>
inline Pairs load_as<Pairs>(const int8_t* p) {
    const int8x16_t low = vld1q_s8(p), high = vld1q_s8(p + 16);
    return {{vreinterpretq_s32_s16(vmovl_s8(vget_low_s8(low))), vreinterpretq_s32_s16(vmovl_high_s8(low)),
             vreinterpretq_s32_s16(vmovl_s8(vget_low_s8(high))), vreinterpretq_s32_s16(vmovl_high_s8(high))}};
}

#else

struct Pairs {
    int32_t v[kWideLanes];
};
LLM_INLINE Pairs fused(Pairs a, Pairs b, Pairs c) {
    for (int i = 0; i < kWideLanes; i++)
        c.v[i] += int16_t(a.v[i]) * int16_t(b.v[i]) + int16_t(a.v[i] >> 16) * int16_t(b.v[i] >> 16);
    return c;
}
LLM_INLINE Wide as_floats(Pairs sums) {
    float floats[kWideLanes];
    for (int i = 0; i < kWideLanes; i++) floats[i] = float(sums.v[i]);
    return load_as<Wide>(floats);
}
template <>
inline Pairs spread<Pairs>(int32_t x) {
    Pairs r;
    for (int i = 0; i < kWideLanes; i++) r.v[i] = x;
    return r;
}
template <>
inline Pairs load_as<Pairs>(const int8_t* p) {
    Pairs r;
    for (int i = 0; i < kWideLanes; i++) r.v[i] = int32_t(uint32_t(uint16_t(p[2 * i])) | uint32_t(uint16_t(p[2 * i + 1])) << 16);
    return r;
}

#endif

// x[0 .. count], a multiple of eight, to 16-bit integers; returns their scale.
LLM_INLINE float round_to_pairs(const float* x, int count, int16_t* out) {
    const float largest = largest_of(x, count);
    const float inverse = inverse_of(largest, 32767.0f);
    for (int i = 0; i < count; i++) out[i] = int16_t(int32_t(round_even(x[i] * inverse)));
    return largest / 32767.0f;
}

}  // namespace llm::LLM_NAMESPACE
