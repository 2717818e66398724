// AVX-512 with VNNI (Ice Lake, Zen 4 and later): two panels, sixteen outputs, in one register.
// Bit-equal to gemm_scalar.cpp: integers are exact, the f32 steps are the same.
#include "narrow_rows.hpp"
#include "outputs_512.hpp"
#include "prefetch.hpp"
#include "sources_512.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

// Rows of a tile of one pair, and of two: 8 accumulators and 16 dot products nearly fill 32 registers. With two pairs
// an activation is loaded once for both: a tenth faster for 4 rows alone, not for more.
constexpr int kRows = 8;
constexpr int kRowsOfTwo = 4;

// sums += products of four bytes of `w` with the four at `a`, the same for every output. Written out, because GCC loads them by
// an instruction of its own: a twentieth slower where two vectors are computed in a cycle.
LLM_INLINE void add_fours(__m512i& sums, __m512i w, const int8_t* a) {
    struct Four { int8_t bytes[4]; };
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(w), "m"(*reinterpret_cast<const Four*>(a)));
}

// The same of two 16-bit numbers.
LLM_INLINE void add_twos(__m512i& sums, __m512i w, const int16_t* a) {
    struct Two { int16_t numbers[2]; };
    asm("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(w), "m"(*reinterpret_cast<const Two*>(a)));
}

// q4: dot products of both halves of a group times their steps. The sums of a half fit 16 bits, and the upper 16 bits meet
// zeros: instructions for pairs do what a slow 32-bit product would.
template <class Source, int R, int P>
LLM_INLINE void dots_q4(const Source (&weights)[P], const NarrowRows& a, __m512i (&scaled)[P][R]) {
    __m512i dot[P][R][2];
    LLM_EACH(v, 4) {
        __m512i first[P], second[P];
        LLM_EACH(p, P) {
            first[p] = weights[p].bytes(v);
            second[p] = weights[p].bytes(4 + v);
        }
        LLM_EACH(r, R) {
            LLM_EACH(p, P) {
                if (v == 0) dot[p][r][0] = dot[p][r][1] = _mm512_setzero_si512();
                add_fours(dot[p][r][0], first[p], a[r].quants + 4 * v);
                add_fours(dot[p][r][1], second[p], a[r].quants + kHalf + 4 * v);
            }
        }
    }
    LLM_EACH(r, R) {
        const __m512i x = _mm512_set1_epi32(a[r].steps[0]), y = _mm512_set1_epi32(a[r].steps[1]);
        LLM_EACH(p, P) { scaled[p][r] = _mm512_dpwssd_epi32(_mm512_madd_epi16(dot[p][r][0], x), dot[p][r][1], y); }
    }
}

// The sums start from what raised weights add too much.
template <class Source, int R, int P>
LLM_INLINE void dots_signed(const Source (&weights)[P], const NarrowRows& a, __m512i (&dot)[P][R][2]) {
    constexpr bool raised = Source::format != Format::q5_k;
    LLM_EACH(v, 8) {
        const int half = v / 4;
        __m512i w[P];
        LLM_EACH(p, P) { w[p] = weights[p].bytes(v); }
        LLM_EACH(r, R) {
            LLM_EACH(p, P) {
                if (v % 4 == 0) dot[p][r][half] = raised ? _mm512_set1_epi32(a[r].offsets[half]) : _mm512_setzero_si512();
                add_fours(dot[p][r][half], w[p], a[r].quants + 4 * v);
            }
        }
    }
}

// Vector v of a group in 16 bits: eight outputs times four inputs.
template <Format F>
LLM_INLINE __m512i widened(const uint8_t* quants, int v) {
    if constexpr (F == Format::q12) return _mm512_loadu_si512(quants + 64 * v);
    return _mm512_cvtepi8_epi16(load32(quants + 32 * v));
}

// 16-bit activations. A widened vector is eight outputs times two pairs of inputs, for each panel of the
// pair; the pairs meet, and the sixteen outputs fall into order, once a group.
template <Format F, int R>
LLM_INLINE void dots_wide(const PackedPair<F>& weights, const int16_t* const (&a)[R], int at, __m512i (&dot)[R][2]) {
    __m512i low[R], high[R];
    LLM_EACH(v, 8) {
        const __m512i w0 = widened<F>(weights.quants().low, v), w1 = widened<F>(weights.quants().high, v);
        LLM_EACH(r, R) {
            int64_t four;
            __builtin_memcpy(&four, a[r] + at + 4 * v, 8);
            const __m512i x = _mm512_set1_epi64(four);
            low[r] = _mm512_dpwssd_epi32(v == 0 ? _mm512_setzero_si512() : low[r], w0, x);
            high[r] = _mm512_dpwssd_epi32(v == 0 ? _mm512_setzero_si512() : high[r], w1, x);
        }
    }
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    LLM_EACH(r, R) {
        dot[r][0] = _mm512_add_epi32(_mm512_permutex2var_epi32(low[r], even, high[r]), _mm512_permutex2var_epi32(low[r], odd, high[r]));
    }
}

// 16-bit activations and unpacked weights: outputs are in order, and embedded loads spare registers for two sums a row, since eight
// alone would wait for each other.
template <int R>
LLM_INLINE void dots_wide(const UnpackedPair<Format::q12>& weights, const int16_t* const (&a)[R], int at, __m512i (&dot)[R][2]) {
    LLM_EACH(k, 16) {
        const __m512i w = weights.twos(k);
        LLM_EACH(r, R) {
            if (k < 2) dot[r][k] = _mm512_setzero_si512();
            add_twos(dot[r][k % 2], w, a[r] + at + 2 * k);
        }
    }
    LLM_EACH(r, R) { dot[r][0] = _mm512_add_epi32(dot[r][0], dot[r][1]); }
}

// P pairs of panels from `panel` on, R rows from `row` on.
template <class Source, int R, int P>
__attribute__((noinline)) void rows_of_pairs(const GemmTile& t, int panel, int row) {
    constexpr Format F = Source::format;
    const int groups = t.weight->groups();
    Source weights[P];
    LLM_EACH(p, P) { weights[p] = Source(t, panel + 2 * p); }
    const bool first = row == t.row_begin;  // later rows find the panels in the cache
    const uint8_t* coming = t.weight->quants(panel);
    NarrowRows narrow(*t.input, row);
    const int16_t* wide[R];
    const float* wide_scales[R];
    __m512 acc[P][R];
    LLM_EACH(r, R) {
        wide[r] = t.input->wide + size_t(row + r) * t.input->cols;
        wide_scales[r] = t.input->wide_scales + size_t(row + r) * t.input->groups();
        LLM_EACH(p, P) { acc[p][r] = _mm512_setzero_ps(); }
    }
    for (int g = 0; g < groups; g++) {
        if (first) prefetch_weights(coming, 2 * P * weights[0].group_bytes());
        __m512i dot[P][R][2], scaled[P][R];
        if constexpr (reads_wide(F))
            dots_wide(weights[0], wide, g * kGroup, dot[0]);
        else if constexpr (is_q4(F))
            dots_q4(weights, narrow, scaled);
        else
            dots_signed(weights, narrow, dot);
        LLM_EACH(p, P) {
            const GroupScales s = weights[p].scales(g);
            LLM_EACH(r, R) {
                if constexpr (reads_wide(F)) {
                    const __m512 scale = _mm512_mul_ps(s.scale, _mm512_set1_ps(wide_scales[r][g]));
                    acc[p][r] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dot[p][r][0]), acc[p][r]);
                } else if constexpr (is_q4(F)) {
                    acc[p][r] = _mm512_fmadd_ps(s.scale, _mm512_cvtepi32_ps(scaled[p][r]), acc[p][r]);
                    acc[p][r] = _mm512_fmadd_ps(s.other, _mm512_set1_ps(narrow[r].sum), acc[p][r]);
                } else if constexpr (scales_halves(F)) {
                    const __m512 first = _mm512_mul_ps(_mm512_set1_ps(narrow[r].scales[0]), _mm512_cvtepi32_ps(dot[p][r][0]));
                    const __m512 second = _mm512_mul_ps(_mm512_set1_ps(narrow[r].scales[1]), _mm512_cvtepi32_ps(dot[p][r][1]));
                    acc[p][r] = _mm512_fmadd_ps(s.other, second, _mm512_fmadd_ps(s.scale, first, acc[p][r]));
                } else {
                    __m512 both = _mm512_mul_ps(_mm512_set1_ps(narrow[r].scales[0]), _mm512_cvtepi32_ps(dot[p][r][0]));
                    both = _mm512_fmadd_ps(_mm512_set1_ps(narrow[r].scales[1]), _mm512_cvtepi32_ps(dot[p][r][1]), both);
                    acc[p][r] = _mm512_fmadd_ps(s.scale, both, acc[p][r]);
                    if constexpr (F == Format::q5_k) acc[p][r] = _mm512_fmadd_ps(s.other, _mm512_set1_ps(narrow[r].sum), acc[p][r]);
                }
            }
            weights[p].next();
        }
        narrow.next();
    }
    LLM_EACH(p, P) {
        const int at = panel + 2 * p;
        LLM_EACH(r, R) {
            if constexpr (!reads_wide(F)) acc[p][r] = _mm512_mul_ps(acc[p][r], _mm512_set1_ps(t.input->narrow_row(row + r)->unit));
            store_outputs(t, at, outputs_from(t, at), row + r, acc[p][r]);
        }
    }
}

