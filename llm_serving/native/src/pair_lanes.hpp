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
// The same of 32 bytes of codes, the first or the second of their halves.
template <class V>
V load_half(const Codes* p, int half);

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
template <>
inline Pairs load_half<Pairs>(const Codes* p, int half) {
    const __m512i words = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kCodes));
    const __m512i values = _mm512_cvtepi8_epi16(_mm256_broadcastsi128_si256(codes));  // twice: the fifth bit may be anything
    return Pairs(_mm512_permutexvar_epi16(half ? _mm512_srli_epi16(words, 4) : words, values));
}

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
template <>
inline Pairs load_half<Pairs>(const Codes* p, int half) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i codes = _mm256_and_si256(half ? _mm256_srli_epi16(bytes, 4) : bytes, _mm256_set1_epi8(15));
    const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kCodes)));
    const __m256i values = _mm256_shuffle_epi8(table, codes);
    return {EightSums(_mm256_cvtepi8_epi16(_mm256_castsi256_si128(values))), EightSums(_mm256_cvtepi8_epi16(_mm256_extracti128_si256(values, 1)))};
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
LLM_INLINE Pairs widened(int8x16_t first, int8x16_t second) {
    return {{vreinterpretq_s32_s16(vmovl_s8(vget_low_s8(first))), vreinterpretq_s32_s16(vmovl_high_s8(first)),
             vreinterpretq_s32_s16(vmovl_s8(vget_low_s8(second))), vreinterpretq_s32_s16(vmovl_high_s8(second))}};
}
template <>
inline Pairs load_as<Pairs>(const int8_t* p) {
    const int8x16x2_t bytes = vld2q_s8(p);
    return widened(bytes.val[0], bytes.val[1]);
}
template <>
inline Pairs load_half<Pairs>(const Codes* p, int half) {
    const uint8x16x2_t bytes = vld2q_u8(reinterpret_cast<const uint8_t*>(p));
    const int8x16_t table = vld1q_s8(kCodes);
    const auto values = [&](uint8x16_t b) { return vqtbl1q_s8(table, half ? vshrq_n_u8(b, 4) : vandq_u8(b, vdupq_n_u8(15))); };
    return widened(values(bytes.val[0]), values(bytes.val[1]));
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
inline Pairs load_half<Pairs>(const Codes* p, int half) {
    int8_t values[2 * kWideLanes];
    for (int i = 0; i < 2 * kWideLanes; i++) values[i] = kCodes[p[i].both >> 4 * half & 15];
    return load_pairs(values);
}
template <>
inline Pairs load_as<Pairs>(const int8_t* p) { return load_pairs(p); }
template <>
inline Pairs load_as<Pairs>(const int16_t* p) { return load_pairs(p); }

#endif

}  // namespace llm::LLM_NAMESPACE
