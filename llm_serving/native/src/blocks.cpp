// Layouts: GGML's ggml-common.h (names and bit order as in the GGUF files in the field).
#include "blocks.hpp"

#include <cstring>
#include <stdexcept>

#include "numeric.hpp"

namespace llm {

namespace {

struct KindInfo {
    const char* name;
    int block_weights, block_bytes;
};

// In the order of Kind.
constexpr KindInfo kKinds[] = {
    {"F32", 1, 4},      {"F16", 1, 2},      {"BF16", 1, 2},     {"Q2_K", 256, 84},  {"Q3_K", 256, 110}, {"Q4_0", 32, 18},
    {"Q4_1", 32, 20},   {"Q4_K", 256, 144}, {"Q5_0", 32, 22},   {"Q5_1", 32, 24},   {"Q5_K", 256, 176}, {"Q6_K", 256, 210},
    {"Q8_0", 32, 34},   {"IQ4_NL", 32, 18}, {"IQ4_XS", 256, 136}, {"MXFP4", 32, 17},
    {"NF4", 32, 20},    {"E2M1_16", 32, 24}, {"IQ2_CODED", 256, 146}, {"IQ3_XXS_CODED", 256, 138}, {"IQ3_S_CODED", 256, 138}};
static_assert(sizeof kKinds / sizeof *kKinds == size_t(Kind::iq3_s_coded) + 1);

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

// Of Q3_K and Q6_K, whose scales are for 16 weights.
void scale_halves(Group& out) {
    for (int i = 0; i < kGroup; i++)
        out.values[i] = half_to_float(out.factors[0]) * float(int8_t(out.steps[i / kHalf])) * float(out.q[i]);
}

void decode_q6k(const uint8_t* block, int sub, Group& out) {
    const int half = sub / 4, quarter = sub % 4;
    const uint8_t* low = block + half * 64 + quarter % 2 * 32;
    const uint8_t* high = block + 128 + half * 32;
    const auto* scales = reinterpret_cast<const int8_t*>(block + 192) + half * 8 + quarter * 2;
    out.factors[0] = load_half(block + 208);
    for (int j = 0; j < 2; j++) out.steps[j] = uint8_t(scales[j]);
    for (int i = 0; i < kGroup; i++) {
        const int q = quarter < 2 ? low[i] & 15 : low[i] >> 4;
        out.q[i] = int16_t((q | (high[i] >> (2 * quarter) & 3) << 4) - 32);
    }
    scale_halves(out);
}

void decode_q80(const uint8_t* block, Group& out) {
    out.scale = half_at(block);
    out.minimum = 0;
    for (int i = 0; i < kGroup; i++) out.q[i] = int8_t(block[2 + i]);
}

// Two bits a weight; a scale and a minimum of four bits for every 16.
void decode_q2k(const uint8_t* block, int sub, Group& out) {
    const uint8_t* quants = block + 16 + sub / 4 * 32;
    const float d = half_at(block + 80), m = half_at(block + 82);
    for (int i = 0; i < kGroup; i++) {
        const uint8_t scale = block[2 * sub + i / 16];
        const int q = quants[i] >> (2 * (sub % 4)) & 3;
        out.values[i] = fused(d * float(scale & 15), float(q), -(m * float(scale >> 4)));
    }
}

// Three bits a weight, the third apart; a scale of six bits for every 16, of which two are apart.
void decode_q3k(const uint8_t* block, int sub, Group& out) {
    const uint8_t* quants = block + 32 + sub / 4 * 32;
    const uint8_t* scales = block + 96;
    out.factors[0] = load_half(block + 108);
    for (int j = 2 * sub; j < 2 * sub + 2; j++) {
        const int low = j < 8 ? scales[j] & 15 : scales[j - 8] >> 4, high = scales[8 + j % 4] >> (j / 4 * 2) & 3;
        out.steps[j % 2] = uint8_t((low | high << 4) - 32);
    }
    for (int i = 0; i < kGroup; i++) out.q[i] = int16_t((quants[i] >> (2 * (sub % 4)) & 3) - (block[i] >> sub & 1 ? 0 : 4));
    scale_halves(out);
}

void decode_codes(const int8_t* table, float scale, const uint8_t* quants, Group& out) {
    out.scale = scale;
    out.minimum = 0;
    for (int i = 0; i < 16; i++) {
        out.codes[i] = quants[i] & 15;
        out.codes[i + 16] = quants[i] >> 4;
    }
    for (int i = 0; i < kGroup; i++) out.q[i] = table[out.codes[i]];
}

void decode_iq4_xs(const uint8_t* block, int sub, Group& out) {
    const int low = block[4 + sub / 2] >> (sub % 2 * 4) & 15, high = load_half(block + 2) >> (2 * sub) & 3;
    const int step = (low | high << 4) - 32;
    out.factors[0] = load_half(block);
    out.steps[0] = uint8_t(step);
    decode_codes(kNormalSteps, half_at(block) * float(step), block + 8 + 16 * sub, out);
}

void decode_mxfp4(const uint8_t* block, Group& out) {
    out.steps[0] = block[0];
    decode_codes(kE2M1, half_power(block[0]), block + 1, out);
}

// Table 1's values of NF4 in QLoRA's appendix E, as bitsandbytes rounds them.
constexpr float kNF4[16] = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
                            -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
                            0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f,
                            0.7229568362236023f, 1.0f};

// The largest magnitude of 32 weights or more, f32.
void decode_nf4(const uint8_t* block, Group& out) {
    float largest;
    memcpy(&largest, block, 4);
    decode_codes(kNormalFloats, largest / kNormalFloatsOne, block + 4, out);
    for (int i = 0; i < kGroup; i++) out.values[i] = kNF4[out.codes[i]] * largest;
}

// A scale for every 16, f32.
void decode_e2m1_16(const uint8_t* block, Group& out) {
    float scales[2];
    memcpy(scales, block, 8);
    decode_codes(kE2M1, 0.5f * scales[0], block + 8, out);  // halved, since the numbers are doubled
    out.minimum = 0.5f * scales[1];
    for (int i = 0; i < kGroup; i++) out.values[i] = 0.5f * float(out.q[i]) * scales[i / kHalf];
}

// A factor, a signed step for every 32 or 16 weights, and then numbers of values, in eight groups.
void decode_coded(Format format, const uint8_t* block, int sub, Group& out) {
    const int steps = scales_halves(format) ? 2 : 1;  // of a group
    out.factors[0] = load_half(block);
    for (int j = 0; j < steps; j++) out.steps[j] = block[2 + steps * sub + j];
    decode_codes(codes_of(format), 0, block + 2 + steps * kSharing + 16 * sub, out);
    const float factor = factor_unit(format) * half_to_float(out.factors[0]);
    for (int i = 0; i < kGroup; i++) out.values[i] = factor * float(int8_t(out.steps[i / kHalf * (steps - 1)])) * float(out.q[i]);
}

}  // namespace

