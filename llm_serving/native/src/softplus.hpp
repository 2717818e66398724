// The softplus of gates, for any width.
// Included only by files that are compiled once per instruction set.
#pragma once
#include "wide_lanes.hpp"

namespace llm::LLM_NAMESPACE {

// log(1 + e^v) = max(v, 0) + log(1 + t), t = e^-|v|; log(1 + t) = 2 atanh(s), s = t / (2 + t), a third at most.
template <class V>
LLM_INLINE V softplus_of(V v) {
    const V zero = spread<V>(0.0f);
    const V t = exponential(subtract(zero, maximum(v, subtract(zero, v))));
    const V s = divide(t, add(spread<V>(2.0f), t)), square = multiply(s, s);
    V p = spread<V>(2.0f / 15.0f);
    p = fused(p, square, spread<V>(2.0f / 13.0f));
    p = fused(p, square, spread<V>(2.0f / 11.0f));
    p = fused(p, square, spread<V>(2.0f / 9.0f));
    p = fused(p, square, spread<V>(2.0f / 7.0f));
    p = fused(p, square, spread<V>(2.0f / 5.0f));
    p = fused(p, square, spread<V>(2.0f / 3.0f));
    p = fused(p, square, spread<V>(2.0f));
    return fused(p, s, maximum(v, zero));
}

}  // namespace llm::LLM_NAMESPACE
