// The matrix product with 256-bit registers. Bit-equal to gemm_scalar.cpp: integers are exact, the f32 steps are the same two.
// Included by gemm_avx2.cpp and gemm_avxvnni.cpp behind their own raise_of, is_unpacked, kind_of, add_pairs, dots_q4 and dots_signed.
#pragma once
#include "prefetch.hpp"
#include "sources_256.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

// 16-bit activations.
template <Format F, int R>
LLM_INLINE void dots_wide(const PackedPanel<F>& weights, const int16_t* const (&a)[R], int at, __m256i (&dot)[R][2]) {
    __m256i low[R], high[R];
    LLM_EACH(v, 8) {
        const __m256i w0 = widened<F>(weights.quants(), 32 * v), w1 = widened<F>(weights.quants(), 32 * v + 16);
        LLM_EACH(r, R) {
            int64_t four;
            __builtin_memcpy(&four, a[r] + at + 4 * v, 8);
            const __m256i x = _mm256_set1_epi64x(four);
            add_pairs(v == 0, low[r], w0, x);
            add_pairs(v == 0, high[r], w1, x);
        }
    }
    LLM_EACH(r, R) { dot[r][0] = in_order(low[r], high[r]); }
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

template <class Source, int R>
__attribute__((noinline)) void rows_of_panel(const GemmTile& t, int panel, int row) {
    constexpr Format F = Source::format;
    const int groups = t.weight->groups();
    Source weights(t, panel);
    const bool first = row == t.row_begin;  // later rows find the panel in the cache
    const uint8_t* coming = t.weight->quants(panel);
    NarrowRows narrow(*t.input, row);
    const int16_t* wide[R];
    const float* wide_scales[R];
    __m256 acc[R];
    LLM_EACH(r, R) {
        wide[r] = t.input->wide + size_t(row + r) * t.input->cols;
        wide_scales[r] = t.input->wide_scales + size_t(row + r) * t.input->groups();
        acc[r] = _mm256_setzero_ps();
    }
    for (int g = 0; g < groups; g++, weights.next()) {
        if (first) prefetch_weights(coming, weights.group_bytes());
        __m256i dot[R][2], scaled[R];
        if constexpr (reads_wide(F))
            dots_wide(weights, wide, g * kGroup, dot);
        else if constexpr (is_q4(F))
            dots_q4(weights, narrow, scaled);
        else
            dots_signed(weights, narrow, dot);
        const GroupScales s = weights.scales(g);
        LLM_EACH(r, R) {
            if constexpr (reads_wide(F)) {
                const __m256 scale = _mm256_mul_ps(s.scale, _mm256_broadcast_ss(wide_scales[r] + g));
                acc[r] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dot[r][0]), acc[r]);
            } else if constexpr (is_q4(F)) {
                acc[r] = _mm256_fmadd_ps(s.scale, _mm256_cvtepi32_ps(scaled[r]), acc[r]);
                acc[r] = _mm256_fmadd_ps(s.other, _mm256_broadcast_ss(&narrow[r].sum), acc[r]);
            } else if constexpr (scales_halves(F)) {
                const __m256 first = _mm256_mul_ps(_mm256_broadcast_ss(narrow[r].scales), _mm256_cvtepi32_ps(dot[r][0]));
                const __m256 second = _mm256_mul_ps(_mm256_broadcast_ss(narrow[r].scales + 1), _mm256_cvtepi32_ps(dot[r][1]));
                acc[r] = _mm256_fmadd_ps(s.other, second, _mm256_fmadd_ps(s.scale, first, acc[r]));
            } else {
                __m256 both = _mm256_mul_ps(_mm256_broadcast_ss(narrow[r].scales), _mm256_cvtepi32_ps(dot[r][0]));
                both = _mm256_fmadd_ps(_mm256_broadcast_ss(narrow[r].scales + 1), _mm256_cvtepi32_ps(dot[r][1]), both);
                acc[r] = _mm256_fmadd_ps(s.scale, both, acc[r]);
                if constexpr (F == Format::q5_k) acc[r] = _mm256_fmadd_ps(s.other, _mm256_broadcast_ss(&narrow[r].sum), acc[r]);
            }
        }
        narrow.next();
    }
    LLM_EACH(r, R) {
        if constexpr (!reads_wide(F)) acc[r] = _mm256_mul_ps(acc[r], _mm256_set1_ps(t.input->narrow_row(row + r)->unit));
        store_outputs(t, panel, row + r, acc[r]);
    }
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
    LLM_EACH(r, R) {
        a[r] = t.input->values + size_t(row + r) * t.input->cols;
        acc[r][0] = acc[r][1] = _mm256_setzero_ps();
    }
    for (int k = 0; k < cols; k++) {
        const __m256 first = _mm256_loadu_ps(w0 + k * kPanel), second = _mm256_loadu_ps(w1 + k * kPanel);
        LLM_EACH(r, R) {
            const __m256 x = _mm256_broadcast_ss(a[r] + k);
            acc[r][0] = _mm256_fmadd_ps(x, first, acc[r][0]);
            acc[r][1] = _mm256_fmadd_ps(x, second, acc[r][1]);
        }
    }
    LLM_EACH(r, R) {
        store_outputs(t, panel, row + r, acc[r][0]);
        if (pair) store_outputs(t, panel + 1, row + r, acc[r][1]);
    }
}

}  // namespace

void gemm(const GemmTile& t) {
    for_format(t.weight->format, [&](auto format) {
        if constexpr (format == Format::f32) {
            for (int panel = t.panel_begin; panel < t.panel_end; panel += 2)
                for_rows_of<6>(t, [&](auto count, int row) { rows_of_f32_panels<count>(t, panel, row); });
        } else {
            for (int panel = t.panel_begin; panel < t.panel_end; panel++) {
                if constexpr (is_unpacked(format))
                    if (t.row_end - t.row_begin > kPackedRows) {
                        unpack_panel<format>(t, panel);
                        for_rows_of<4>(t, [&](auto count, int row) { rows_of_panel<UnpackedPanel<kind_of(format)>, count>(t, panel, row); });
                        continue;
                    }
                for_rows_of<4>(t, [&](auto count, int row) { rows_of_panel<PackedPanel<format>, count>(t, panel, row); });
            }
        }
    });
}

}  // namespace llm::LLM_NAMESPACE
