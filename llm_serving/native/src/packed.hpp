// The packed weight formats and quantised activations: layouts shared by packing and kernels.
//
// A matrix is [rows = outputs n][cols = inputs k], k a multiple of 32. Eight consecutive outputs form
// a panel; 32 consecutive inputs form a group. A panel is stored as
//     quants [k/32][quant_bytes]  then  scales [k/32][scale_bytes],
// and starts on a 64-byte line. Missing outputs of the last panel are zero.
//
//   q4  quant_bytes 128: four 32-byte vectors v. Byte o*4+i of v holds, for output o, input 4v+i in its
//       low nibble and input 16+4v+i in its high nibble. w = scale * q + min, q in 0..15.
//       scales: 8 scales, 8 minima, f16 (32 bytes).
//   q4_centred  q4 with min = -8 * scale. scales: 8 f16 (16 bytes).
//   q4_k  q4 where eight groups share two factors of an output: scale = d * step, min = m * step of its own.
//       Of eight groups, 160 bytes: 8 d and 8 m, f16, then for each group 8 + 8 steps, bytes in 0..63.
//   mxfp4, iq4_nl, iq4_xs  the quants of q4, each the number of a value in a table: w = scale * codes_of(format)[q].
//       scales: mxfp4 8 exponents, bytes (see half_power). iq4_nl 8 f16 (16 bytes). iq4_xs has eight groups share a factor
//       of an output, scale = d * step: of eight groups, 80 bytes: 8 d, f16, then for each group 8 steps, signed bytes.
//   iq2, iq3_xxs, iq3_s  the same, with factors that count in units: scale = factor_unit(format) * d * step. iq2, with scales as q3_k
//       has them, holds all of IQ1 and IQ2, the others, with scales as iq4_xs, what they are called after.
//   nf4, nvfp4  the same, with f16 scales: nf4 8 of them as iq4_nl, nvfp4 8 of first halves and 8 of second halves (32 bytes).
//   q3_k  the quants of q4, w = scale * (q - 4), q in 0..7. Eight groups share a factor of an output, and each half of a group has
//       a step of its own, scale = d * step. scales: of eight groups, 144 bytes: 8 d, f16, then for each group 8 steps of
//       first halves and 8 of second halves, signed bytes.
//   q5, q5_k, q6  the quants of q4 and behind them, in each group, the upper bits: 32 bytes for each bit. Byte o*4+i has, of output o,
//       that of input 4v+i in bit v; with two bits, in the first 32 bytes those of v 0..3 in bits 2v and 2v+1, in the others
//       those of v 4..7. q5 has w = scale * (q - 16), q in 0..31, and scales: 8 f16 (16 bytes); q5_k scales and minima as
//       q4_k; q6 has w = scale * (q - 32), q in 0..63, and scales as q3_k.
//   q8  quant_bytes 256: eight 32-byte vectors v. Byte o*4+i of v is input 4v+i of output o.
//       w = scale * q, q in -127..127. scales: 8 f16 (16 bytes).
//   s8  the same bytes as q8, for 8-bit activations: one instruction for four products where the CPU has VNNI.
//   q12 quant_bytes 512: q8 with 16-bit numbers, q in -2047..2047, so that sums of 32 products fit. For matrices
//       whose rounding shows most in the result.
//   f32 quant_bytes 1024: thirty-two vectors of eight outputs, one for each input. No scales.
#pragma once
#include <cstddef>
#include <cstdint>

