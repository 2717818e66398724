// The arithmetic of one forward pass, as a table of functions per instruction set.
// Every table computes the same bits, but for that of AMX; `docs/architecture.md` states why that holds.
#pragma once
#include <string>
#include <vector>

#include "delta.hpp"
#include "mamba.hpp"
#include "selective_scan.hpp"
#include "kv_format.hpp"
#include "packed.hpp"

namespace llm {

// Names the bits that a forward pass gives: bump it with any change of kernels or operations that changes a
// result or the layout of a KV block, and blocks kept on disk are not used any more.
// tests/native/test_arithmetic_version.py notices a change that forgot to.
constexpr int kArithmetic = 5;

// out[row][col] (=, or += when accumulate) sum_k a[row][k] * w[col][k] + bias[col].
// Covers panels [panel_begin, panel_end) and rows [row_begin, row_end); `out` points at row 0, column 0.
struct GemmTile {
    const PackedMatrix* weight;
    const Activations* input;
    const float* bias;  // [rows of weight] or null
    float* out;
    size_t out_stride;  // floats
    bool accumulate;
    int panel_begin, panel_end;
    int row_begin, row_end;
};

// Attention of `num_tokens` consecutive tokens of one sequence over one KV head.
// `states` null: over all they see, into `out`. Else over pieces `piece` to `piece_end`, each into its own of `states`
// [piece][token][group], of state_floats() floats each; merge_attention then makes `out` of those of all pieces.
struct AttentionTile {
    const float* query;  // [token][group][head_dim], token stride below
    float* out;          // same shape
    size_t query_stride, out_stride;  // floats between tokens
    KvFormat format;
    const uint8_t* keys;     // of this layer and KV head, block 0
    const uint8_t* values;
    size_t chunk_stride;     // bytes between chunks of blocks
    const int32_t* blocks;   // block table of the sequence
    int first_position;      // of the first token
    int num_tokens;
    const int32_t* seen;     // null, or of each token how many keys it sees, none fewer than the token before; else up to its own
    int group;               // query heads per KV head
    int head_dim;
    float scale;
    float cap;               // 0, or scores are cap * tanh(score / cap)
    const float* bias;       // null, or added to the score of query head h by the key's distance from it: bias[h * bias_stride + key - query]
    size_t bias_stride;
    const float* sinks;      // null, or [group]: a score of each query head that takes its share of the weights and has no value
    int first_piece;         // the first one that any of the tokens sees
    int piece, piece_end;
    size_t piece_stride;     // floats between states of one piece and the next
    float* states;           // from those of `piece` on
    float* scratch;          // attention_scratch() floats, private to the worker
};

// Attention of one KV head over a whole sequence that is not cached.
struct EncoderTile {
    const float *query, *key, *value;  // [token][group][head_dim], [token][head_dim]; token stride below
    float* out;                        // [token][group][head_dim]
    size_t stride, out_stride;         // floats between tokens
    int num_tokens;
    int begin, end;                    // of these, whose attention is wanted
    int group;
    int head_dim;
    bool causal;        // a token sees itself and what came before, else everything
    float scale;
    const float* bias;  // null, or added to the score of query i and key j of head h: bias[h * bias_stride + i * bias_row + j]
    size_t bias_stride;
    ptrdiff_t bias_row;  // -1: by distance
    float* scratch;     // encoder_scratch() floats, private to the worker
};

constexpr int kPieceTokens = 256;    // a softmax covers so many keys, and is merged with the next
constexpr int kAttentionTokens = 12;  // most tokens of a tile
constexpr int kAttentionRows = 12;   // most rows that are computed side by side
constexpr int kRowFloats = 8;        // a row's description takes no more room

// Of one row over some pieces: its weighted values, what they are divided by, and room up to a multiple of eight.
constexpr int state_floats(int head_dim) { return head_dim + 8; }

inline size_t rows_scratch(int head_dim) { return size_t(kAttentionRows) * (kPieceTokens + state_floats(head_dim)); }

inline size_t attention_scratch(int group, int head_dim) {
    return size_t(group) * kAttentionTokens * (kRowFloats + state_floats(head_dim) + head_dim) + rows_scratch(head_dim);
}

inline size_t encoder_blocks(int num_tokens) { return (size_t(num_tokens) + kBlockTokens - 1) / kBlockTokens; }

inline size_t encoder_scratch(int num_tokens, int head_dim) {
    return encoder_blocks(num_tokens) * kBlockTokens * head_dim * 2 + size_t(kAttentionRows) * state_floats(head_dim) +
           rows_scratch(head_dim);
}

struct Kernels {
    const char* name;
    bool bytes_pay;  // products of two signed bytes cost less than those of 16 bits
    bool has_wide;   // q8 and q12 read 16 bits, and not what the other formats do
    int gemm_panels;   // that a product takes together
    int gemm_rows;     // fewer of them cost as much
    int gemm_bytes;    // of a tile's activations at most, less than half of any current L2 with these instructions
    double gemm_work;  // multiply-adds that are worth a tile
    void (*gemm)(const GemmTile&);
    // x [cols] -> the groups of one token.
    void (*quantize)(const float* x, int cols, NarrowGroup* groups);
    // x [cols] -> wide and wide_scales of one token.
    void (*quantize_wide)(const float* x, int cols, int16_t* wide, float* wide_scales);
    // y = x / rms(x) * weight (Zhang & Sennrich 2019).
    void (*rms_norm)(const float* x, const float* weight, float epsilon, int cols, float* y);
    // y = (x - mean) / deviation * weight + bias (Ba et al. 2016).
    void (*layer_norm)(const float* x, const float* weight, const float* bias, float epsilon, int cols, float* y);
    // y = gelu(x), with erf to 2e-7 (Hendrycks & Gimpel 2016).
    void (*gelu)(const float* x, int cols, float* y);
    // y = gelu(x) with tanh for erf, as gated_gelu_tanh has it.
    void (*gelu_tanh)(const float* x, int cols, float* y);
    // y = positive x^2 + beta x, or below zero negative (e^x - 1 - x) + beta x (xIELU, Huang & Schlag 2024).
    void (*xielu)(const float* x, int cols, float positive, float negative, float beta, float* y);
    // y = silu(gate) * up (Shazeer 2020).
    void (*gated_silu)(const float* gate, const float* up, int cols, float* y);
    // y = gelu(gate) * up.
    void (*gated_gelu)(const float* gate, const float* up, int cols, float* y);
    // The same with tanh for erf: gelu(x) ~ x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
    void (*gated_gelu_tanh)(const float* gate, const float* up, int cols, float* y);
    // y = relu(gate) * up.
    void (*gated_relu)(const float* gate, const float* up, int cols, float* y);
    // y = gate / (1 + e^(-slope * gate)) * (up + 1), of a gate up to `limit` and an up within -limit .. limit (gpt-oss).
    void (*gated_within)(const float* gate, const float* up, int cols, float slope, float limit, float* y);
    // y = sigmoid(gate) * up.
    void (*gated_sigmoid)(const float* gate, const float* up, int cols, float* y);
    // x = cap * tanh(x / cap), to a few units in the last place of cap.
    void (*soft_cap)(float* x, int count, float cap);
    // Rotates halves (i, i + rotated/2) of one head in place; cos and sin have rotated/2 entries.
    void (*rope)(float* head, const float* cos, const float* sin, int rotated);
    // Writes one token's key and value of one KV head, up to kMostHeadDim numbers, into slot `slot` of a block.
    void (*store_kv)(KvFormat format, const float* key, const float* value, int head_dim, int slot, uint8_t* keys, uint8_t* values);
    void (*attention)(const AttentionTile&);
    void (*merge_attention)(const AttentionTile&);  // `states` from piece 0 on
    void (*encoder_attention)(const EncoderTile&);
    // decay = e^(rate * log(1 + e^(decay + bias))), beta = sigmoid(beta), of each head.
    void (*delta_gates)(float* decay, float* beta, const float* rates, const float* bias, int heads);
    void (*short_conv)(const ShortConvTile&);
    void (*delta_rule)(const DeltaTile&);
    // steps = log(1 + e^(steps + bias)), of each head.
    void (*mamba_steps)(float* steps, const float* bias, int heads);
    void (*mamba_scan)(const MambaTile&);
    void (*selective_scan)(const SelectiveTile&);
    // Row `row` of a packed matrix in f32.
    void (*dequantize_row)(const PackedMatrix& w, int row, float* out);
};

const Kernels& kernels_scalar();
#if defined(LLM_HAVE_X86)
const Kernels& kernels_avx2();
const Kernels& kernels_avxvnni();
const Kernels& kernels_avx512();  // with VNNI
#if defined(LLM_HAVE_AMX)
const Kernels& kernels_amx();
#endif
#elif defined(LLM_HAVE_ARM64)
const Kernels& kernels_neon();  // with the dot product
#endif

// "auto" picks the best this CPU runs of those that compute the same bits, "amx" what `tile_set` may name. Throws
// std::invalid_argument for an unknown or unsupported name.
const Kernels& select_kernels(const char* isa);
// What this CPU runs, the best first; all of them compute the same bits.
std::vector<std::string> instruction_sets();
// "amx" where this CPU has bfloat16 tiles and the kernel lets this process use them, else "": for pictures and long texts, see gemm_amx.cpp.
std::string tile_set();

}  // namespace llm
