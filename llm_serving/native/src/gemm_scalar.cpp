// The reference: plain C++, the portable fallback, and what the other gemm files must equal bit for bit.
//
// Per output and group, in this order:
//   q8, q12: acc = fma(scale_w * scale_a, float(sum of q_w q_a), acc)
//   q4:      acc = fma(scale_w, float(step_0 * first half's sum + step_1 * second half's sum), acc)
//            acc = fma(min_w, sum_a, acc)
//   s8, q5, q5_k and four bits with a table of values:
//            both = step_0 * float(first half's sum); both = fma(step_1, float(second half's sum), both)
//            acc = fma(scale_w, both, acc); q5_k: acc = fma(min_w, sum_a, acc)
//   q3_k, q6, nvfp4, iq2: acc = fma(scale_w of the half, step * float(the half's sum), acc), the first half and then the second
// and at the end of all but q8 and q12: acc * unit_a.
// f32 weights: acc = fma(a, w, acc), input by input.
#include "elementwise.hpp"
#include "numeric.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

void unpack_group(const PackedMatrix& w, const uint8_t* quants, int16_t (&q)[kPanel][kGroup]) {
    for (int o = 0; o < kPanel; o++)
        for (int k = 0; k < kGroup; k++) q[o][k] = int16_t(quant_at(w.format, quants, o, k));
}

int32_t dot(const int16_t* q, const int8_t* a, int begin, int end) {
    int32_t total = 0;
    for (int k = begin; k < end; k++) total += int32_t(q[k]) * a[k];
    return total;
}

int32_t dot_wide(const int16_t* q, const int16_t* a) {
    int32_t total = 0;
    for (int k = 0; k < kGroup; k++) total += int32_t(q[k]) * a[k];
    return total;
}

// One group's share of an output.
float add_group(const Activations& input, Format format, int row, int g, const int16_t* q, const ScaleAndMinimum (&s)[2], float acc) {
    const auto [scale, minimum] = s[0];
    if (reads_wide(format)) {
        const size_t at = size_t(row) * size_t(input.groups()) + size_t(g);
        return fused(scale * input.wide_scales[at], float(dot_wide(q, input.wide + at * kGroup)), acc);
    }
    const NarrowGroup& a = input.narrow_row(row)[g];
    const int32_t first = dot(q, a.quants, 0, kHalf), second = dot(q, a.quants, kHalf, kGroup);
    if (is_q4(format)) return fused(minimum, a.sum, fused(scale, float(a.steps[0] * first + a.steps[1] * second), acc));
    if (scales_halves(format)) return fused(s[1].scale, a.scales[1] * float(second), fused(scale, a.scales[0] * float(first), acc));
    acc = fused(scale, fused(a.scales[1], float(second), a.scales[0] * float(first)), acc);
    return format == Format::q5_k ? fused(minimum, a.sum, acc) : acc;
}

void store(const GemmTile& t, int panel, int row, const float (&acc)[kPanel]) {
    const int column = panel * kPanel;
    const int outputs = t.weight->rows - column < kPanel ? t.weight->rows - column : kPanel;
    float* out = t.out + size_t(row) * t.out_stride + column;
    for (int o = 0; o < outputs; o++) {
        float y = t.bias ? acc[o] + t.bias[column + o] : acc[o];
        out[o] = t.accumulate ? out[o] + y : y;
    }
}

void gemm_f32(const GemmTile& t) {
    const int cols = t.weight->cols;
    for (int panel = t.panel_begin; panel < t.panel_end; panel++)
        for (int row = t.row_begin; row < t.row_end; row++) {
            const auto* w = reinterpret_cast<const float*>(t.weight->quants(panel));
            const float* a = t.input->values + size_t(row) * t.input->cols;
            float acc[kPanel] = {0};
            for (int k = 0; k < cols; k++)
                for (int o = 0; o < kPanel; o++) acc[o] = fused(a[k], w[k * kPanel + o], acc[o]);
            store(t, panel, row, acc);
        }
}

}  // namespace

void gemm(const GemmTile& t) {
    if (t.weight->format == Format::f32) return gemm_f32(t);
    const PackedMatrix& w = *t.weight;
    const int groups = w.groups();
    constexpr int kRows = 32;  // unpack a group once for this many rows
    for (int panel = t.panel_begin; panel < t.panel_end; panel++)
        for (int row0 = t.row_begin; row0 < t.row_end; row0 += kRows) {
            const int rows = t.row_end - row0 < kRows ? t.row_end - row0 : kRows;
            float acc[kRows][kPanel] = {{0}};
            for (int g = 0; g < groups; g++) {
                int16_t q[kPanel][kGroup];
                ScaleAndMinimum s[kPanel][2];
                unpack_group(w, w.quants(panel) + size_t(g) * quant_bytes(w.format), q);
                for (int o = 0; o < kPanel; o++)
                    for (int half = 0; half < 2; half++) s[o][half] = scale_and_minimum(w.format, w.scales(panel), g, half, o);
                for (int r = 0; r < rows; r++)
                    for (int o = 0; o < kPanel; o++)
                        acc[r][o] = add_group(*t.input, w.format, row0 + r, g, q[o], s[o], acc[r][o]);
            }
            for (int r = 0; r < rows; r++) {
                if (!reads_wide(w.format))
                    for (float& sum : acc[r]) sum *= t.input->narrow_row(row0 + r)->unit;
                store(t, panel, row0 + r, acc[r]);
            }
        }
}

}  // namespace llm::LLM_NAMESPACE