// Sixteen outputs of f32 weights: a plain chain over the inputs for each row.
template <int R>
__attribute__((noinline)) void rows_of_f32_pair(const GemmTile& t, int panel, int row) {
    const int cols = t.weight->cols;
    const int partner = panel + 1 < t.panel_end ? panel + 1 : panel;
    const Pair w = {t.weight->quants(panel), t.weight->quants(partner)};
    const float* a[R];
    __m512 acc[R];
    LLM_EACH(r, R) {
        a[r] = t.input->values + size_t(row + r) * t.input->cols;
        acc[r] = _mm512_setzero_ps();
    }
    for (int k = 0; k < cols; k++) {
        const __m512 weights = load_floats(w, k * kPanel * int(sizeof(float)));
        LLM_EACH(r, R) { acc[r] = _mm512_fmadd_ps(_mm512_set1_ps(a[r][k]), weights, acc[r]); }
    }
    LLM_EACH(r, R) { store_outputs(t, panel, outputs_from(t, panel), row + r, acc[r]); }
}

}  // namespace

void gemm(const GemmTile& t) {
    const int rows = t.row_end - t.row_begin;
    for_format(t.weight->format, [&](auto format) {
        using Packed = PackedPair<format>;
        using Unpacked = UnpackedPair<kind_of(format)>;
        int panel = t.panel_begin;
        if constexpr (format != Format::f32 && !reads_wide(format))
            if (rows == kRowsOfTwo)
                for (; panel + 4 <= t.panel_end; panel += 4) rows_of_pairs<Packed, kRowsOfTwo, 2>(t, panel, t.row_begin);
        for (; panel < t.panel_end; panel += 2) {
            if constexpr (format == Format::f32) {
                for_rows_of<kRows>(t, [&](auto count, int row) { rows_of_f32_pair<count>(t, panel, row); });
            } else if (rows > kPackedRows) {
                unpack_pair<format>(t, panel);
                for_rows_of<kRows>(t, [&](auto count, int row) { rows_of_pairs<Unpacked, count, 1>(t, panel, row); });
            } else {
                for_rows_of<kRows>(t, [&](auto count, int row) { rows_of_pairs<Packed, count, 1>(t, panel, row); });
            }
        }
    });
}

}  // namespace llm::LLM_NAMESPACE
