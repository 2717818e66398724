// Vectors turned so that no dimension stands out, before they are kept in few bits: a step that fits the largest of them is then
// fine enough for the others (QuaRot, Ashkboos et al. 2024). Scores do not change if queries are turned as keys are, and a sum
// of turned values is turned back by the same.
// Included only by files that are compiled once per instruction set.
#pragma once
#include <cmath>

#include "lanes.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

// Hadamard's matrix of 2^n, as long as that divides `count`, over parts of that length; count is a multiple of eight.
// Orthogonal, and its own inverse.
LLM_INLINE void rotate(float* x, int count) {
    const int length = count & -count;
    for (int i = 0; i < count; i += kLanes) {
        float own[kLanes], next[kLanes];
        for (int j = 0; j < kLanes; j++) own[j] = x[i + j];
        for (int step = 1; step < kLanes; step *= 2) {
            for (int j = 0; j < kLanes; j++) next[j] = j & step ? own[j ^ step] - own[j] : own[j] + own[j ^ step];
            for (int j = 0; j < kLanes; j++) own[j] = next[j];
        }
        for (int j = 0; j < kLanes; j++) x[i + j] = own[j];
    }
    for (int step = kLanes; step < length; step *= 2)
        for (int first = 0; first < count; first += 2 * step)
            for (int i = first; i < first + step; i += kLanes) {
                const Lanes a = load(x + i), b = load(x + i + step);
                store(x + i, add(a, b));
                store(x + i + step, subtract(a, b));
            }
    const Lanes unit = broadcast(1.0f / std::sqrt(float(length)));
    for (int i = 0; i < count; i += kLanes) store(x + i, multiply(load(x + i), unit));
}

}  // namespace

}  // namespace llm::LLM_NAMESPACE
