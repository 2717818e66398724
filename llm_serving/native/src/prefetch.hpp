// Asking for weights before they are needed. Included only by files that are compiled once per instruction set.
#pragma once
#include <cstdint>

#include "lanes.hpp"

namespace llm::LLM_NAMESPACE {

// The hardware's prefetcher stops at every page, and streams that jump from quants to scales confuse it: one row
// then waits for memory line by line. Panels follow each other, so their bytes are asked for in the order of
// memory, scales included, this far ahead and into L2, since L1 has no room for what is under way.
constexpr int kAhead = 16384;

// Asks for the next `bytes` of those at `panels`, a group of all of them together, and moves on.
LLM_INLINE void prefetch_weights(const uint8_t*& panels, int bytes) {
    for (int line = 0; line < bytes; line += 64) __builtin_prefetch(panels + kAhead + line, 0, 2);
    panels += bytes;
}

}  // namespace llm::LLM_NAMESPACE