void decode(Kind kind, const uint8_t* row, int g, Group& out) {
    const KindInfo& info = kKinds[int(kind)];
    const uint8_t* block = row + size_t(g) * kGroup / info.block_weights * info.block_bytes;
    const int sub = info.block_weights > kGroup ? g % (info.block_weights / kGroup) : 0;
    out.linear = kind >= Kind::q4_0 && kind < Kind::nf4 && kind != Kind::q6_k;
    switch (kind) {
        case Kind::q2_k: return decode_q2k(block, sub, out);
        case Kind::q3_k: return decode_q3k(block, sub, out);
        case Kind::q4_0: case Kind::q4_1: case Kind::q5_0: case Kind::q5_1: return decode_legacy(kind, block, out);
        case Kind::q4_k: case Kind::q5_k: return decode_k(kind, block, sub, out);
        case Kind::q6_k: return decode_q6k(block, sub, out);
        case Kind::q8_0: return decode_q80(block, out);
        case Kind::iq4_nl: return decode_codes(kNormalSteps, half_at(block), block + 2, out);
        case Kind::iq4_xs: return decode_iq4_xs(block, sub, out);
        case Kind::mxfp4: return decode_mxfp4(block, out);
        case Kind::nf4: return decode_nf4(block, out);
        case Kind::e2m1_16: return decode_e2m1_16(block, out);
        case Kind::iq2_coded: return decode_coded(Format::iq2, block, sub, out);
        case Kind::iq3_xxs_coded: return decode_coded(Format::iq3_xxs, block, sub, out);
        case Kind::iq3_s_coded: return decode_coded(Format::iq3_s, block, sub, out);
        case Kind::f32: memcpy(out.values, block, sizeof out.values); return;
        case Kind::f16: for (int i = 0; i < kGroup; i++) out.values[i] = half_at(block + 2 * i); return;
        case Kind::bf16: for (int i = 0; i < kGroup; i++) out.values[i] = bits_to_float(uint32_t(load_half(block + 2 * i)) << 16); return;
    }
}

Kind kind_from_name(const std::string& name) {
    for (int i = 0; i < int(sizeof kKinds / sizeof *kKinds); i++)
        if (name == kKinds[i].name) return Kind(i);
    throw std::invalid_argument("tensor kind '" + name + "' cannot be packed");
}

size_t row_bytes(Kind kind, int cols) {
    const KindInfo& info = kKinds[int(kind)];
    return size_t(cols) / info.block_weights * info.block_bytes;
}

}  // namespace llm
