// Scalar arithmetic that every ISA performs in exactly the same way: explicit fused multiply-adds,
// fixed reduction trees, our own exp. The build forbids contraction, so what is written is what runs.
// Everything is static: a copy compiled for AVX2 must never be linked into the portable kernels.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

namespace llm {

constexpr int kLanes = 8;

static inline float bits_to_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint32_t float_to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static inline float half_to_float(uint16_t half) {
    uint32_t sign = uint32_t(half & 0x8000) << 16;
    uint32_t magnitude = half & 0x7fff;
    if (magnitude >= 0x7c00)  // inf, nan (quieted, as the hardware does)
        return bits_to_float(sign | 0x7f800000 | ((magnitude & 0x3ff) << 13) | (magnitude > 0x7c00 ? 0x400000 : 0));
    if (magnitude >= 0x0400) return bits_to_float(sign | ((magnitude << 13) + (112u << 23)));
    return bits_to_float(sign | float_to_bits(float(magnitude) * 5.9604644775390625e-8f));  // subnormal: m * 2^-24
}

// Round to nearest, ties to even, as VCVTPS2PH does.
static inline uint16_t float_to_half(float value) {
    uint32_t bits = float_to_bits(value);
    uint16_t sign = uint16_t((bits >> 16) & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return uint16_t(sign | 0x7e00 | ((bits >> 13) & 0x1ff));
    if (bits >= 0x477ff000) return uint16_t(sign | 0x7c00);  // rounds to infinity
    if (bits < 0x38800000) {  // subnormal: adding 0.5 makes the FPU round at 2^-24
        return uint16_t(sign | (float_to_bits(bits_to_float(bits) + 0.5f) - 0x3f000000));
    }
    uint32_t odd = (bits >> 13) & 1;
    return uint16_t(sign | ((bits + 0xfff + odd - (112u << 23)) >> 13));
}

// 2^(exponent - 128), half of what MXFP4's byte says, since the numbers it scales are kept doubled. Of the bits that a normal
// number would have, and a subnormal one, the right ones are the greater.
static inline float half_power(uint8_t exponent) {
    const int32_t normal = (exponent - 1) * (1 << 23), subnormal = (exponent + 1) * (1 << 21);
    return bits_to_float(uint32_t(normal > subnormal ? normal : subnormal));
}

static inline float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

// Nearest integer, ties to even, for |x| < 2^22.
static inline float round_even(float x) { return (x + 12582912.0f) - 12582912.0f; }

// The one order in which eight lanes are added up.
static inline float sum_lanes(const float* s) {
    float a = s[0] + s[4], b = s[1] + s[5], c = s[2] + s[6], d = s[3] + s[7];
    return (a + c) + (b + d);
}

static inline float larger(float a, float b) { return a > b ? a : b; }

static inline float max_lanes(const float* s) {
    float a = larger(s[0], s[4]), b = larger(s[1], s[5]), c = larger(s[2], s[6]), d = larger(s[3], s[7]);
    return larger(larger(a, c), larger(b, d));
}

}  // namespace llm
