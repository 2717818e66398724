// ARM64 with the dot product (Armv8.2 and later: Neoverse, Graviton 2, Apple silicon, Cortex-A55 and A76).
// Bit-equal to gemm_scalar.cpp: integers are exact, the f32 steps are the same.
//
// A vector of a panel is 4 inputs times 4 outputs twice, which is what sdot multiplies with a lane of the activations:
// outputs stay where they are, and nothing is summed across a register (q12 excepted).
#include "weights_neon.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

constexpr int kRows = 4;  // sums, dot products of half a group and activations nearly fill 32 registers

LLM_INLINE Lanes to_float(const int32x4_t (&dot)[2]) { return {vcvtq_f32_s32(dot[0]), vcvtq_f32_s32(dot[1])}; }

// Formats for 8-bit activations: 8 outputs x half a group, R rows. One half at a time: sums of both would not fit the registers.
template <Format F, int R>
LLM_INLINE void dots_of_half(const uint8_t* quants, int half, const NarrowGroup* const (&a)[R], int g, int32x4_t (&dot)[R][2]) {
    int8x16_t x[R];
    LLM_EACH(r, R) {
        x[r] = vld1q_s8(a[r][g].quants + kHalf * half);
        dot[r][0] = dot[r][1] = vdupq_n_s32(0);
    }
    unrolled<4>(LLM_WITH(v) {
        LLM_EACH(j, 2) {
            const int8x16_t w = weights<F>(quants, half, v, j);
            LLM_EACH(r, R) { dot[r][j] = vdotq_laneq_s32(dot[r][j], w, x[r], decltype(v)::value); }
        }
    });
}

// q8, outputs 4j to 4j + 3: an activation of 16 bits is 256 high + low + 128 with low in -128..127, so that both are bytes
// for sdot. What the 128 stands for is the weights' sum, the same for all rows. Sums may wrap on the way; the result fits.
template <int R>
LLM_INLINE void dots_q8(const uint8_t* quants, int j, const int16_t* const (&a)[R], int at, int32x4_t (&dot)[R]) {
    const int8x16_t raise = vdupq_n_s8(-128);
    int32x4_t high[R], low[R], raised = vdupq_n_s32(0);
    LLM_EACH(r, R) { high[r] = low[r] = vdupq_n_s32(0); }
    LLM_EACH(half, 2) {
        int8x16_t x_low[R], x_high[R];
        LLM_EACH(r, R) {
            const int8x16x2_t bytes = vld2q_s8(reinterpret_cast<const int8_t*>(a[r] + at + kHalf * half));
            x_low[r] = veorq_s8(bytes.val[0], raise);
            x_high[r] = bytes.val[1];
        }
        unrolled<4>(LLM_WITH(v) {
            const int8x16_t w = weights<Format::q8>(quants, half, v, j);
            raised = vdotq_s32(raised, w, raise);
            LLM_EACH(r, R) {
                low[r] = vdotq_laneq_s32(low[r], w, x_low[r], decltype(v)::value);
                high[r] = vdotq_laneq_s32(high[r], w, x_high[r], decltype(v)::value);
            }
        });
    }
    LLM_EACH(r, R) { dot[r] = vaddq_s32(vsubq_s32(low[r], raised), vshlq_n_s32(high[r], 8)); }
}

// q12, outputs 4j to 4j + 3: 16 bits on both sides. An output has a register of its own, and a lane of it is a sum of
// every fourth input; they meet once a group.
template <int R>
LLM_INLINE void dots_q12(const uint8_t* quants, int j, const int16_t* const (&a)[R], int at, int32x4_t (&dot)[R]) {
    int32x4_t sums[R][4];
    LLM_EACH(r, R) { sums[r][0] = sums[r][1] = sums[r][2] = sums[r][3] = vdupq_n_s32(0); }
    LLM_EACH(v, 8) {
        const auto* pair = reinterpret_cast<const int16_t*>(quants + 64 * v + 32 * j);
        const int16x8_t w0 = vld1q_s16(pair), w1 = vld1q_s16(pair + 8);
        LLM_EACH(r, R) {
            int64_t four;
            __builtin_memcpy(&four, a[r] + at + 4 * v, 8);
            const int16x8_t x = vreinterpretq_s16_s64(vdupq_n_s64(four));
            sums[r][0] = vmlal_s16(sums[r][0], vget_low_s16(w0), vget_low_s16(x));
            sums[r][1] = vmlal_high_s16(sums[r][1], w0, x);
            sums[r][2] = vmlal_s16(sums[r][2], vget_low_s16(w1), vget_low_s16(x));
            sums[r][3] = vmlal_high_s16(sums[r][3], w1, x);
        }
    }
    LLM_EACH(r, R) { dot[r] = vpaddq_s32(vpaddq_s32(sums[r][0], sums[r][1]), vpaddq_s32(sums[r][2], sums[r][3])); }
}

