// What the kernels for ARM64 load of weights and their scales. Included only by files that are compiled once per instruction set.
#pragma once
#include <arm_neon.h>

#include <type_traits>

#include "gemm_cases.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

struct GroupScales {
    Lanes scale;
    Lanes other;  // the minimum, or the second half's scale; without either, unused
};

LLM_INLINE Lanes widen_bytes(const uint8_t* p) {
    const uint16x8_t wide = vmovl_u8(vld1_u8(p));
    return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide))), vcvtq_f32_u32(vmovl_high_u16(wide))};
}

LLM_INLINE Lanes widen_signed_bytes(const uint8_t* p) {
    const int16x8_t wide = vmovl_s8(vreinterpret_s8_u8(vld1_u8(p)));
    return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))), vcvtq_f32_s32(vmovl_high_s16(wide))};
}

// As in numeric.hpp.
LLM_INLINE float32x4_t half_powers(uint16x4_t exponents) {
    const int32x4_t e = vreinterpretq_s32_u32(vmovl_u16(exponents)), one = vdupq_n_s32(1);
    return vreinterpretq_f32_s32(vmaxq_s32(vshlq_n_s32(vsubq_s32(e, one), 23), vshlq_n_s32(vaddq_s32(e, one), 21)));
}

template <Format F>
LLM_INLINE Lanes load_factors(const uint16_t* factors) {
    const Lanes of_outputs = widen8(factors);
    return has_grid(F) ? multiply(broadcast(factor_unit(F)), of_outputs) : of_outputs;
}

// Formats for 8-bit activations.
template <Format F>
LLM_INLINE GroupScales load_scales(const uint8_t* scales, int g) {
    const uint8_t* own = scales + scales_at(F, g);
    const auto* factors = reinterpret_cast<const uint16_t*>(scales + factors_at(F, g));
    if constexpr (F == Format::mxfp4) {
        const uint16x8_t exponents = vmovl_u8(vld1_u8(own));
        return {{half_powers(vget_low_u16(exponents)), half_powers(vget_high_u16(exponents))}, broadcast(0.0f)};
    }
    if constexpr (has_one_step(F)) return {multiply(load_factors<F>(factors), widen_signed_bytes(own)), broadcast(0.0f)};
    if constexpr (scales_halves(F) && shares_factors(F)) {
        const Lanes factor = load_factors<F>(factors);
        return {multiply(factor, widen_signed_bytes(own)), multiply(factor, widen_signed_bytes(own + kPanel))};
    }
    if constexpr (shares_two_factors(F)) {
        return {multiply(widen8(factors), widen_bytes(own)), multiply(widen8(factors + kPanel), widen_bytes(own + kPanel))};
    }
    const auto* halves = reinterpret_cast<const uint16_t*>(own);
    const Lanes scale = widen8(halves);
    if constexpr (scale_bytes(F) == 32) return {scale, widen8(halves + kPanel)};
    return {scale, multiply(scale, broadcast(-8.0f))};
}

// Outputs 4j to 4j + 3 times inputs 4v to 4v + 3 of a half of a group.
template <Format F>
LLM_INLINE int8x16_t weights(const uint8_t* quants, int half, int v, int j) {
    if constexpr (!has_nibbles(F)) return vreinterpretq_s8_u8(vld1q_u8(quants + 128 * half + 32 * v + 16 * j));
    const uint8x16_t packed = vld1q_u8(quants + 32 * v + 16 * j);
    const uint8x16_t nibbles = half == 0 ? vandq_u8(packed, vdupq_n_u8(15)) : vshrq_n_u8(packed, 4);
    if constexpr (has_codes(F)) return vqtbl1q_s8(vld1q_s8(codes_of(F)), nibbles);
    if constexpr (is_q4(F)) return vreinterpretq_s8_u8(nibbles);
    uint8x16_t kept = nibbles;
    if constexpr (upper_bits(F) != 0) {
        const UpperBits upper = upper_at(F, 4 * j, 4 * (4 * half + v));
        const uint8x16_t moved = vshlq_u8(vld1q_u8(quants + upper.at), vdupq_n_s8(int8_t(4 - upper.shift)));  // right below zero
        kept = vorrq_u8(kept, vandq_u8(moved, vdupq_n_u8(upper.count == 2 ? 0x30 : 0x10)));
    }
    return vreinterpretq_s8_u8(vsubq_u8(kept, vdupq_n_u8(centre_of(F))));
}

}  // namespace

}  // namespace llm::LLM_NAMESPACE
