// Sixteen sums of products of 16-bit pairs: lane i of fused(a, b, c) is c[i] + a[2i] * b[2i] + a[2i + 1] * b[2i + 1]. Sums are
// exact, so their order is free. A `Pairs` holds either the 32 factors or the 16 sums.
// Included only by files that are compiled once per instruction set.
#pragma once
#include "wide_lanes.hpp"

namespace llm::LLM_NAMESPACE {

// The pair that `x` holds in every lane, and 32 integers from memory, bytes being widened.
template <class V>
V spread(int32_t x);
template <class V>
V load_as(const int8_t* p);
template <class V>
V load_as(const int16_t* p);

// Vectors are of 32-bit lanes, not __m512i or __m256i, whose lanes are of 64 bits: with those GCC 12 stores every sum in every step.

#if defined(__AVX512F__) || defined(__AVX2__) || defined(LLM_NEON)
constexpr bool kPairsAreVectors = true;
#else
constexpr bool kPairsAreVectors = false;
#endif

#if defined(__AVX512F__)

using Pairs = int32_t __attribute__((vector_size(64)));
LLM_INLINE Pairs fused(Pairs a, Pairs b, Pairs c) { return Pairs(_mm512_dpwssd_epi32(__m512i(c), __m512i(a), __m512i(b))); }
LLM_INLINE Wide as_floats(Pairs sums) { return _mm512_cvtepi32_ps(__m512i(sums)); }
template <>
inline Pairs spread<Pairs>(int32_t x) { return Pairs(_mm512_set1_epi32(x)); }
template <>
inline Pairs load_as<Pairs>(const int8_t* p) {
    return Pairs(_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}
template <>
inline Pairs load_as<Pairs>(const int16_t* p) { return Pairs(_mm512_loadu_si512(p)); }

#elif defined(__AVX2__)

using EightSums = uint32_t __attribute__((vector_size(32)));  // unsigned: what nobody uses may overflow
struct Pairs {
    EightSums low, high;
};
LLM_INLINE EightSums fused(EightSums a, EightSums b, EightSums c) { return c + EightSums(_mm256_madd_epi16(__m256i(a), __m256i(b))); }
LLM_INLINE Pairs fused(Pairs a, Pairs b, Pairs c) { return {fused(a.low, b.low, c.low), fused(a.high, b.high, c.high)}; }
LLM_INLINE Wide as_floats(Pairs sums) { return {_mm256_cvtepi32_ps(__m256i(sums.low)), _mm256_cvtepi32_ps(__m256i(sums.high))}; }
template <>
inline Pairs spread<Pairs>(int32_t x) {
    const auto all = EightSums(_mm256_set1_epi32(x));
    return {all, all};
}
template <>
inline Pairs load_as<Pairs>(const int8_t* p) {
    const auto* bytes = reinterpret_cast<const __m128i*>(p);
    return {EightSums(_mm256_cvtepi8_epi16(_mm_loadu_si128(bytes))), EightSums(_mm256_cvtepi8_epi16(_mm_loadu_si128(bytes + 1)))};
}
template <>
inline Pairs load_as<Pairs>(const int16_t* p) {
    const auto* integers = reinterpret_cast<const __m256i*>(p);
    return {EightSums(_mm256_loadu_si256(integers)), EightSums(_mm256_loadu_si256(integers + 1))};
}

#elif defined(LLM_NEON)

// Of sums, lanes in their order; of factors, [0] and [1] the first of each pair, [2] and [3] the second: vmlal_s16 multiplies
// and adds at once, but lane by lane.
struct Pairs {
    int32x4_t v[4];
};
LLM_INLINE Pairs fused(Pairs a, Pairs b, Pairs c) {
    LLM_EACH(i, 4) {
        const int16x8_t x = vreinterpretq_s16_s32(a.v[i]), y = vreinterpretq_s16_s32(b.v[i]);
        const int at = i % 2 * 2;
        c.v[at] = vmlal_s16(c.v[at], vget_low_s16(x), vget_low_s16(y));
        c.v[at + 1] = vmlal_high_s16(c.v[at + 1], x, y);
    }
    return c;
}
LLM_INLINE Wide as_floats(Pairs s) {
    return {{vcvtq_f32_s32(s.v[0]), vcvtq_f32_s32(s.v[1])}, {vcvtq_f32_s32(s.v[2]), vcvtq_f32_s32(s.v[3])}};
}
// Zero for sums is a pair of zeros.
template <>
inline Pairs spread<Pairs>(int32_t x) {
    const int32x4_t first = vreinterpretq_s32_s16(vdupq_n_s16(int16_t(x))), second = vreinterpretq_s32_s16(vdupq_n_s16(int16_t(x >> 16)));
    return {{first, first, second, second}};
}
template <>
inline Pairs load_as<Pairs>(const int8_t* p) {
    const int8x16x2_t bytes = vld2q_s8(p);
    return {{vreinterpretq_s32_s16(vmovl_s8(vget_low_s8(bytes.val[0]))), vreinterpretq_s32_s16(vmovl_high_s8(bytes.val[0])),
             vreinterpretq_s32_s16(vmovl_s8(vget_low_s8(bytes.val[1]))), vreinterpretq_s32_s16(vmovl_high_s8(bytes.val[1]))}};
}
template <>
inline Pairs load_as<Pairs>(const int16_t* p) {
    const int16x8x2_t low = vld2q_s16(p), high = vld2q_s16(p + 16);
    return {{vreinterpretq_s32_s16(low.val[0]), vreinterpretq_s32_s16(high.val[0]), vreinterpretq_s32_s16(low.val[1]),
             vreinterpretq_s32_s16(high.val[1])}};
}

#else

struct Pairs {
    int32_t v[kWideLanes];
};
LLM_INLINE Pairs fused(Pairs a, Pairs b, Pairs c) {
    for (int i = 0; i < kWideLanes; i++) {
        const int first = int16_t(a.v[i]) * int16_t(b.v[i]), second = int16_t(a.v[i] >> 16) * int16_t(b.v[i] >> 16);
        // Integers that nothing is known of may overflow, where they are not used.
        c.v[i] = int32_t(uint32_t(c.v[i]) + uint32_t(first) + uint32_t(second));
    }
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
template <class T>
Pairs load_pairs(const T* p) {
    Pairs r;
    for (int i = 0; i < kWideLanes; i++) r.v[i] = int32_t(uint32_t(uint16_t(p[2 * i])) | uint32_t(uint16_t(p[2 * i + 1])) << 16);
    return r;
}
template <>
inline Pairs load_as<Pairs>(const int8_t* p) { return load_pairs(p); }
template <>
inline Pairs load_as<Pairs>(const int16_t* p) { return load_pairs(p); }

#endif

}  // namespace llm::LLM_NAMESPACE