// As far ahead as in gemm_avx2.cpp; nobody has measured it on ARM.
constexpr int kAhead = 8192;

template <Format F>
LLM_INLINE void prefetch_group(const uint8_t* quants) {
    for (int line = 0; line < quant_bytes(F); line += 64) __builtin_prefetch(quants + kAhead + line);
}

LLM_INLINE void store_outputs(const GemmTile& t, int panel, int row, Lanes acc) {
    const int column = panel * kPanel;
    float* out = t.out + size_t(row) * t.out_stride + column;
    const int outputs = t.weight->rows - column;
    if (outputs >= kPanel) {
        if (t.bias) acc = add(acc, load(t.bias + column));
        return store(out, t.accumulate ? add(load(out), acc) : acc);
    }
    float y[kPanel];  // the last panel may be narrower
    store(y, acc);
    for (int o = 0; o < outputs; o++) {
        const float value = t.bias ? y[o] + t.bias[column + o] : y[o];
        out[o] = t.accumulate ? out[o] + value : value;
    }
}

// Formats for 8-bit activations, R rows.
template <Format F, int R>
__attribute__((noinline)) void narrow_rows(const GemmTile& t, int panel, int row) {
    const int groups = t.weight->groups();
    const uint8_t* quants = t.weight->quants(panel);
    const uint8_t* scales = t.weight->scales(panel);
    const bool first = row == t.row_begin;  // later rows find the panel in the cache
    const NarrowGroup* a[R];
    Lanes acc[R];
    LLM_EACH(r, R) {
        a[r] = t.input->narrow_row(row + r);
        acc[r] = broadcast(0.0f);
    }
    for (int g = 0; g < groups; g++, quants += quant_bytes(F)) {
        if (first) prefetch_group<F>(quants);
        int32x4_t dot[R][2], first_half[R][2];
        Lanes both[R];
        dots_of_half<F, R>(quants, 0, a, g, dot);
        LLM_EACH(r, R) {
            if constexpr (is_q4(F)) {
                first_half[r][0] = vmulq_n_s32(dot[r][0], a[r][g].steps[0]);
                first_half[r][1] = vmulq_n_s32(dot[r][1], a[r][g].steps[0]);
            } else {
                both[r] = multiply(broadcast(a[r][g].scales[0]), to_float(dot[r]));
            }
        }
        dots_of_half<F, R>(quants, 1, a, g, dot);
        const GroupScales s = load_scales<F>(scales, g);
        LLM_EACH(r, R) {
            if constexpr (is_q4(F)) {
                dot[r][0] = vmlaq_n_s32(first_half[r][0], dot[r][0], a[r][g].steps[1]);
                dot[r][1] = vmlaq_n_s32(first_half[r][1], dot[r][1], a[r][g].steps[1]);
                acc[r] = fused(s.scale, to_float(dot[r]), acc[r]);
                acc[r] = fused(s.other, broadcast(a[r][g].sum), acc[r]);
            } else if constexpr (scales_halves(F)) {
                acc[r] = fused(s.scale, both[r], acc[r]);
                acc[r] = fused(s.other, multiply(broadcast(a[r][g].scales[1]), to_float(dot[r])), acc[r]);
            } else {
                both[r] = fused(broadcast(a[r][g].scales[1]), to_float(dot[r]), both[r]);
                acc[r] = fused(s.scale, both[r], acc[r]);
                if constexpr (F == Format::q5_k) acc[r] = fused(s.other, broadcast(a[r][g].sum), acc[r]);
            }
        }
    }
    LLM_EACH(r, R) { store_outputs(t, panel, row + r, multiply(acc[r], broadcast(a[r]->unit))); }
}

