// Sixteen f32 lanes: one AVX-512 register, or two times eight. Same operations as on eight, same bits; and what
// is written once for either width.
// Included only by files that are compiled once per instruction set.
#pragma once
#include "lanes.hpp"

namespace llm::LLM_NAMESPACE {

constexpr int kWideLanes = 2 * kLanes;

// One value in every lane, and lanes from memory; for code that serves any width.
template <class V>
V spread(float x);
template <class V>
V load_as(const float* p);
template <>
inline Lanes spread<Lanes>(float x) { return broadcast(x); }
template <>
inline Lanes load_as<Lanes>(const float* p) { return load(p); }

#if defined(__AVX512F__)

using Wide = __m512;
LLM_INLINE Wide add(Wide a, Wide b) { return _mm512_add_ps(a, b); }
LLM_INLINE Wide subtract(Wide a, Wide b) { return _mm512_sub_ps(a, b); }
LLM_INLINE Wide multiply(Wide a, Wide b) { return _mm512_mul_ps(a, b); }
LLM_INLINE Wide divide(Wide a, Wide b) { return _mm512_div_ps(a, b); }
LLM_INLINE Wide fused(Wide a, Wide b, Wide c) { return _mm512_fmadd_ps(a, b, c); }
LLM_INLINE Wide maximum(Wide a, Wide b) { return _mm512_max_ps(b, a); }
LLM_INLINE Wide minimum(Wide a, Wide b) { return _mm512_min_ps(b, a); }
LLM_INLINE Wide first_lanes(Wide v, int count, Wide other) {
    return _mm512_mask_blend_ps(__mmask16(count >= kWideLanes ? 0xffff : (1u << count) - 1), other, v);
}
LLM_INLINE Lanes low_half(Wide v) { return _mm512_castps512_ps256(v); }
LLM_INLINE Lanes high_half(Wide v) { return _mm512_extractf32x8_ps(v, 1); }
LLM_INLINE Wide times_power_of_two(Wide p, Wide shifted) {
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), exponent));
}
LLM_INLINE void store(float* p, Wide v) { _mm512_storeu_ps(p, v); }
template <>
inline Wide spread<Wide>(float x) { return _mm512_set1_ps(x); }
template <>
inline Wide load_as<Wide>(const float* p) { return _mm512_loadu_ps(p); }

#else

struct Wide {
    Lanes low, high;
};
LLM_INLINE Wide add(Wide a, Wide b) { return {add(a.low, b.low), add(a.high, b.high)}; }
LLM_INLINE Wide subtract(Wide a, Wide b) { return {subtract(a.low, b.low), subtract(a.high, b.high)}; }
LLM_INLINE Wide multiply(Wide a, Wide b) { return {multiply(a.low, b.low), multiply(a.high, b.high)}; }
LLM_INLINE Wide divide(Wide a, Wide b) { return {divide(a.low, b.low), divide(a.high, b.high)}; }
LLM_INLINE Wide fused(Wide a, Wide b, Wide c) { return {fused(a.low, b.low, c.low), fused(a.high, b.high, c.high)}; }
LLM_INLINE Wide maximum(Wide a, Wide b) { return {maximum(a.low, b.low), maximum(a.high, b.high)}; }
LLM_INLINE Wide minimum(Wide a, Wide b) { return {minimum(a.low, b.low), minimum(a.high, b.high)}; }
LLM_INLINE Wide first_lanes(Wide v, int count, Wide other) {
    return {first_lanes(v.low, count, other.low), first_lanes(v.high, count - kLanes, other.high)};
}
LLM_INLINE Lanes low_half(Wide v) { return v.low; }
LLM_INLINE Lanes high_half(Wide v) { return v.high; }
LLM_INLINE Wide times_power_of_two(Wide p, Wide shifted) {
    return {times_power_of_two(p.low, shifted.low), times_power_of_two(p.high, shifted.high)};
}
LLM_INLINE void store(float* p, Wide v) {
    store(p, v.low);
    store(p + kLanes, v.high);
}
template <>
inline Wide spread<Wide>(float x) { return {broadcast(x), broadcast(x)}; }
template <>
inline Wide load_as<Wide>(const float* p) { return {load(p), load(p + kLanes)}; }

#endif

LLM_INLINE float sum(Wide v) { return sum(add(low_half(v), high_half(v))); }
LLM_INLINE float largest(Wide v) { return largest(maximum(low_half(v), high_half(v))); }

// Of magnitudes of x[0 .. count], a multiple of eight; a NaN is none.
LLM_INLINE float largest_of(const float* x, int count) {
    const Lanes zero = broadcast(0.0f);
    Lanes most = zero;
    for (int i = 0; i < count; i += kLanes) {
        const Lanes v = load(x + i);
        most = maximum(most, maximum(v, subtract(zero, v)));
    }
    return largest(most);
}

// 1 / scale, or 0 where dividing by so small a number might overflow: such inputs count as zero.
LLM_INLINE float inverse_of(float largest, float most) { return largest > 1e-30f ? most / largest : 0.0f; }

// e^x to about 1 ulp for x in [-87, 88], clamped outside. Cephes' reduction, degree-6 polynomial.
template <class V>
LLM_INLINE V exponential(V x) {
    const auto constant = [](float value) __attribute__((always_inline)) { return spread<V>(value); };
    x = minimum(maximum(x, constant(-87.0f)), constant(88.0f));
    const V shifted = add(multiply(x, constant(1.44269504088896341f)), constant(kMagic));
    const V n = subtract(shifted, constant(kMagic));
    V r = fused(n, constant(-0.693359375f), x);
    r = fused(n, constant(2.12194440e-4f), r);
    V p = constant(1.9875691500e-4f);
    p = fused(p, r, constant(1.3981999507e-3f));
    p = fused(p, r, constant(8.3334519073e-3f));
    p = fused(p, r, constant(4.1665795894e-2f));
    p = fused(p, r, constant(1.6666665459e-1f));
    p = fused(p, r, constant(5.0000001201e-1f));
    p = add(fused(p, multiply(r, r), r), constant(1.0f));
    return times_power_of_two(p, shifted);
}

// 2^x to 2 ulp for x in [-125, 0], clamped below. Minimax polynomial of degree 5 over [-1/2, 1/2], 1 at 0.
template <class V>
LLM_INLINE V power_of_two(V x) {
    const auto constant = [](float value) __attribute__((always_inline)) { return spread<V>(value); };
    x = maximum(x, constant(-125.0f));
    const V shifted = add(x, constant(kMagic));
    const V r = subtract(x, subtract(shifted, constant(kMagic)));
    V p = constant(1.3264727313e-3f);
    p = fused(p, r, constant(9.6715129912e-3f));
    p = fused(p, r, constant(5.5507335812e-2f));
    p = fused(p, r, constant(2.4022242427e-1f));
    p = fused(p, r, constant(6.9314700365e-1f));
    p = fused(p, r, constant(1.0f));
    return times_power_of_two(p, shifted);
}

template <class V>
LLM_INLINE V silu_of(V v) {
    const V denominator = add(spread<V>(1.0f), exponential(subtract(spread<V>(0.0f), v)));
    return divide(v, denominator);
}

// body(i, lanes) over sixteen values at a time, and eight that may be left.
template <class Body>
LLM_INLINE void for_wide_lanes(int cols, Body body) {
    int i = 0;
    for (; i + kWideLanes <= cols; i += kWideLanes) body(i, Wide{});
    if (i < cols) body(i, Lanes{});
}

}  // namespace llm::LLM_NAMESPACE
