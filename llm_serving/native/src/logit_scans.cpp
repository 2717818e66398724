// One source for every ISA; compiled once per instruction set.
#include "logit_scans.hpp"

#include "lanes.hpp"

namespace llm {
namespace LLM_NAMESPACE {
namespace {

constexpr int kUnroll = 4;
constexpr int kStride = kUnroll * kLanes;

float greatest(const float* x, int n) {
    Lanes best[kUnroll];
    LLM_EACH(j, kUnroll) { best[j] = broadcast(-__builtin_inff()); }
    int i = 0;
    // `maximum` returns its first operand unless the second is greater: a NaN among the logits never is.
    for (; i + kStride <= n; i += kStride)
        LLM_EACH(j, kUnroll) { best[j] = maximum(best[j], load(x + i + j * kLanes)); }
    float lanes[kLanes];
    store(lanes, maximum(maximum(best[0], best[1]), maximum(best[2], best[3])));
    float result = max_lanes(lanes);
    for (; i < n; i++) result = x[i] > result ? x[i] : result;
    return result;
}

int next_at_least(const float* x, int from, int n, float bound) {
    const Lanes least = broadcast(bound);
    int i = from;
    for (; i + kStride <= n; i += kStride) {
        uint32_t found = 0;
        LLM_EACH(j, kUnroll) { found |= at_least(load(x + i + j * kLanes), least) << (j * kLanes); }
        if (found) return i + __builtin_ctz(found);
    }
    for (; i < n; i++)
        if (x[i] >= bound) return i;
    return n;
}

int collect(const float* x, int n, float bound, int32_t* ids, float* values) {
    const Lanes least = broadcast(bound);
    int count = 0, i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const uint32_t found = at_least(load(x + i), least);
        if (!found) continue;
        for (int j = 0; j < kLanes; j++) {  // no branch: which of the eight it is cannot be foreseen
            ids[count] = i + j;
            values[count] = x[i + j];
            count += (found >> j) & 1;
        }
    }
    for (; i < n; i++) {
        ids[count] = i;
        values[count] = x[i];
        count += x[i] >= bound;
    }
    return count;
}

// exp32 of engine/sampler.py for z <= 0. Below -87 this gives 2^-126 where the definition has 0; rounded they are equal.
LLM_INLINE Lanes exp32(Lanes z) {
    z = maximum(z, broadcast(-87.0f));
    const Lanes shifted = add(multiply(z, broadcast(1.44269504f)), broadcast(kMagic)), n = subtract(shifted, broadcast(kMagic));
    const Lanes coarse = subtract(z, multiply(n, broadcast(0.693359375f)));
    const Lanes r = subtract(coarse, multiply(n, broadcast(-2.12194440e-4f)));
    Lanes w = add(multiply(r, broadcast(float(1.0 / 720))), broadcast(float(1.0 / 120)));
    for (const float coefficient : {float(1.0 / 24), float(1.0 / 6), 0.5f, 1.0f, 1.0f})
        w = add(multiply(w, r), broadcast(coefficient));
    return times_power_of_two(w, shifted);
}

// To the nearest multiple of 2^-32, ties to even. Adding 2^-9 rounds what is below it there; the rest, 24 bits
// from 2^-9 up, is a multiple already, and both differences from 2^-9 are exact.
LLM_INLINE Lanes round_weight(Lanes w) {
    const Lanes edge = broadcast(0x1p-9f);
    const Lanes small = subtract(add(minimum(w, edge), edge), edge);
    return add(subtract(maximum(w, edge), edge), small);
}

void weigh(const float* x, int n, float greatest, float temperature, float* w) {
    const Lanes top = broadcast(greatest), divisor = broadcast(temperature);
    for (int i = 0; i < n; i += kLanes)
        store(w + i, round_weight(exp32(divide(subtract(load(x + i), top), divisor))));
}

double sum(const float* w, int n) {
    double lanes[kLanes] = {};
    int i = 0;
    for (; i + kLanes <= n; i += kLanes)
        for (int j = 0; j < kLanes; j++) lanes[j] += double(w[i + j]);
    double total = 0;
    for (; i < n; i++) total += double(w[i]);
    for (int j = 0; j < kLanes; j++) total += lanes[j];
    return total;
}

}  // namespace
}  // namespace LLM_NAMESPACE

const LogitScans& LLM_CONCAT(logit_scans_, LLM_ISA)() {
    using namespace LLM_NAMESPACE;
    static const LogitScans table = {greatest, next_at_least, collect, weigh, sum};
    return table;
}

}  // namespace llm
