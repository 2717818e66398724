// Packed weights as tiles of bfloat16, each rounded to the nearest: of a group, 16 pairs of inputs, of 16 outputs each.
// Included only by gemm_amx.cpp.
#pragma once
#include "sources_512.hpp"
#include "tiles.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

// Formats whose numbers are looked up by four bits: a table of floats ignores the bits above.
constexpr bool looks_up(Format f) { return is_q4(f) || has_codes(f) || f == Format::q3_k; }

template <Format F>
LLM_INLINE __m512 numbers_of() {
    alignas(64) float numbers[16];
    LLM_EACH(i, 16) { numbers[i] = has_codes(F) ? float(codes_of(F)[i]) : float(i - centre_of(F)); }
    return _mm512_load_ps(numbers);
}

// scale * number, and a minimum where the format has one.
template <Format F>
LLM_INLINE __m512 weight_of(__m512 number, __m512 scale, __m512 minimum) {
    if constexpr (is_q4(F) || !looks_up(F)) return _mm512_fmadd_ps(number, scale, minimum);
    else return _mm512_mul_ps(number, scale);
}

// The group at hand of a pair of panels, g of its row of groups, to a tile.
template <Format F>
LLM_INLINE void unpack_tile(const PackedPair<F>& from, int g, __m512 numbers, uint8_t* tile) {
    const GroupScales s = from.scales(g);
    if constexpr (looks_up(F)) {
        LLM_EACH(v, 4) {
            const __m512i nibbles = load_pair(from.quants(), 32 * v);
            LLM_EACH(i, 4) {  // two pairs of the first half, two of the second
                const int half = i / 2, at = i % 2 * 16 + half * 4;
                const __m512 scale = half && scales_halves(F) ? s.other : s.scale;
                const __m512 even = _mm512_permutexvar_ps(_mm512_srli_epi32(nibbles, unsigned(at)), numbers);
                const __m512 odd = _mm512_permutexvar_ps(_mm512_srli_epi32(nibbles, unsigned(at + 8)), numbers);
                store_pair(tile + (8 * half + 2 * v + i % 2) * kLine, weight_of<F>(even, scale, s.other), weight_of<F>(odd, scale, s.other));
            }
        }
    } else if constexpr (F == Format::q12) {
        LLM_EACH(v, 8) {
            __m512i twos[2];
            unpack_four<F>(from.quants(), v, twos[0], twos[1]);
            LLM_EACH(i, 2) {
                const __m512 even = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(twos[i], 16), 16));
                const __m512 odd = _mm512_cvtepi32_ps(_mm512_srai_epi32(twos[i], 16));
                store_pair(tile + (2 * v + i) * kLine, _mm512_mul_ps(even, s.scale), _mm512_mul_ps(odd, s.scale));
            }
        }
    } else {
        LLM_EACH(v, 8) {
            const __m512 scale = v >= 4 && scales_halves(F) ? s.other : s.scale;
            const __m512 minimum = F == Format::q5_k ? s.other : _mm512_mul_ps(scale, _mm512_set1_ps(-128.0f));  // bytes are raised
            const __m512i bytes = from.bytes(v);
            __m512 w[4];
            LLM_EACH(i, 4) {
                const __m512i byte = _mm512_and_si512(_mm512_srli_epi32(bytes, unsigned(8 * i)), _mm512_set1_epi32(255));
                w[i] = weight_of<F>(_mm512_cvtepi32_ps(byte), scale, minimum);
            }
            store_pair(tile + 2 * v * kLine, w[0], w[1]);
            store_pair(tile + (2 * v + 1) * kLine, w[2], w[3]);
        }
    }
}

}  // namespace

}  // namespace llm::LLM_NAMESPACE
