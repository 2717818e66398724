// AVX2 + FMA + F16C. Bit-equal to gemm_scalar.cpp: integers are exact, the f32 steps are the same two.
#include <immintrin.h>

#include "gemm_cases.hpp"
#include "narrow_rows.hpp"
#include "prefetch.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

struct GroupScales {
    __m256 scale, minimum;
};

LLM_INLINE __m128i load16(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

template <Format F>
LLM_INLINE GroupScales load_scales(const uint8_t* scales, int g) {
    const __m128i own = load16(scales + scales_at(F, g));
    if constexpr (F == Format::q4_k) {
        const uint8_t* factors = scales + factors_at(g);
        const __m256 steps = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(own));
        const __m256 minimum_steps = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(own, own)));
        return {_mm256_mul_ps(_mm256_cvtph_ps(load16(factors)), steps),
                _mm256_mul_ps(_mm256_cvtph_ps(load16(factors + 16)), minimum_steps)};
    }
    const __m256 scale = _mm256_cvtph_ps(own);
    if constexpr (F == Format::q4) return {scale, _mm256_cvtph_ps(load16(scales + scales_at(F, g) + 16))};
    return {scale, _mm256_mul_ps(scale, _mm256_set1_ps(-8.0f))};  // unused without a minimum
}

LLM_INLINE __m256i broadcast4(const int8_t* a) {
    int32_t four;
    __builtin_memcpy(&four, a, 4);
    return _mm256_set1_epi32(four);
}

LLM_INLINE __m256i load32(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

// Keeps a sum where it is. Left alone, GCC turns the chain of adds into a tree, and the tree does not fit
// the sixteen registers: half the time went into spills.
LLM_INLINE void pin(__m256i& value) { asm("" : "+x"(value)); }

// q4, 8 outputs x one group, R rows: dot products of both halves times their steps. Nibbles are unsigned, so products of
// 15 * 127 add up in 16 bits; one multiplication by the step widens them. The low nibbles are the first half of the group.
template <int R>
LLM_INLINE void dots_q4(const uint8_t* quants, const NarrowRows& a, __m256i (&scaled)[R]) {
    __m256i dot[R][2];
    const __m256i low = _mm256_set1_epi8(15);
    unrolled<4>(LLM_EACH(v) {
        __m256i packed = load32(quants + 32 * v);
        __m256i first = _mm256_and_si256(packed, low);
        __m256i second = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low);
        unrolled<R>(LLM_EACH(r) {
            __m256i x = _mm256_maddubs_epi16(first, broadcast4(a[r].quants + 4 * v));
            __m256i y = _mm256_maddubs_epi16(second, broadcast4(a[r].quants + kHalf + 4 * v));
            dot[r][0] = v == 0 ? x : _mm256_add_epi16(dot[r][0], x);
            dot[r][1] = v == 0 ? y : _mm256_add_epi16(dot[r][1], y);
            pin(dot[r][0]);
            pin(dot[r][1]);
        });
    });
    unrolled<R>(LLM_EACH(r) {
        const __m256i first = _mm256_madd_epi16(dot[r][0], _mm256_set1_epi16(a[r].steps[0]));
        scaled[r] = _mm256_add_epi32(first, _mm256_madd_epi16(dot[r][1], _mm256_set1_epi16(a[r].steps[1])));
    });
}

// Sums of four outputs times two pairs of inputs each: the pairs meet, and the outputs fall into order.
LLM_INLINE __m256i in_order(__m256i low, __m256i high) { return _mm256_permute4x64_epi64(_mm256_hadd_epi32(low, high), 0xd8); }

// Half a vector of a group in 16 bits: four outputs times four inputs.
template <Format F>
LLM_INLINE __m256i widened(const uint8_t* quants, int at) {
    if constexpr (F == Format::q12) return load32(quants + 2 * at);
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(quants + at)));
}

