// Sixteen outputs of a row on their way out of AVX-512's products. Included only by files that are compiled once per
// instruction set.
#pragma once
#include "weights_512.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

LLM_INLINE __mmask16 first_lanes(int count) { return __mmask16(count >= kPair ? 0xffff : (1u << count) - 1); }

// `outputs` counts what the tile has from this panel on; lanes past it are not touched.
LLM_INLINE void store_outputs(const GemmTile& t, int panel, int outputs, int row, __m512 acc) {
    const int column = panel * kPanel;
    float* out = t.out + size_t(row) * t.out_stride + column;
    const __mmask16 lanes = first_lanes(outputs);
    if (t.bias) acc = _mm512_add_ps(acc, _mm512_maskz_loadu_ps(lanes, t.bias + column));
    if (t.accumulate) acc = _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, out), acc);
    _mm512_mask_storeu_ps(out, lanes, acc);
}

LLM_INLINE int outputs_from(const GemmTile& t, int panel) {
    const int end = t.panel_end * kPanel < t.weight->rows ? t.panel_end * kPanel : t.weight->rows;
    return end - panel * kPanel;
}

}  // namespace

}  // namespace llm::LLM_NAMESPACE