// q8 and q12, R rows times outputs 4j to 4j + 3: an output has more sums than above, and the other four can wait.
template <Format F, int R>
__attribute__((noinline)) void wide_rows(const GemmTile& t, int panel, int j, int row, float (&out)[R][kPanel]) {
    const int groups = t.weight->groups();
    const uint8_t* quants = t.weight->quants(panel);
    const uint8_t* scales = t.weight->scales(panel);
    const bool first = row == t.row_begin && j == 0;
    const int16_t* a[R];
    const float* scale_a[R];
    float32x4_t acc[R];
    LLM_EACH(r, R) {
        a[r] = t.input->wide + size_t(row + r) * t.input->cols;
        scale_a[r] = t.input->wide_scales + size_t(row + r) * t.input->groups();
        acc[r] = vdupq_n_f32(0.0f);
    }
    for (int g = 0; g < groups; g++, quants += quant_bytes(F), scales += scale_bytes(F)) {
        if (first) prefetch_group<F>(quants);
        int32x4_t dot[R];
        if constexpr (F == Format::q12)
            dots_q12<R>(quants, j, a, g * kGroup, dot);
        else
            dots_q8<R>(quants, j, a, g * kGroup, dot);
        const float32x4_t scale = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(scales) + 4 * j)));
        LLM_EACH(r, R) { acc[r] = vfmaq_f32(acc[r], vmulq_n_f32(scale, scale_a[r][g]), vcvtq_f32_s32(dot[r])); }
    }
    LLM_EACH(r, R) { vst1q_f32(out[r] + 4 * j, acc[r]); }
}

// Up to four rows by two panels of f32 weights: a plain chain over the inputs for each of sixteen registers.
template <int R>
__attribute__((noinline)) void f32_rows(const GemmTile& t, int panel, int row) {
    const int cols = t.weight->cols;
    const bool pair = panel + 1 < t.panel_end;
    const auto* w0 = reinterpret_cast<const float*>(t.weight->quants(panel));
    const auto* w1 = reinterpret_cast<const float*>(t.weight->quants(pair ? panel + 1 : panel));
    const float* a[R];
    Lanes acc[R][2];
    LLM_EACH(r, R) {
        a[r] = t.input->values + size_t(row + r) * t.input->cols;
        acc[r][0] = acc[r][1] = broadcast(0.0f);
    }
    for (int k = 0; k < cols; k++) {
        const Lanes first = load(w0 + k * kPanel), second = load(w1 + k * kPanel);
        LLM_EACH(r, R) {
            const Lanes x = broadcast(a[r][k]);
            acc[r][0] = fused(x, first, acc[r][0]);
            acc[r][1] = fused(x, second, acc[r][1]);
        }
    }
    LLM_EACH(r, R) {
        store_outputs(t, panel, row + r, acc[r][0]);
        if (pair) store_outputs(t, panel + 1, row + r, acc[r][1]);
    }
}

template <Format F, int R>
LLM_INLINE void rows_of(const GemmTile& t, int panel, int row) {
    if constexpr (F == Format::f32) return f32_rows<R>(t, panel, row);
    if constexpr (!reads_wide(F)) return narrow_rows<F, R>(t, panel, row);
    float out[R][kPanel];
    for (int j = 0; j < 2; j++) wide_rows<F, R>(t, panel, j, row, out);
    for (int r = 0; r < R; r++) store_outputs(t, panel, row + r, load(out[r]));
}

}  // namespace

void gemm(const GemmTile& t) {
    for_format(t.weight->format, [&](auto format) {
        for (int panel = t.panel_begin; panel < t.panel_end; panel += format == Format::f32 ? 2 : 1)
            for_rows_of<kRows>(t, [&](auto count, int row) { rows_of<format, count>(t, panel, row); });
    });
}

}  // namespace llm::LLM_NAMESPACE
