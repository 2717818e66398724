// AVX2 + FMA + F16C: products of bytes are added up in 16 bits, or after widening.
#include "vectors_256.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

// What makes the least of small weights 0.
constexpr int raise_of(Format f) {
    return has_e2m1(f) ? 12 : f == Format::iq2 ? 43 : f == Format::iq3_xxs ? 62 : f == Format::iq3_s ? 15 : centre_of(f);
}

// Of these vectors of a group, raised to be unsigned, products add up in 16 bits.
constexpr int together_of(Format f) { return f == Format::iq2 || f == Format::iq3_xxs ? 1 : f == Format::q6 ? 2 : 4; }

// These are widened while they are multiplied; the others are unpacked for many rows.
constexpr bool is_unpacked(Format f) {
    return !reads_wide(f) && f != Format::s8 && f != Format::iq4_nl && f != Format::iq4_xs && f != Format::nf4;
}

// Once unpacked, formats of a kind differ no more: they share kernels under the name of one of them.
constexpr Format kind_of(Format f) {
    if (is_q4(f)) return Format::q4;
    if (f == Format::q5_k || together_of(f) < 4) return f;
    return scales_halves(f) ? Format::q3_k : Format::q5;
}

// sums += products of 16-bit pairs; the first ones begin the sums.
LLM_INLINE void add_pairs(bool first, __m256i& sums, __m256i a, __m256i b) {
    const __m256i products = _mm256_madd_epi16(a, b);
    sums = first ? products : _mm256_add_epi32(sums, products);
    pin(sums);
}

// q4, 8 outputs x one group, R rows: dot products of both halves times their steps. Nibbles are unsigned, so products of
// 15 * 127 add up in 16 bits; one multiplication by the step widens them. The low nibbles are the first half of the group.
template <class Source, int R>
LLM_INLINE void dots_q4(const Source& weights, const NarrowRows& a, __m256i (&scaled)[R]) {
    __m256i dot[R][2];
    LLM_EACH(v, 4) {
        const __m256i first = weights.bytes(v), second = weights.bytes(4 + v);
        LLM_EACH(r, R) {
            __m256i x = _mm256_maddubs_epi16(first, broadcast4(a[r].quants + 4 * v));
            __m256i y = _mm256_maddubs_epi16(second, broadcast4(a[r].quants + kHalf + 4 * v));
            dot[r][0] = v == 0 ? x : _mm256_add_epi16(dot[r][0], x);
            dot[r][1] = v == 0 ? y : _mm256_add_epi16(dot[r][1], y);
            pin(dot[r][0]);
            pin(dot[r][1]);
        }
    }
    LLM_EACH(r, R) {
        const __m256i first = _mm256_madd_epi16(dot[r][0], _mm256_set1_epi16(int16_t(a[r].steps[0])));
        scaled[r] = _mm256_add_epi32(first, _mm256_madd_epi16(dot[r][1], _mm256_set1_epi16(int16_t(a[r].steps[1]))));
    }
}

// Weights of up to seven bits: raised to be unsigned, eight products of 31 * 127 add up in 16 bits, or four of 63 * 127, or two of
// 124 * 127. The sums start from what raising adds too much.
template <class Source, int R>
LLM_INLINE void dots_small(const Source& weights, const NarrowRows& a, __m256i (&dot)[R][2]) {
    constexpr int together = together_of(Source::format);
    LLM_EACH(half, 2) {
        __m256i sums[R];
        LLM_EACH(v, 4) {
            const __m256i w = weights.bytes(4 * half + v);
            LLM_EACH(r, R) {
                const __m256i products = _mm256_maddubs_epi16(w, broadcast4(a[r].quants + kHalf * half + 4 * v));
                sums[r] = v % together == 0 ? products : _mm256_add_epi16(sums[r], products);
                pin(sums[r]);
                if (v % together + 1 < together) continue;
                const __m256i wide = _mm256_madd_epi16(sums[r], _mm256_set1_epi16(1));
                const __m256i start = _mm256_set1_epi32(a[r].offsets[half] / 128 * weights.raised_by());
                dot[r][half] = _mm256_add_epi32(v < together ? start : dot[r][half], wide);
            }
        }
    }
}

// Of s8 two products of 127 * 127 would do in 16 bits, but maddubs wants one side unsigned. Both are widened, as for q8.
template <class Source, int R>
LLM_INLINE void dots_widened(const Source& weights, const NarrowRows& a, __m256i (&dot)[R][2]) {
    constexpr Format F = Source::format;
    LLM_EACH(half, 2) {
        __m256i low[R], high[R];
        LLM_EACH(v, 4) {
            const int vector = 128 * half + 32 * v;
            const __m256i w0 = widened<F>(weights.quants(), vector), w1 = widened<F>(weights.quants(), vector + 16);
            LLM_EACH(r, R) {
                int32_t four;
                __builtin_memcpy(&four, a[r].quants + kHalf * half + 4 * v, 4);
                const __m256i x = _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(four)));
                add_pairs(v == 0, low[r], w0, x);
                add_pairs(v == 0, high[r], w1, x);
            }
        }
        LLM_EACH(r, R) { dot[r][half] = in_order(low[r], high[r]); }
    }
}

template <class Source, int R>
LLM_INLINE void dots_signed(const Source& weights, const NarrowRows& a, __m256i (&dot)[R][2]) {
    if constexpr (is_unpacked(Source::format)) dots_small(weights, a, dot);
    else dots_widened(weights, a, dot);
}

}  // namespace

}  // namespace llm::LLM_NAMESPACE

#include "gemm_256.hpp"
