// AVX-VNNI: AVX2 for CPUs that multiply and add four bytes in one instruction, and have no AVX-512 (Alder Lake and later).
#include "vectors_256.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

// Weights are raised by as much to be unsigned, where they are not.
constexpr int raise_of(Format f) { return f == Format::q5_k ? 0 : 128; }

constexpr bool is_unpacked(Format f) { return !reads_wide(f) && f != Format::s8; }  // for many rows

// Once unpacked, formats of a kind differ no more: they share kernels under the name of one of them.
constexpr Format kind_of(Format f) {
    if (is_q4(f)) return Format::q4;
    if (f == Format::q5_k) return f;
    return scales_halves(f) ? Format::q6 : Format::q5;
}

// The same instructions as a CPU with AVX-512 writes them, where these kernels are tested.
#if defined(LLM_VNNI_OF_AVX512)
LLM_INLINE __m256i add_fours(__m256i sums, __m256i bytes, __m256i signed_bytes) { return _mm256_dpbusd_epi32(sums, bytes, signed_bytes); }
LLM_INLINE __m256i add_twos(__m256i sums, __m256i a, __m256i b) { return _mm256_dpwssd_epi32(sums, a, b); }
#else
LLM_INLINE __m256i add_fours(__m256i sums, __m256i bytes, __m256i signed_bytes) { return _mm256_dpbusd_avx_epi32(sums, bytes, signed_bytes); }
LLM_INLINE __m256i add_twos(__m256i sums, __m256i a, __m256i b) { return _mm256_dpwssd_avx_epi32(sums, a, b); }
#endif

// See gemm_avx2.cpp.
LLM_INLINE void add_pairs(bool first, __m256i& sums, __m256i a, __m256i b) {
    sums = add_twos(first ? _mm256_setzero_si256() : sums, a, b);
}

// q4: dot products of both halves of a group times their steps. The sums of a half fit 16 bits, and the upper 16 bits meet
// zeros: instructions for pairs do what a slow 32-bit product would.
template <class Source, int R>
LLM_INLINE void dots_q4(const Source& weights, const NarrowRows& a, __m256i (&scaled)[R]) {
    __m256i dot[R][2];
    const __m256i zero = _mm256_setzero_si256();
    LLM_EACH(v, 4) {
        const __m256i first = weights.bytes(v), second = weights.bytes(4 + v);
        LLM_EACH(r, R) {
            dot[r][0] = add_fours(v == 0 ? zero : dot[r][0], first, broadcast4(a[r].quants + 4 * v));
            dot[r][1] = add_fours(v == 0 ? zero : dot[r][1], second, broadcast4(a[r].quants + kHalf + 4 * v));
        }
    }
    LLM_EACH(r, R) {
        const __m256i x = _mm256_set1_epi32(a[r].steps[0]), y = _mm256_set1_epi32(a[r].steps[1]);
        scaled[r] = add_twos(_mm256_madd_epi16(dot[r][0], x), dot[r][1], y);
    }
}

// The sums start from what raised weights add too much.
template <class Source, int R>
LLM_INLINE void dots_signed(const Source& weights, const NarrowRows& a, __m256i (&dot)[R][2]) {
    constexpr bool are_raised = raise_of(Source::format) != 0;
    LLM_EACH(v, 8) {
        const int half = v / 4;
        const __m256i w = weights.bytes(v);
        LLM_EACH(r, R) {
            const __m256i start = are_raised ? _mm256_set1_epi32(a[r].offsets[half]) : _mm256_setzero_si256();
            dot[r][half] = add_fours(v % 4 == 0 ? start : dot[r][half], w, broadcast4(a[r].quants + 4 * v));
        }
    }
}

}  // namespace

}  // namespace llm::LLM_NAMESPACE

#include "gemm_256.hpp"

namespace llm {

// All else is that of AVX2.
const Kernels& kernels_avxvnni() {
    static const Kernels table = [] {
        Kernels kernels = kernels_avx2();
        kernels.name = "avxvnni";
        kernels.bytes_pay = true;
        kernels.gemm = LLM_NAMESPACE::gemm;
        return kernels;
    }();
    return table;
}

}  // namespace llm
