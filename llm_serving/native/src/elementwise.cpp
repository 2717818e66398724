#include "wide_lanes.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

// The least integer of eight significant bits that is not below `ratio`; what is no number counts as zero. More bits would
// make a step of every last bit of x: other bits in, all other quants out.
LLM_INLINE int step_above(float ratio) {
    if (ratio >= float(kMostStep)) return kMostStep;
    if (!(ratio > 0.0f)) return 0;
    const float rounded = bits_to_float((float_to_bits(ratio) + 0xffff) & 0xffff0000);
    const int below = int(rounded);
    return below + (float(below) < rounded);
}

}  // namespace

void quantize(const float* x, int cols, NarrowGroup* groups) {
    const int count = cols / kGroup;
    float row_largest = 0.0f;
    for (int g = 0; g < count; g++)
        for (int half = 0; half < 2; half++) {
            const float largest = largest_of(x + g * kGroup + half * kHalf, kHalf);
            groups[g].scales[half] = largest;
            row_largest = larger(row_largest, largest);
        }
    const float unit = row_largest > 1e-30f ? row_largest / (127.0f * kMostStep) : 0.0f;
    const float steps_per_one = inverse_of(row_largest, float(kMostStep));
    const float units_per_one = inverse_of(row_largest, 127.0f * kMostStep);
    for (int g = 0; g < count; g++) {
        NarrowGroup& group = groups[g];
        int32_t sum = 0;
        for (int half = 0; half < 2; half++, x += kHalf) {
            const int step = step_above(group.scales[half] * steps_per_one);
            const int32_t total = round_narrow(x, step ? units_per_one / float(step) : 0.0f, group.quants + half * kHalf);
            group.steps[half] = int16_t(step);
            group.scales[half] = float(step);
            group.offsets[half] = -128 * total;
            sum += step * total;
        }
        group.sum = float(sum);
        group.unit = unit;
    }
}

void quantize_wide(const float* x, int cols, int16_t* wide, float* wide_scales) {
    for (int g = 0; g < cols / kGroup; g++, x += kGroup, wide += kGroup) {
        const float largest = largest_of(x, kGroup);
        const float inverse = inverse_of(largest, 32767.0f);
        round_wide(x, inverse, wide);
        round_wide(x + kHalf, inverse, wide + kHalf);
        wide_scales[g] = largest / 32767.0f;
    }
}

void rms_norm(const float* x, const float* weight, float epsilon, int cols, float* y) {
    float lanes[kLanes] = {0};
    for (int i = 0; i < cols; i += kLanes)
        for (int l = 0; l < kLanes; l++) lanes[l] = fused(x[i + l], x[i + l], lanes[l]);
    float scale = 1.0f / __builtin_sqrtf(sum_lanes(lanes) / float(cols) + epsilon);
    for (int i = 0; i < cols; i++) y[i] = x[i] * scale * weight[i];
}

void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, int cols, float* y) {
    Lanes total = broadcast(0.0f), squares = broadcast(0.0f);
    for (int i = 0; i < cols; i += kLanes) total = add(total, load(x + i));
    const Lanes mean = broadcast(sum(total) / float(cols));
    for (int i = 0; i < cols; i += kLanes) {
        const Lanes centred = subtract(load(x + i), mean);
        squares = fused(centred, centred, squares);
    }
    const Lanes scale = broadcast(1.0f / __builtin_sqrtf(sum(squares) / float(cols) + epsilon));
    for (int i = 0; i < cols; i += kLanes)
        store(y + i, fused(multiply(subtract(load(x + i), mean), scale), load(weight + i), load(bias + i)));
}

namespace {

// erf by Abramowitz & Stegun 7.1.26, of the magnitude; the sign comes back at the end.
LLM_INLINE Lanes gelu_of(Lanes v) {
    const Lanes zero = broadcast(0.0f), one = broadcast(1.0f), half = broadcast(0.5f);
    const Lanes z = multiply(maximum(v, subtract(zero, v)), broadcast(0.70710678118654752f));
    const Lanes t = divide(one, fused(z, broadcast(0.3275911f), one));
    Lanes p = broadcast(1.061405429f);
    p = fused(p, t, broadcast(-1.453152027f));
    p = fused(p, t, broadcast(1.421413741f));
    p = fused(p, t, broadcast(-0.284496736f));
    p = fused(p, t, broadcast(0.254829592f));
    const Lanes tail = multiply(multiply(p, t), exponential(subtract(zero, multiply(z, z))));
    // gelu(v) = v - |v| / 2 * tail for v > 0, and -|v| / 2 * tail below: max(v, 0) covers both.
    const Lanes magnitude = maximum(v, subtract(zero, v));
    return subtract(maximum(v, zero), multiply(multiply(magnitude, half), tail));
}

}  // namespace

