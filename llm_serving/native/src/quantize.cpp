#include "quantize.hpp"

#include <cstring>
#include <stdexcept>

#include "blocks.hpp"
#include "numeric.hpp"

namespace llm {

namespace {

constexpr const char* kFormatNames[] = {"q4", "q4_centred", "q4_k", "mxfp4", "nvfp4", "iq4_nl", "iq4_xs",
                                         "nf4", "iq2", "iq3_xxs", "iq3_s", "q3_k", "q5", "q5_k", "q6", "s8", "q8", "q12", "f32"};
static_assert(sizeof kFormatNames / sizeof *kFormatNames == size_t(Format::f32) + 1);

void to_values(Group& group) {
    if (!group.linear)
        return;
    for (int i = 0; i < kGroup; i++) group.values[i] = fused(group.scale, float(group.q[i]), group.minimum);
}

// q in -most..most with a scale.
void requantize_symmetric(Group& group, float most) {
    to_values(group);
    float largest = 0;
    for (float v : group.values) largest = __builtin_fabsf(v) > largest ? __builtin_fabsf(v) : largest;
    group.scale = half_to_float(float_to_half(largest / most));
    group.minimum = 0;
    const float inverse = group.scale > 0 ? 1.0f / group.scale : 0;
    for (int i = 0; i < kGroup; i++) {
        float q = round_even(group.values[i] * inverse);
        group.q[i] = int16_t(q > most ? most : q < -most ? -most : q);
    }
}

// q in 0..15 with a scale and a minimum.
void requantize_q4(Group& group) {
    constexpr float most = 15;
    to_values(group);
    float low = group.values[0], high = group.values[0];
    for (float v : group.values) {
        low = v < low ? v : low;
        high = v > high ? v : high;
    }
    group.minimum = half_to_float(float_to_half(low));
    group.scale = half_to_float(float_to_half((high - group.minimum) / most));
    const float inverse = group.scale > 0 ? 1.0f / group.scale : 0;
    for (int i = 0; i < kGroup; i++) {
        float q = round_even((group.values[i] - group.minimum) * inverse);
        group.q[i] = int16_t(q > most ? most : q < 0 ? 0 : q);
    }
}

// A scale of MXFP4 may be beyond f16.
bool fits_bytes(Kind kind, const Group& group) {
    return kind == Kind::q8_0 || kind == Kind::q5_0 || kind == Kind::iq4_nl ||
           (kind == Kind::mxfp4 && half_to_float(float_to_half(group.scale)) == group.scale);
}

// What holds a kind's own four bits as they are; q4 for Q4_1, and for kinds that have others.
Format four_bits(Kind kind) {
    switch (kind) {
        case Kind::q4_0: return Format::q4_centred;
        case Kind::q4_k: return Format::q4_k;
        case Kind::iq4_nl: return Format::iq4_nl;
        case Kind::iq4_xs: return Format::iq4_xs;
        case Kind::mxfp4: return Format::mxfp4;
        case Kind::nf4: return Format::nf4;
        case Kind::e2m1_16: return Format::nvfp4;
        case Kind::iq2_coded: return Format::iq2;
        case Kind::iq3_xxs_coded: return Format::iq3_xxs;
        case Kind::iq3_s_coded: return Format::iq3_s;
        default: return Format::q4;
    }
}

// Of kinds that have more or fewer than four.
Format own_bits(Kind kind, Format bytes) {
    switch (kind) {
        case Kind::q3_k: return Format::q3_k;
        case Kind::q5_0: return Format::q5;
        case Kind::q5_k: return Format::q5_k;
        case Kind::q6_k: return Format::q6;
        case Kind::q8_0: return bytes;
        default: return Format::q8;
    }
}

// After this `q`, `scale`, `minimum` are what the packed format holds.
void fit(Kind kind, Format format, Group& group) {
    if (has_codes(format)) {
        for (int i = 0; i < kGroup; i++) group.q[i] = group.codes[i];
        return;
    }
    if (scales_halves(format) || upper_bits(format)) return;  // which are the kind's own
    const bool exact = format == Format::q8 || format == Format::s8 ? fits_bytes(kind, group)
                                            : is_q4(format) && (kind == Kind::q4_0 || kind == Kind::q4_1 || kind == Kind::q4_k);
    if (!exact) {
        if (is_q4(format)) return requantize_q4(group);
        return requantize_symmetric(group, format == Format::q12 ? 2047 : 127);
    }
    if (kind == Kind::q4_0) {  // signed -8..7 becomes unsigned with a minimum; -8 * f16 is exact
        group.minimum = -8.0f * group.scale;
        for (int16_t& q : group.q) q = int16_t(q + 8);
    }
}

// `scales` is where those of the panel begin.
void store_scales(Format format, int o, int g, const Group& group, uint8_t* scales) {
    uint8_t* own = scales + scales_at(format, g);
    if (format == Format::mxfp4) {
        own[o] = group.steps[0];
        return;
    }
    if (shares_factors(format)) {
        for (int i = 0; i < step_bytes(format) / kPanel; i++) own[kPanel * i + o] = group.steps[i];
        for (int i = 0; i < factor_bytes(format) / (2 * kPanel); i++)
            memcpy(scales + factors_at(format, g) + 2 * (kPanel * i + o), &group.factors[i], 2);
        return;
    }
    const uint16_t scale = float_to_half(group.scale), minimum = float_to_half(group.minimum);
    memcpy(own + 2 * o, &scale, 2);
    if (scale_bytes(format) == 32) memcpy(own + 16 + 2 * o, &minimum, 2);
}

// The 32 weights of output o. `quants` are those of the group, zero where nothing is stored yet.
void store_quants(Format format, int o, int16_t (&q)[kGroup], uint8_t* quants) {
    if (const int centre = centre_of(format))
        for (int16_t& one : q) one = int16_t(one + centre);
    if (has_nibbles(format)) {
        for (int k = 0; k < kHalf; k++) quants[k / 4 * 32 + o * 4 + k % 4] = uint8_t((q[k] & 15) | q[k + kHalf] << 4);
    } else if (format == Format::q12) {
        for (int k = 0; k < kGroup; k += 4) memcpy(quants + 2 * (k / 4 * 32 + o * 4), q + k, 4 * sizeof(int16_t));
    } else {
        for (int k = 0; k < kGroup; k += 4)
            for (int i = 0; i < 4; i++) quants[k / 4 * 32 + o * 4 + i] = uint8_t(q[k + i]);
    }
    for (int k = 0; upper_bits(format) && k < kGroup; k++) {
        const UpperBits upper = upper_at(format, o, k);
        quants[upper.at] |= uint8_t(q[k] >> 4 << upper.shift);
    }
}

}  // namespace

Format format_for(Kind kind, const std::string& wanted, bool bytes_pay) {
    const Format four = four_bits(kind);
    const bool has_four = kind == Kind::q4_1 || four != Format::q4;
    if (wanted == "q4" || (wanted == "careful" && has_four)) return four;
    if (wanted == "auto") return has_four ? four : own_bits(kind, bytes_pay ? Format::s8 : Format::q8);
    if (wanted == "q8" || wanted == "careful") return Format::q8;
    if (wanted == "s8") return Format::s8;
    if (wanted == "q12") return Format::q12;
    if (wanted == "f32") return Format::f32;
    throw std::invalid_argument("weight format '" + wanted + "' is unknown; use auto, careful, q4, s8, q8, q12 or f32");
}

const char* format_name(Format format) { return kFormatNames[int(format)]; }

Format format_from_name(const std::string& name) {
    for (int i = 0; i < int(sizeof kFormatNames / sizeof *kFormatNames); i++)
        if (name == kFormatNames[i]) return Format(i);
    throw std::invalid_argument("packed format '" + name + "' is unknown");
}

void pack_panel(Kind kind, Format format, const uint8_t* const (&sources)[kPanel], int cols, uint8_t* panel) {
    const int groups = cols / kGroup;
    uint8_t* quants = panel;
    uint8_t* scales = panel + size_t(groups) * quant_bytes(format);
    for (int g = 0; g < groups; g++, quants += quant_bytes(format))
        for (int o = 0; o < kPanel; o++) {
            if (!sources[o]) continue;  // the panel is zero already
            Group group;
            decode(kind, sources[o], g, group);
            if (format == Format::f32) {
                to_values(group);
                auto* values = reinterpret_cast<float*>(quants);
                for (int k = 0; k < kGroup; k++) values[k * kPanel + o] = group.values[k];
                continue;
            }
            fit(kind, format, group);
            store_scales(format, o, g, group, scales);
            store_quants(format, o, group.q, quants);
        }
}

}  // namespace llm
