// Block layouts: GGML's ggml-common.h (names and bit order as in the GGUF files in the field).
#include "quantize.hpp"

#include <stdexcept>

#include "numeric.hpp"

namespace llm {

namespace {

// 32 weights as the file means them: w = scale * q + minimum, or plain values where `linear` is false.
struct Group {
    bool linear;
    float scale, minimum;
    uint16_t factors[2];  // f16, of scale and minimum, and what they are multiplied with: Q4_K and Q5_K
    uint8_t steps[2];
    int16_t q[kGroup];
    float values[kGroup];
};

struct KindInfo {
    const char* name;
    int block_weights, block_bytes;
};

constexpr KindInfo kKinds[] = {{"F32", 1, 4},       {"F16", 1, 2},      {"BF16", 1, 2},     {"Q4_0", 32, 18},
                               {"Q4_1", 32, 20},    {"Q4_K", 256, 144}, {"Q5_0", 32, 22},   {"Q5_1", 32, 24},
                               {"Q5_K", 256, 176},  {"Q6_K", 256, 210}, {"Q8_0", 32, 34}};

constexpr const char* kFormatNames[] = {"q4", "q4_centred", "q4_k", "s8", "q8", "q12", "f32"};
static_assert(sizeof kFormatNames / sizeof *kFormatNames == size_t(Format::f32) + 1);

uint16_t load_half(const uint8_t* p) {
    uint16_t bits;
    memcpy(&bits, p, 2);
    return bits;
}

float half_at(const uint8_t* p) { return half_to_float(load_half(p)); }

// Two 6-bit values per sub-block, packed into twelve bytes (Q4_K, Q5_K).
void scale_and_minimum(const uint8_t* s, int j, int& scale, int& minimum) {
    if (j < 4) {
        scale = s[j] & 63;
        minimum = s[j + 4] & 63;
    } else {
        scale = (s[j + 4] & 15) | (s[j - 4] >> 6 << 4);
        minimum = (s[j + 4] >> 4) | (s[j] >> 6 << 4);
    }
}

void decode_legacy(Kind kind, const uint8_t* block, Group& out) {
    const bool has_minimum = kind == Kind::q4_1 || kind == Kind::q5_1;
    const bool five = kind == Kind::q5_0 || kind == Kind::q5_1;
    const int offset = has_minimum ? 0 : five ? 16 : 8;
    out.scale = half_at(block);
    out.minimum = has_minimum ? half_at(block + 2) : 0;
    const uint8_t* p = block + (has_minimum ? 4 : 2);
    uint32_t high = 0;
    if (five) {
        memcpy(&high, p, 4);
        p += 4;
    }
    for (int j = 0; j < 16; j++) {
        out.q[j] = int16_t(((p[j] & 15) | ((high >> j & 1) << 4)) - offset);
        out.q[j + 16] = int16_t(((p[j] >> 4) | ((high >> (j + 16) & 1) << 4)) - offset);
    }
}

void decode_k(Kind kind, const uint8_t* block, int sub, Group& out) {
    int scale, minimum;
    scale_and_minimum(block + 4, sub, scale, minimum);
    out.steps[0] = uint8_t(scale);
    out.steps[1] = uint8_t(minimum);
    out.factors[0] = load_half(block);
    out.factors[1] = load_half(block + 2) ^ 0x8000;  // subtracted in the file, added here
    out.scale = half_to_float(out.factors[0]) * float(scale);
    out.minimum = half_to_float(out.factors[1]) * float(minimum);
    const bool five = kind == Kind::q5_k;
    const uint8_t* low = block + (five ? 48 : 16) + sub / 2 * 32;
    const uint8_t* high = block + 16;
    for (int i = 0; i < kGroup; i++) {
        int q = sub % 2 ? low[i] >> 4 : low[i] & 15;
        if (five) q |= (high[i] >> sub & 1) << 4;
        out.q[i] = int16_t(q);
    }
}

void decode_q6k(const uint8_t* block, int sub, Group& out) {
    const int half = sub / 4, quarter = sub % 4;
    const uint8_t* low = block + half * 64 + quarter % 2 * 32;
    const uint8_t* high = block + 128 + half * 32;
    const auto* scales = reinterpret_cast<const int8_t*>(block + 192) + half * 8 + quarter * 2;
    const float d = half_at(block + 208);
    for (int i = 0; i < kGroup; i++) {
        int q = quarter < 2 ? low[i] & 15 : low[i] >> 4;
        q |= (high[i] >> (2 * quarter) & 3) << 4;
        out.values[i] = d * float(scales[i / 16]) * float(q - 32);
    }
}

void decode(Kind kind, const uint8_t* row, int g, Group& out) {
    out.linear = true;
    switch (kind) {
        case Kind::q4_0: case Kind::q4_1: case Kind::q5_0: case Kind::q5_1:
            return decode_legacy(kind, row + size_t(g) * kKinds[int(kind)].block_bytes, out);
        case Kind::q4_k: case Kind::q5_k:
            return decode_k(kind, row + size_t(g / 8) * kKinds[int(kind)].block_bytes, g % 8, out);
        case Kind::q8_0:
            out.scale = half_at(row + size_t(g) * 34);
            out.minimum = 0;
            for (int i = 0; i < kGroup; i++) out.q[i] = int8_t(row[size_t(g) * 34 + 2 + i]);
            return;
        default: break;
    }
    out.linear = false;
    if (kind == Kind::q6_k) return decode_q6k(row + size_t(g / 8) * 210, g % 8, out);
    for (int i = 0; i < kGroup; i++) {
        const size_t at = size_t(g) * kGroup + i;
        if (kind == Kind::f32) {
            memcpy(&out.values[i], row + 4 * at, 4);
        } else {
            uint16_t bits = load_half(row + 2 * at);
            out.values[i] = kind == Kind::f16 ? half_to_float(bits) : bits_to_float(uint32_t(bits) << 16);
        }
    }
}

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

// After this `q`, `scale`, `minimum` are what the packed format holds.
void fit(Kind kind, Format format, Group& group) {
    const bool exact = format == Format::q8 || format == Format::s8 ? kind == Kind::q8_0 || kind == Kind::q5_0
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
    if (format == Format::q4_k) {
        for (int i = 0; i < 2; i++) {
            own[kPanel * i + o] = group.steps[i];
            memcpy(scales + factors_at(g) + 16 * i + 2 * o, &group.factors[i], 2);
        }
        return;
    }
    const uint16_t scale = float_to_half(group.scale), minimum = float_to_half(group.minimum);
    memcpy(own + 2 * o, &scale, 2);
    if (format == Format::q4) memcpy(own + 16 + 2 * o, &minimum, 2);
}

}  // namespace

Kind kind_from_name(const std::string& name) {
    for (int i = 0; i < int(sizeof kKinds / sizeof *kKinds); i++)
        if (name == kKinds[i].name) return Kind(i);
    throw std::invalid_argument("tensor kind '" + name + "' cannot be packed");
}

size_t row_bytes(Kind kind, int cols) {
    const KindInfo& info = kKinds[int(kind)];
    return size_t(cols) / info.block_weights * info.block_bytes;
}

Format format_for(Kind kind, const std::string& wanted) {
    const bool four = kind == Kind::q4_0 || kind == Kind::q4_1 || kind == Kind::q4_k;
    if (wanted == "q4" || (wanted == "auto" && four))
        return kind == Kind::q4_k ? Format::q4_k : kind == Kind::q4_0 ? Format::q4_centred : Format::q4;
    if (wanted == "q8" || wanted == "auto") return Format::q8;
    if (wanted == "s8") return Format::s8;
    if (wanted == "q12") return Format::q12;
    if (wanted == "f32") return Format::f32;
    throw std::invalid_argument("weight format '" + wanted + "' is unknown; use auto, q4, s8, q8, q12 or f32");
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
            for (int k = 0; k < kGroup; k += 4) {
                const int at = (is_q4(format) ? k / 4 % 4 : k / 4) * 32 + o * 4;
                if (format == Format::q12) {
                    memcpy(quants + 2 * at, group.q + k, 4 * sizeof(int16_t));
                    continue;
                }
                for (int i = 0; i < 4; i++) {
                    const auto q = uint8_t(group.q[k + i]);
                    if (!is_q4(format)) quants[at + i] = q;
                    else quants[at + i] |= k < kHalf ? q : uint8_t(q << 4);
                }
            }
        }
}

}  // namespace llm
