#include "wide_lanes.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

// Of eight halves of groups: steps, as f32 the integers they are, and what x is multiplied with to be a quant.
struct Steps {
    float steps[kLanes], inverses[kLanes];
};

// The least integers of eight significant bits that are not below largest * steps_per_one. More bits would make a step of
// every last bit of x: other bits in, all other quants out.
LLM_INLINE Steps steps_above(Lanes largest, float steps_per_one, float units_per_one) {
    const Lanes most = broadcast(float(kMostStep));
    const Lanes ratio = multiply(largest, broadcast(steps_per_one));  // no number where a row has an infinite one
    const Lanes some = minimum(most, maximum(broadcast(0.0f), ratio));
    const Lanes steps = ceiling(minimum(most, eight_bits_above(some)));
    Steps s;
    store(s.steps, steps);
    store(s.inverses, divide(broadcast(units_per_one), maximum(broadcast(1.0f), steps)));
    return s;
}

}  // namespace

void quantize(const float* x, int cols, NarrowGroup* groups) {
    constexpr int kAtOnce = kLanes / 2;  // groups
    const int count = cols / kGroup;
    float largest[kLanes];
    static_assert(sizeof(largest) == sizeof(groups->quants));  // where they wait for the row's largest
    Lanes most = broadcast(0.0f);
    for (int first = 0; first < count; first += kAtOnce) {
        Lanes here = broadcast(0.0f);
        if (first + kAtOnce <= count) {
            here = largest_of_halves(x + first * kGroup);
        } else {
            store(largest, here);
            for (int i = 0; i < 2 * (count - first); i++) largest[i] = largest_of(x + first * kGroup + i * kHalf, kHalf);
            here = load(largest);
        }
        store(largest, here);
        memcpy(groups[first].quants, largest, sizeof(largest));
        most = maximum(most, here);
    }
    const float row_largest = llm::LLM_NAMESPACE::largest(most);
    const float unit = row_largest > 1e-30f ? row_largest / (127.0f * kMostStep) : 0.0f;
    const float steps_per_one = inverse_of(row_largest, float(kMostStep));
    const float units_per_one = inverse_of(row_largest, 127.0f * kMostStep);
    for (int first = 0; first < count; first += kAtOnce) {
        const int here = count - first < kAtOnce ? count - first : kAtOnce;
        memcpy(largest, groups[first].quants, sizeof(largest));
        const Steps s = steps_above(load(largest), steps_per_one, units_per_one);
        for (int i = 0; i < here; i++, x += kGroup) {
            NarrowGroup& group = groups[first + i];
            int32_t sum = 0, totals[2];
            round_narrow(x, s.inverses + 2 * i, group.quants, totals);
            for (int half = 0; half < 2; half++) {
                const float step = s.steps[2 * i + half];
                group.steps[half] = int32_t(step);
                group.scales[half] = step;
                group.offsets[half] = -128 * totals[half];
                sum += group.steps[half] * totals[half];
            }
            group.sum = float(sum);
            group.unit = unit;
        }
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
template <class V>
LLM_INLINE V gelu_of(V v) {
    const V zero = spread<V>(0.0f), one = spread<V>(1.0f), half = spread<V>(0.5f);
    const V z = multiply(maximum(v, subtract(zero, v)), spread<V>(0.70710678118654752f));
    const V t = divide(one, fused(z, spread<V>(0.3275911f), one));
    V p = spread<V>(1.061405429f);
    p = fused(p, t, spread<V>(-1.453152027f));
    p = fused(p, t, spread<V>(1.421413741f));
    p = fused(p, t, spread<V>(-0.284496736f));
    p = fused(p, t, spread<V>(0.254829592f));
    const V tail = multiply(multiply(p, t), exponential(subtract(zero, multiply(z, z))));
    // gelu(v) = v - |v| / 2 * tail for v > 0, and -|v| / 2 * tail below: max(v, 0) covers both.
    const V magnitude = maximum(v, subtract(zero, v));
    return subtract(maximum(v, zero), multiply(multiply(magnitude, half), tail));
}

template <class V>
LLM_INLINE V gelu_tanh_of(V v) {
    constexpr float kTwice = 1.5957691216057308f;  // 2 sqrt(2 / pi)
    const V slope = fused(multiply(v, v), spread<V>(-0.044715f * kTwice), spread<V>(-kTwice));
    return divide(v, add(spread<V>(1.0f), exponential(multiply(v, slope))));
}

}  // namespace

void gelu(const float* x, int cols, float* y) {
    for_wide_lanes(cols, [&]<class V>(int i, V) __attribute__((always_inline)) { store(y + i, gelu_of(load_as<V>(x + i))); });
}

void gelu_tanh(const float* x, int cols, float* y) {
    for_wide_lanes(cols, [&]<class V>(int i, V) __attribute__((always_inline)) { store(y + i, gelu_tanh_of(load_as<V>(x + i))); });
}

void xielu(const float* x, int cols, float positive, float negative, float beta, float* y) {
    for_wide_lanes(cols, [&]<class V>(int i, V) __attribute__((always_inline)) {
        const V v = load_as<V>(x + i), zero = spread<V>(0.0f);
        const V above = maximum(v, zero), below = minimum(v, zero);
        const V bend = subtract(subtract(exponential(below), spread<V>(1.0f)), below);
        const V line = fused(multiply(above, above), spread<V>(positive), multiply(v, spread<V>(beta)));
        store(y + i, fused(bend, spread<V>(negative), line));
    });
}

void gated_gelu(const float* gate, const float* up, int cols, float* y) {
    for_wide_lanes(cols, [&]<class V>(int i, V) __attribute__((always_inline)) {
        store(y + i, multiply(gelu_of(load_as<V>(gate + i)), load_as<V>(up + i)));
    });
}

void gated_gelu_tanh(const float* gate, const float* up, int cols, float* y) {
    for_wide_lanes(cols, [&]<class V>(int i, V) __attribute__((always_inline)) {
        store(y + i, multiply(gelu_tanh_of(load_as<V>(gate + i)), load_as<V>(up + i)));
    });
}

void gated_silu(const float* gate, const float* up, int cols, float* y) {
    for_wide_lanes(cols, [&]<class V>(int i, V) __attribute__((always_inline)) {
        store(y + i, multiply(silu_of(load_as<V>(gate + i)), load_as<V>(up + i)));
    });
}

void gated_relu(const float* gate, const float* up, int cols, float* y) {
    for_wide_lanes(cols, [&]<class V>(int i, V) __attribute__((always_inline)) {
        store(y + i, multiply(maximum(load_as<V>(gate + i), spread<V>(0.0f)), load_as<V>(up + i)));
    });
}

void gated_within(const float* gate, const float* up, int cols, float slope, float limit, float* y) {
    for_wide_lanes(cols, [&]<class V>(int i, V) __attribute__((always_inline)) {
        const V most = spread<V>(limit), one = spread<V>(1.0f);
        const V opening = minimum(load_as<V>(gate + i), most);
        const V opened = maximum(minimum(load_as<V>(up + i), most), spread<V>(-limit));
        const V denominator = add(one, exponential(multiply(opening, spread<V>(-slope))));
        store(y + i, multiply(divide(opening, denominator), add(opened, one)));
    });
}

void soft_cap(float* x, int count, float cap) {
    // tanh(u) = 1 - 2 / (1 + e^2u)
    const Wide most = spread<Wide>(cap), twice = spread<Wide>(2.0f * cap), slope = spread<Wide>(2.0f / cap), one = spread<Wide>(1.0f);
    const auto capped = [&](Wide v) __attribute__((always_inline)) {
        return subtract(most, divide(twice, add(one, exponential(multiply(v, slope)))));
    };
    const int full = count & -kWideLanes, rest = count - full;
    for (int i = 0; i < full; i += kWideLanes) store(x + i, capped(load_as<Wide>(x + i)));
    if (!rest) return;
    float last[kWideLanes] = {0};
    memcpy(last, x + full, size_t(rest) * sizeof(float));
    store(last, capped(load_as<Wide>(last)));
    memcpy(x + full, last, size_t(rest) * sizeof(float));
}

void rope(float* head, const float* cos, const float* sin, int rotated) {
    float* second = head + rotated / 2;
    for (int i = 0; i < rotated / 2; i++) {
        float a = head[i], b = second[i];
        head[i] = fused(a, cos[i], -(b * sin[i]));
        second[i] = fused(a, sin[i], b * cos[i]);
    }
}

ScaleAndMinimum scale_and_minimum(Format format, const uint8_t* scales, int g, int half, int o) {
    const uint8_t* own = scales + scales_at(format, g);
    const auto float_of = [o](const uint8_t* halves) {
        uint16_t bits;
        memcpy(&bits, halves + 2 * o, 2);
        return half_to_float(bits);
    };
    if (format == Format::mxfp4) return {half_power(own[o]), 0.0f};
    const uint8_t* factors = scales + factors_at(format, g);
    const float factor = factor_unit(format) * float_of(factors);  // where groups share some
    if (has_one_step(format)) return {factor * float(int8_t(own[o])), 0.0f};
    if (format == Format::nvfp4) return {float_of(own + 2 * kPanel * half), 0.0f};
    if (scales_halves(format)) return {factor * float(int8_t(own[kPanel * half + o])), 0.0f};
    if (shares_two_factors(format))
        return {factor * float(own[o]), float_of(factors + 16) * float(own[kPanel + o])};
    const float scale = float_of(own);
    if (format == Format::q4_centred) return {scale, -8.0f * scale};
    return {scale, format == Format::q4 ? float_of(own + 16) : 0.0f};
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
        for (int half = 0; half < 2; half++) {
            const ScaleAndMinimum s = scale_and_minimum(w.format, scales, g, half, o);
            for (int k = half * kHalf; k < (half + 1) * kHalf; k++)
                *out++ = fused(s.scale, float(quant_at(w.format, quants, o, k)), s.minimum);
        }
    }
}

}  // namespace llm::LLM_NAMESPACE