namespace llm {

// Names what packing makes of a tensor: bump it with any change of layouts or rounding, and packed files
// on disk are written anew. tests/native/test_packing_version.py notices a change that forgot to.
constexpr int kPacking = 4;

constexpr int kPanel = 8;
constexpr int kGroup = 32;
constexpr int kHalf = 16;  // inputs that share a scale of 8-bit activations

enum class Format : uint8_t { q4, q4_centred, q4_k, mxfp4, nvfp4, iq4_nl, iq4_xs, nf4, iq2, iq3_xxs, iq3_s, q3_k, q5, q5_k, q6, s8, q8, q12, f32 };

// What four bits stand for: twice the numbers of E2M1 (OCP MX 1.0), and steps that suit a normal distribution.
inline constexpr int8_t kE2M1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
inline constexpr int8_t kNormalSteps[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
// NF4 (QLoRA, arXiv:2305.14314) in bytes: 124.115 times its numbers, where their rounding is least: 0.47 % of normal weights.
inline constexpr int8_t kNormalFloats[16] = {-124, -86, -65, -49, -35, -23, -11, 0, 10, 20, 31, 42, 55, 70, 90, 124};
inline constexpr float kNormalFloatsOne = 124.115f;
// Numbers of ggml's grids, and their negatives from 8 on. The first are those of IQ1 (1, 7, 9) and of IQ2 (8, 25, 43).
inline constexpr int8_t kGrid2[16] = {1, 7, 8, 9, 25, 43, 0, 0, -1, -7, -8, -9, -25, -43, 0, 0};
inline constexpr int8_t kGrid3Xxs[16] = {4, 12, 20, 28, 36, 44, 52, 62, -4, -12, -20, -28, -36, -44, -52, -62};
inline constexpr int8_t kGrid3S[16] = {1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15};
constexpr bool has_e2m1(Format f) { return f == Format::mxfp4 || f == Format::nvfp4; }
constexpr bool has_grid(Format f) { return f == Format::iq2 || f == Format::iq3_xxs || f == Format::iq3_s; }
constexpr const int8_t* codes_of(Format f) {
    switch (f) {
        case Format::mxfp4: case Format::nvfp4: return kE2M1;
        case Format::nf4: return kNormalFloats;
        case Format::iq2: return kGrid2;
        case Format::iq3_xxs: return kGrid3Xxs;
        case Format::iq3_s: return kGrid3S;
        default: return kNormalSteps;
    }
}
constexpr float factor_unit(Format f) { return f == Format::iq2 ? 0.125f : has_grid(f) ? 0.25f : 1.0f; }

constexpr bool is_q4(Format f) { return f == Format::q4 || f == Format::q4_centred || f == Format::q4_k; }
constexpr bool has_codes(Format f) { return has_e2m1(f) || has_grid(f) || f == Format::nf4 || f == Format::iq4_nl || f == Format::iq4_xs; }
constexpr int upper_bits(Format f) { return f == Format::q6 ? 2 : f == Format::q5 || f == Format::q5_k ? 1 : 0; }
constexpr bool has_nibbles(Format f) { return is_q4(f) || has_codes(f) || f == Format::q3_k || upper_bits(f); }
constexpr bool reads_wide(Format f) { return f == Format::q8 || f == Format::q12; }  // 16-bit activations
constexpr bool scales_halves(Format f) { return f == Format::q3_k || f == Format::q6 || f == Format::nvfp4 || f == Format::iq2; }
// The number that is kept for a weight of zero, where weights have no table and no minimum.
constexpr int centre_of(Format f) { return f == Format::q3_k ? 4 : f == Format::q5 ? 16 : f == Format::q6 ? 32 : 0; }
constexpr int quant_bytes(Format f) {
    return f == Format::f32 ? 1024 : f == Format::q12 ? 512 : has_nibbles(f) ? 128 + 32 * upper_bits(f) : 256;
}
constexpr int scale_bytes(Format f) {
    switch (f) {
        case Format::f32: return 0;
        case Format::q4: case Format::nvfp4: return 32;
        case Format::q4_k: case Format::q5_k: return 20;  // on average, and so the next two
        case Format::q3_k: case Format::q6: case Format::iq2: return 18;
        case Format::iq4_xs: case Format::iq3_xxs: case Format::iq3_s: return 10;
        case Format::mxfp4: return 8;
        default: return 16;
    }
}

// Where, in the scales of a panel, those of group g are, and the factors that belong to them where groups share some.
constexpr int kSharing = 8;  // groups
constexpr bool shares_two_factors(Format f) { return f == Format::q4_k || f == Format::q5_k; }
constexpr bool has_one_step(Format f) { return f == Format::iq4_xs || f == Format::iq3_xxs || f == Format::iq3_s; }
constexpr bool shares_factors(Format f) { return shares_two_factors(f) || (scales_halves(f) && f != Format::nvfp4) || has_one_step(f); }
constexpr int factor_bytes(Format f) { return shares_two_factors(f) ? 32 : 16; }
constexpr int step_bytes(Format f) { return has_one_step(f) ? 8 : 16; }  // of a group
constexpr int factors_at(Format f, int g) { return g / kSharing * kSharing * scale_bytes(f); }
constexpr int scales_at(Format f, int g) {
    if (!shares_factors(f)) return g * scale_bytes(f);
    return factors_at(f, g) + factor_bytes(f) + g % kSharing * step_bytes(f);
}

// Where the upper bits of input k of output o are in the quants of a group.
struct UpperBits {
    int count, at, shift;
};
constexpr UpperBits upper_at(Format f, int o, int k) {
    const int count = upper_bits(f), v = k / 4, own = o * 4 + k % 4;
    return {count, 128 + (count == 2 ? v / 4 * 32 : 0) + own, count == 2 ? v % 4 * 2 : v};
}

// Input k of output o in a group of a panel; not for f32.
constexpr int quant_at(Format f, const uint8_t* quants, int o, int k) {
    const int at = (has_nibbles(f) ? k / 4 % 4 : k / 4) * 32 + o * 4 + k % 4;
    if (f == Format::q12) return int16_t(quants[2 * at] | quants[2 * at + 1] << 8);
    const uint8_t byte = quants[at];
    if (!has_nibbles(f)) return int8_t(byte);
    const int nibble = k < kHalf ? byte & 15 : byte >> 4;
    if (has_codes(f)) return codes_of(f)[nibble];
    const UpperBits upper = upper_at(f, o, k);
    const int above = upper.count ? quants[upper.at] >> upper.shift & ((1 << upper.count) - 1) : 0;
    return (nibble | above << 4) - centre_of(f);
}

struct PackedMatrix {
    Format format;
    int rows;
    int cols;
    size_t panel_stride;  // bytes
    const uint8_t* data;

    int groups() const { return cols / kGroup; }
    int panels() const { return (rows + kPanel - 1) / kPanel; }
    size_t bytes() const { return panel_stride * size_t(panels()); }
    const uint8_t* quants(int panel) const { return data + size_t(panel) * panel_stride; }
    const uint8_t* scales(int panel) const { return quants(panel) + size_t(groups()) * quant_bytes(format); }
};

inline size_t panel_stride(Format f, int cols) {
    size_t bytes = size_t(cols / kGroup) * (quant_bytes(f) + scale_bytes(f));
    return (bytes + 63) & ~size_t(63);
}

// A group of activations in 8 bits: x ~ unit * step * q, with a step for each half and a unit for the whole row. Steps
// are integers, so that both halves of a product with q4 weights add up before anything is rounded; and a sum waits for
// the unit until it is complete. One line of the cache, so that a kernel finds all of a group behind one pointer.
constexpr int kMostStep = 255 << 7;  // 16 products of 15 * 127 with this, twice, fit 31 bits
struct alignas(64) NarrowGroup {
    int8_t quants[kGroup];
    int32_t steps[2];    // below 2^15: also a pair of 16-bit numbers, the upper one zero
    float scales[2];     // the steps again: sums with signed weights are too large for integers
    float sum;           // of step * q over the group: serves the minima of q4
    int32_t offsets[2];  // -128 * sum of a half's quants: VNNI multiplies unsigned by signed bytes, and this takes back
                         // what signed weights raised by 128 add too much
    float unit;          // the same in every group of a row
};

// Activations of many tokens. q8 and q12 weights read 16 bits, x ~ wide_scale * wide, the others read 8:
// they need 16-bit multiplies anyway, and the output head is where rounding is seen.
struct Activations {
    NarrowGroup* narrow;  // [token][narrow_stride], null where nobody reads them
    int16_t* wide;        // [token][cols], null where nobody reads them
    float* wide_scales;   // [token][cols / 32]
    float* values;        // [token][cols], used instead of the others with f32 weights
    int cols;             // of a whole row: a matrix may have fewer, and read those from some column on, see `from`

    // An odd number of lines: rows that are taken together never fight for the same few places in the cache.
    static constexpr size_t narrow_stride(int cols) { return size_t(cols / kGroup) | 1; }
    NarrowGroup* narrow_row(int row) const { return narrow + size_t(row) * narrow_stride(cols); }
    int groups() const { return cols / kGroup; }
    // The same rows, read from column `first` on, a multiple of 32.
    Activations from(int first) const {
        const auto moved = [](auto* rows, int by) { return rows ? rows + by : rows; };
        return {moved(narrow, first / kGroup), moved(wide, first), moved(wide_scales, first / kGroup), moved(values, first), cols};
    }
};

}  // namespace llm
