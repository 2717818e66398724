// Asking for weights before they are needed. Included only by files that are compiled once per instruction set.
#pragma once
#include <cstdint>

#include "lanes.hpp"

namespace llm::LLM_NAMESPACE {

// The hardware's prefetcher stops at every page, and streams that jump from quants to scales confuse it: one row
// then waits for memory line by line. Panels follow each other, so their bytes are asked for in the order of
// memory, scales included, this far ahead and into L2, since L1 has no room for what is under way.
constexpr int kAhead = 16384;

// Group `g` of panels that begin at `panels` and take `Bytes` a group, all of them together.
template <int Bytes>
LLM_INLINE void prefetch_weights(const uint8_t* panels, int g) {
    const uint8_t* at = panels + g * Bytes + kAhead;
    for (int line = 0; line < Bytes; line += 64) __builtin_prefetch(at + line, 0, 2);
}

}  // namespace llm::LLM_NAMESPACE
