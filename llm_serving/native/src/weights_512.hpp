// What the kernels for AVX-512 load of weights: two panels, sixteen outputs, in one register.
// Included only by files that are compiled once per instruction set.
#pragma once
#include <immintrin.h>

#include "gemm_cases.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

constexpr int kPair = 2 * kPanel;  // outputs

// Where a pair of panels begins. A last panel without a partner is its own, and is not stored twice.
struct Pair {
    const uint8_t* low;
    const uint8_t* high;
};

struct GroupScales {
    __m512 scale;
    __m512 other;  // the minimum, or the second half's scale; without either, unused
};

LLM_INLINE __m512i join(__m256i low, __m256i high) { return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1); }
LLM_INLINE __m256i load32(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
LLM_INLINE __m512i load_pair(Pair p, int at) { return join(load32(p.low + at), load32(p.high + at)); }

LLM_INLINE __m512 load_floats(Pair p, int at) { return _mm512_castsi512_ps(load_pair(p, at)); }

LLM_INLINE __m128i load16(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

LLM_INLINE __m512 load_halves(Pair p, int at) {
    return _mm512_cvtph_ps(_mm256_inserti128_si256(_mm256_castsi128_si256(load16(p.low + at)), load16(p.high + at), 1));
}

LLM_INLINE __m128i load_eights(Pair p, int at) {
    return _mm_unpacklo_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p.low + at)),
                              _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p.high + at)));
}

// As in numeric.hpp.
LLM_INLINE __m512 half_powers(__m512i exponents) {
    const __m512i one = _mm512_set1_epi32(1);
    const __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(exponents, one), 23);
    const __m512i subnormal = _mm512_slli_epi32(_mm512_add_epi32(exponents, one), 21);
    return _mm512_castsi512_ps(_mm512_max_epi32(normal, subnormal));
}

template <Format F>
LLM_INLINE __m512 load_factors(Pair p, int g) {
    const __m512 of_outputs = load_halves(p, factors_at(F, g));
    return has_grid(F) ? _mm512_mul_ps(_mm512_set1_ps(factor_unit(F)), of_outputs) : of_outputs;
}

template <Format F>
LLM_INLINE GroupScales load_scales(Pair p, int g) {
    const int at = scales_at(F, g);
    if constexpr (F == Format::mxfp4) return {half_powers(_mm512_cvtepu8_epi32(load_eights(p, at))), _mm512_setzero_ps()};
    if constexpr (has_one_step(F)) {
        const __m512 steps = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_eights(p, at)));
        return {_mm512_mul_ps(load_factors<F>(p, g), steps), _mm512_setzero_ps()};
    }
    const __m128i low = load16(p.low + at), high = load16(p.high + at);
    if constexpr (scales_halves(F) && shares_factors(F)) {
        const __m512 factor = load_factors<F>(p, g);
        return {_mm512_mul_ps(factor, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_unpacklo_epi64(low, high)))),
                _mm512_mul_ps(factor, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_unpackhi_epi64(low, high))))};
    }
    if constexpr (shares_two_factors(F)) {
        const __m512 steps = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_unpacklo_epi64(low, high)));
        const __m512 minimum_steps = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_unpackhi_epi64(low, high)));
        return {_mm512_mul_ps(load_halves(p, factors_at(F, g)), steps), _mm512_mul_ps(load_halves(p, factors_at(F, g) + 16), minimum_steps)};
    }
    const __m512 scale = load_halves(p, at);
    if constexpr (scale_bytes(F) == 32) return {scale, load_halves(p, at + 16)};
    return {scale, _mm512_mul_ps(scale, _mm512_set1_ps(-8.0f))};
}

// Vector v of a group of nibbles, with what upper bits belong to them.
template <Format F>
LLM_INLINE __m512i kept(Pair quants, int v) {
    const __m512i packed = load_pair(quants, v % 4 * 32);
    const __m512i nibbles = _mm512_and_si512(v < 4 ? packed : _mm512_srli_epi16(packed, 4), _mm512_set1_epi8(15));
    if constexpr (!upper_bits(F)) return nibbles;
    const UpperBits upper = upper_at(F, 0, 4 * v);
    const __m512i plane = load_pair(quants, upper.at), bits = _mm512_set1_epi8(upper.count == 2 ? 0x30 : 0x10);
    const __m512i moved = upper.shift < 4 ? _mm512_slli_epi16(plane, unsigned(4 - upper.shift)) : _mm512_srli_epi16(plane, unsigned(upper.shift - 4));
    return _mm512_ternarylogic_epi32(nibbles, moved, bits, 0xf8);  // nibbles | (moved & bits)
}

// Vector v of a group of weights as bytes, raised by 128 to be unsigned; q5_k's are.
template <Format F>
LLM_INLINE __m512i raised(Pair quants, int v) {
    const __m512i raise = _mm512_set1_epi8(char(128 - centre_of(F)));
    if constexpr (!has_nibbles(F)) return _mm512_add_epi8(load_pair(quants, 32 * v), raise);
    if constexpr (F == Format::q5_k) return kept<F>(quants, v);
    if constexpr (!has_codes(F)) return _mm512_add_epi8(kept<F>(quants, v), raise);
    const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes_of(F)));
    return _mm512_shuffle_epi8(_mm512_add_epi8(_mm512_broadcast_i32x4(table), raise), kept<F>(quants, v));
}

}  // namespace

}  // namespace llm::LLM_NAMESPACE
