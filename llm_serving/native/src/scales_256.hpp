// What the kernels of both sets with 256-bit registers make of a group's scales.
// Included only by files that are compiled once per instruction set.
#pragma once
#include "vectors_256.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

struct GroupScales {
    __m256 scale;
    __m256 other;  // the minimum, or the second half's scale; without either, unused
};

// As in numeric.hpp.
LLM_INLINE __m256 half_powers(__m256i exponents) {
    const __m256i one = _mm256_set1_epi32(1);
    const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(exponents, one), 23);
    const __m256i subnormal = _mm256_slli_epi32(_mm256_add_epi32(exponents, one), 21);
    return _mm256_castsi256_ps(_mm256_max_epi32(normal, subnormal));
}

template <Format F>
LLM_INLINE __m256 load_factors(const uint8_t* factors) {
    const __m256 of_outputs = _mm256_cvtph_ps(load16(factors));
    return has_grid(F) ? _mm256_mul_ps(_mm256_set1_ps(factor_unit(F)), of_outputs) : of_outputs;
}

template <Format F>
LLM_INLINE GroupScales load_scales(const uint8_t* scales, int g) {
    const uint8_t* factors = scales + factors_at(F, g);
    if constexpr (F == Format::mxfp4 || has_one_step(F)) {
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales + scales_at(F, g)));
        if constexpr (F == Format::mxfp4) return {half_powers(_mm256_cvtepu8_epi32(bytes)), _mm256_setzero_ps()};
        const __m256 steps = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
        return {_mm256_mul_ps(load_factors<F>(factors), steps), _mm256_setzero_ps()};
    }
    const __m128i own = load16(scales + scales_at(F, g));
    if constexpr (scales_halves(F) && shares_factors(F)) {
        const __m256 factor = load_factors<F>(factors);
        return {_mm256_mul_ps(factor, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(own))),
                _mm256_mul_ps(factor, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(own, own))))};
    }
    if constexpr (shares_two_factors(F)) {
        const __m256 steps = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(own));
        const __m256 minimum_steps = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(own, own)));
        return {_mm256_mul_ps(_mm256_cvtph_ps(load16(factors)), steps),
                _mm256_mul_ps(_mm256_cvtph_ps(load16(factors + 16)), minimum_steps)};
    }
    const __m256 scale = _mm256_cvtph_ps(own);
    if constexpr (scale_bytes(F) == 32) return {scale, _mm256_cvtph_ps(load16(scales + scales_at(F, g) + 16))};
    return {scale, _mm256_mul_ps(scale, _mm256_set1_ps(-8.0f))};
}

}  // namespace

}  // namespace llm::LLM_NAMESPACE
