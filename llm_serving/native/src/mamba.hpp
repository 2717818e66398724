// What Mamba-2 computes of one head of one sequence (Dao & Gu 2024), token by token.
//
// A head keeps a matrix S of rows x columns, its state by its dimensions. A token fades it by one number, adds the product of B and
// its inputs, and reads it with C: S = e^(step rate) S + B (step x)^T; out = S^T C + skip x. Columns of S never meet, so they are what
// vectors and threads divide; sums run over rows, from first to last. What a token adds does not depend on S, so several tokens may
// go over a row together, each behind the other: numbers and their order stay those of one at a time, however a prompt was cut.
#pragma once
#include <cstddef>

namespace llm {

constexpr int kMambaColumns = 16;  // of S that are computed together, at least
constexpr int kMostMambaDim = 512;

struct MambaTile {
    const float* x;       // [token][columns]
    const float *b, *c;   // [token][rows]
    const float* step;    // [token]
    float* out;           // [token][columns]
    float* state;         // [rows][columns], in place
    size_t stride, out_stride;  // floats between tokens: of what is read, and of `out`
    int num_tokens, rows;
    int columns;          // a multiple of kMambaColumns
    float rate, skip;
};

}  // namespace llm
