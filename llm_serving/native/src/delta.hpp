// What Gated DeltaNet computes of one head of one sequence (Yang et al. 2024), token by token.
//
// A head keeps a matrix S of key_dim x value_dim. A token fades it, replaces what its key finds by a mixture with its value,
// and reads it with its query: S = decay S; S += key (beta (value - S^T key))^T; out = S^T query. Columns of S never meet, so
// they are what vectors and threads divide; sums run over rows, those of even and of odd ones apart, and are added at the end.
// Nothing is computed of several tokens at once (the chunks of the paper): a result must not depend on how a prompt was cut.
#pragma once
#include <cstddef>

namespace llm {

constexpr int kDeltaColumns = 16;  // of S that are computed together, at least
constexpr int kTaps = 4;           // inputs that a short convolution sees, the token's own counted in

// A causal convolution over the tokens, each channel by itself, then silu.
struct ShortConvTile {
    float* rows;         // [token][cols] of one head; what comes out takes the place of what comes in
    const float* taps;   // [kTaps][cols], of the oldest input first
    float* state;        // [kTaps - 1][cols]: the inputs before these tokens, the oldest first
    size_t stride;       // floats between tokens
    size_t tap_stride;   // floats between taps
    int num_tokens;
    int cols;            // a multiple of eight, up to kMostDeltaDim
    float length;        // > 0: each row is scaled to this length
    const float* bias = nullptr;  // [cols], or none
};

constexpr int kMostDeltaDim = 512;

struct DeltaTile {
    const float *query, *key;   // [token][key_dim]
    const float* value;         // [token][columns]
    const float *decay, *beta;  // [token]
    float* out;                 // [token][columns]
    float* state;               // [key_dim][columns], in place
    size_t stride, out_stride;  // floats between tokens: of what is read, and of `out`
    int num_tokens;
    int key_dim;                // even
    int columns;                // a multiple of kDeltaColumns
};

}  // namespace llm