// 16-bit activations.
template <Format F, int R>
LLM_INLINE void dots_wide(const uint8_t* quants, const int16_t* const (&a)[R], int at, __m256i (&dot)[R][2]) {
    __m256i low[R], high[R];
    unrolled<8>(LLM_EACH(v) {
        const __m256i w0 = widened<F>(quants, 32 * v), w1 = widened<F>(quants, 32 * v + 16);
        unrolled<R>(LLM_EACH(r) {
            int64_t four;
            __builtin_memcpy(&four, a[r] + at + 4 * v, 8);
            const __m256i x = _mm256_set1_epi64x(four);
            const __m256i p0 = _mm256_madd_epi16(w0, x), p1 = _mm256_madd_epi16(w1, x);
            low[r] = v == 0 ? p0 : _mm256_add_epi32(low[r], p0);
            high[r] = v == 0 ? p1 : _mm256_add_epi32(high[r], p1);
            pin(low[r]);
            pin(high[r]);
        });
    });
    unrolled<R>(LLM_EACH(r) { dot[r][0] = in_order(low[r], high[r]); });
}

// s8: two products of 127 * 127 would do in 16 bits, but maddubs wants one side unsigned. Both are widened, as for q8.
template <int R>
LLM_INLINE void dots_s8(const uint8_t* quants, const NarrowRows& a, __m256i (&dot)[R][2]) {
    unrolled<2>(LLM_EACH(half) {
        __m256i low[R], high[R];
        unrolled<4>(LLM_EACH(v) {
            constexpr int vector = 128 * half + 32 * v;
            const __m256i w0 = widened<Format::s8>(quants, vector), w1 = widened<Format::s8>(quants, vector + 16);
            unrolled<R>(LLM_EACH(r) {
                int32_t four;
                __builtin_memcpy(&four, a[r].quants + kHalf * half + 4 * v, 4);
                const __m256i x = _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(four)));
                const __m256i p0 = _mm256_madd_epi16(w0, x), p1 = _mm256_madd_epi16(w1, x);
                low[r] = v == 0 ? p0 : _mm256_add_epi32(low[r], p0);
                high[r] = v == 0 ? p1 : _mm256_add_epi32(high[r], p1);
                pin(low[r]);
                pin(high[r]);
            });
        });
        unrolled<R>(LLM_EACH(r) { dot[r][half] = in_order(low[r], high[r]); });
    });
}

void store_outputs(const GemmTile& t, int panel, int row, __m256 acc) {
    const int column = panel * kPanel;
    float* out = t.out + size_t(row) * t.out_stride + column;
    const int outputs = t.weight->rows - column;
    if (outputs >= kPanel) {
        if (t.bias) acc = _mm256_add_ps(acc, _mm256_loadu_ps(t.bias + column));
        if (t.accumulate) acc = _mm256_add_ps(_mm256_loadu_ps(out), acc);
        return _mm256_storeu_ps(out, acc);
    }
    float y[kPanel];  // the last panel may be narrower
    _mm256_storeu_ps(y, acc);
    for (int o = 0; o < outputs; o++) {
        float value = t.bias ? y[o] + t.bias[column + o] : y[o];
        out[o] = t.accumulate ? out[o] + value : value;
    }
}

