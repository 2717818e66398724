// What the kernels of both sets with 256-bit registers load, and how.
// Included only by files that are compiled once per instruction set.
#pragma once
#include <immintrin.h>

#include "gemm_cases.hpp"
#include "narrow_rows.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

LLM_INLINE __m128i load16(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

LLM_INLINE __m256i load32(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

LLM_INLINE __m256i broadcast4(const int8_t* a) {
    int32_t four;
    __builtin_memcpy(&four, a, 4);
    return _mm256_set1_epi32(four);
}

// Keeps a sum where it is. Left alone, GCC turns the chain of adds into a tree, and the tree does not fit
// the sixteen registers: half the time went into spills.
LLM_INLINE void pin(__m256i& value) { asm("" : "+x"(value)); }

// Half a vector of a group in 16 bits: four outputs times four inputs.
template <Format F>
LLM_INLINE __m256i widened(const uint8_t* quants, int at) {
    if constexpr (F == Format::q12) return load32(quants + 2 * at);
    if constexpr (!has_codes(F)) return _mm256_cvtepi8_epi16(load16(quants + at));
    const __m128i packed = load16(quants + at % 128);  // high nibbles are the second half of the group
    const __m128i codes = _mm_and_si128(at < 128 ? packed : _mm_srli_epi16(packed, 4), _mm_set1_epi8(15));
    const auto* table = reinterpret_cast<const __m128i*>(codes_of(F));
    return _mm256_cvtepi8_epi16(_mm_shuffle_epi8(_mm_loadu_si128(table), codes));
}

// Vector v of a group of nibbles, with what upper bits belong to them.
template <Format F>
LLM_INLINE __m256i kept(const uint8_t* quants, int v) {
    const __m256i packed = load32(quants + v % 4 * 32);
    const __m256i nibbles = _mm256_and_si256(v < 4 ? packed : _mm256_srli_epi16(packed, 4), _mm256_set1_epi8(15));
    if constexpr (!upper_bits(F)) return nibbles;
    const UpperBits upper = upper_at(F, 0, 4 * v);
    const __m256i plane = load32(quants + upper.at);
    const __m256i moved = upper.shift < 4 ? _mm256_slli_epi16(plane, 4 - upper.shift) : _mm256_srli_epi16(plane, upper.shift - 4);
    return _mm256_or_si256(nibbles, _mm256_and_si256(moved, _mm256_set1_epi8(upper.count == 2 ? 0x30 : 0x10)));
}

// Vector v of a group of weights as bytes, raised to be unsigned.
template <Format F>
LLM_INLINE __m256i raised(const uint8_t* quants, int v, int by) {
    const __m256i raise = _mm256_set1_epi8(char(by - centre_of(F)));
    if constexpr (!has_nibbles(F)) return _mm256_add_epi8(load32(quants + 32 * v), raise);
    if constexpr (!has_codes(F)) return by == centre_of(F) ? kept<F>(quants, v) : _mm256_add_epi8(kept<F>(quants, v), raise);
    const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes_of(F)));
    return _mm256_shuffle_epi8(_mm256_add_epi8(_mm256_broadcastsi128_si256(table), raise), kept<F>(quants, v));
}

// Sums of four outputs times two pairs of inputs each: the pairs meet, and the outputs fall into order.
LLM_INLINE __m256i in_order(__m256i low, __m256i high) { return _mm256_permute4x64_epi64(_mm256_hadd_epi32(low, high), 0xd8); }

}  // namespace

}  // namespace llm::LLM_NAMESPACE
