// What Mamba's first version computes of some channels of one sequence (Gu & Dao 2023), token by token.
//
// A channel keeps a row of numbers, each of which fades at its own rate: s = e^(step rate) s + B step x; out = s C + skip x, where
// step = softplus(step) is the channel's own, and B and C are one for all channels. Channels never meet, so they are what vectors and
// threads divide; sums run over a state from first to last.
#pragma once
#include <cstddef>

namespace llm {

constexpr int kMostSelectiveState = 512;

struct SelectiveTile {
    const float* x;         // [token][channels]
    const float* steps;     // [token][channels], before softplus
    const float *b, *c;     // [token][rows]
    const float* rates;     // [rows][channels], none positive
    const float* skips;     // [channels]
    float* out;             // [token][channels]
    float* state;           // [rows][channels], in place
    size_t x_stride, steps_stride, b_stride, out_stride;  // floats between tokens
    size_t rates_stride;    // floats between rows
    int num_tokens, rows;
    int channels;           // a multiple of eight
};

}  // namespace llm