template <Format F, int R>
__attribute__((noinline)) void rows_of_panel(const GemmTile& t, int panel, int row) {
    const PackedMatrix& w = *t.weight;
    const int groups = w.groups();
    const uint8_t* quants = w.quants(panel);
    const uint8_t* scales = w.scales(panel);
    const bool first = row == t.row_begin;  // later rows find the panel in the cache
    NarrowRows narrow(*t.input, row);
    const int16_t* wide[R];
    const float* wide_scales[R];
    __m256 acc[R];
    unrolled<R>(LLM_EACH(r) {
        wide[r] = t.input->wide + size_t(row + r) * t.input->cols;
        wide_scales[r] = t.input->wide_scales + size_t(row + r) * groups;
        acc[r] = _mm256_setzero_ps();
    });
    for (int g = 0; g < groups; g++, quants += quant_bytes(F)) {
        if (first) prefetch_weights<quant_bytes(F) + scale_bytes(F)>(w.quants(panel), g);
        __m256i dot[R][2], scaled[R];
        if constexpr (reads_wide(F))
            dots_wide<F, R>(quants, wide, g * kGroup, dot);
        else if constexpr (F == Format::s8)
            dots_s8<R>(quants, narrow, dot);
        else
            dots_q4<R>(quants, narrow, scaled);
        const GroupScales s = load_scales<F>(scales, g);
        unrolled<R>(LLM_EACH(r) {
            if constexpr (reads_wide(F)) {
                const __m256 scale = _mm256_mul_ps(s.scale, _mm256_broadcast_ss(wide_scales[r] + g));
                acc[r] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dot[r][0]), acc[r]);
            } else if constexpr (is_q4(F)) {
                acc[r] = _mm256_fmadd_ps(s.scale, _mm256_cvtepi32_ps(scaled[r]), acc[r]);
                acc[r] = _mm256_fmadd_ps(s.minimum, _mm256_broadcast_ss(&narrow[r].sum), acc[r]);
            } else {
                __m256 both = _mm256_mul_ps(_mm256_broadcast_ss(narrow[r].scales), _mm256_cvtepi32_ps(dot[r][0]));
                both = _mm256_fmadd_ps(_mm256_broadcast_ss(narrow[r].scales + 1), _mm256_cvtepi32_ps(dot[r][1]), both);
                acc[r] = _mm256_fmadd_ps(s.scale, both, acc[r]);
            }
        });
        narrow.next();
    }
    unrolled<R>(LLM_EACH(r) {
        if constexpr (!reads_wide(F)) acc[r] = _mm256_mul_ps(acc[r], _mm256_set1_ps(t.input->narrow_row(row + r)->unit));
        store_outputs(t, panel, row + r, acc[r]);
    });
}

// Up to six rows by two panels: twelve accumulators, each a plain chain over the inputs.
template <int R>
void rows_of_f32_panels(const GemmTile& t, int panel, int row) {
    const int cols = t.weight->cols;
    const bool pair = panel + 1 < t.panel_end;
    const auto* w0 = reinterpret_cast<const float*>(t.weight->quants(panel));
    const auto* w1 = reinterpret_cast<const float*>(t.weight->quants(pair ? panel + 1 : panel));
    const float* a[R];
    __m256 acc[R][2];
    unrolled<R>(LLM_EACH(r) {
        a[r] = t.input->values + size_t(row + r) * cols;
        acc[r][0] = acc[r][1] = _mm256_setzero_ps();
    });
    for (int k = 0; k < cols; k++) {
        const __m256 first = _mm256_loadu_ps(w0 + k * kPanel), second = _mm256_loadu_ps(w1 + k * kPanel);
        unrolled<R>(LLM_EACH(r) {
            const __m256 x = _mm256_broadcast_ss(a[r] + k);
            acc[r][0] = _mm256_fmadd_ps(x, first, acc[r][0]);
            acc[r][1] = _mm256_fmadd_ps(x, second, acc[r][1]);
        });
    }
    unrolled<R>(LLM_EACH(r) {
        store_outputs(t, panel, row + r, acc[r][0]);
        if (pair) store_outputs(t, panel + 1, row + r, acc[r][1]);
    });
}

}  // namespace

void gemm(const GemmTile& t) {
    for_format(t.weight->format, [&](auto format) {
        if constexpr (format == Format::f32) {
            for (int panel = t.panel_begin; panel < t.panel_end; panel += 2)
                for_rows_of<6>(t, [&](auto count, int row) { rows_of_f32_panels<count>(t, panel, row); });
        } else {
            for (int panel = t.panel_begin; panel < t.panel_end; panel++)
                for_rows_of<4>(t, [&](auto count, int row) { rows_of_panel<format, count>(t, panel, row); });
        }
    });
}

}  // namespace llm::LLM_NAMESPACE