void gelu(const float* x, int cols, float* y) {
    for (int i = 0; i < cols; i += kLanes) store(y + i, gelu_of(load(x + i)));
}

void gated_gelu(const float* gate, const float* up, int cols, float* y) {
    for (int i = 0; i < cols; i += kLanes) store(y + i, multiply(gelu_of(load(gate + i)), load(up + i)));
}

void gated_silu(const float* gate, const float* up, int cols, float* y) {
    const Lanes one = broadcast(1.0f), zero = broadcast(0.0f);
    for (int i = 0; i < cols; i += kLanes) {
        const Lanes g = load(gate + i);
        const Lanes denominator = add(one, exponential(subtract(zero, g)));
        store(y + i, multiply(divide(g, denominator), load(up + i)));
    }
}

void rope(float* head, const float* cos, const float* sin, int rotated) {
    float* second = head + rotated / 2;
    for (int i = 0; i < rotated / 2; i++) {
        float a = head[i], b = second[i];
        head[i] = fused(a, cos[i], -(b * sin[i]));
        second[i] = fused(a, sin[i], b * cos[i]);
    }
}

namespace {

// One token's vector as bytes, dimension d at place(d); returns their scale.
template <class Place>
float store_bytes(const float* x, int head_dim, uint8_t* out, Place place) {
    const float largest = largest_of(x, head_dim);
    const float inverse = inverse_of(largest, 127.0f);
    for (int d = 0; d < head_dim; d++) out[place(d)] = uint8_t(int32_t(round_even(x[d] * inverse)));
    return largest / 127.0f;
}

}  // namespace

void store_kv(KvFormat format, const float* key, const float* value, int head_dim, int slot, uint8_t* keys, uint8_t* values) {
    const size_t scales = size_t(head_dim) * kBlockTokens;
    if (format == KvFormat::q8) {
        reinterpret_cast<float*>(keys + scales)[slot] =
            store_bytes(key, head_dim, keys, [&](int d) { return (d / 2 * kBlockTokens + slot) * 2 + d % 2; });
        reinterpret_cast<float*>(values + scales)[slot] =
            store_bytes(value, head_dim, values, [&](int d) { return (slot / 2 * head_dim + d) * 2 + slot % 2; });
        return;
    }
    auto* key_halves = reinterpret_cast<uint16_t*>(keys) + slot;
    auto* value_halves = reinterpret_cast<uint16_t*>(values) + slot * head_dim;
    for (int d = 0; d < head_dim; d++) key_halves[d * kBlockTokens] = float_to_half(key[d]);
    for (int d = 0; d < head_dim; d++) value_halves[d] = float_to_half(value[d]);
}

ScaleAndMinimum scale_and_minimum(Format format, const uint8_t* scales, int g, int o) {
    const uint8_t* own = scales + scales_at(format, g);
    const auto half = [o](const uint8_t* halves) {
        uint16_t bits;
        memcpy(&bits, halves + 2 * o, 2);
        return half_to_float(bits);
    };
    if (format == Format::q4_k) {
        const uint8_t* factors = scales + factors_at(g);
        return {half(factors) * float(own[o]), half(factors + 16) * float(own[kPanel + o])};
    }
    const float scale = half(own);
    if (format == Format::q4_centred) return {scale, -8.0f * scale};
    return {scale, format == Format::q4 ? half(own + 16) : 0.0f};
}

void dequantize_row(const PackedMatrix& w, int row, float* out) {
    const uint8_t* quants = w.quants(row / kPanel);
    const uint8_t* scales = w.scales(row / kPanel);
    const int o = row % kPanel;
    if (w.format == Format::f32) {
        const auto* values = reinterpret_cast<const float*>(quants);
        for (int k = 0; k < w.cols; k++) out[k] = values[k * kPanel + o];
        return;
    }
    for (int g = 0; g < w.groups(); g++, quants += quant_bytes(w.format)) {
        const ScaleAndMinimum s = scale_and_minimum(w.format, scales, g, o);
        for (int k = 0; k < kGroup; k++) *out++ = fused(s.scale, float(quant_at(w.format, quants, o, k)), s.minimum);
    }
}

}  // namespace llm::LLM_NAMESPACE
