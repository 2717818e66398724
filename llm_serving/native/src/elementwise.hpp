// Row-wise kernels, one source for every ISA: compiled once per instruction set into its own namespace.
// Loops run over eight explicit lanes, so the compiler may vectorise them without changing a bit.
#pragma once
#include "kernels.hpp"

#define LLM_CONCAT_(a, b) a##b
#define LLM_CONCAT(a, b) LLM_CONCAT_(a, b)
#define LLM_NAMESPACE LLM_CONCAT(isa_, LLM_ISA)

namespace llm::LLM_NAMESPACE {

void quantize(const float* x, int cols, NarrowGroup* groups);
void quantize_wide(const float* x, int cols, int16_t* wide, float* wide_scales);
void rms_norm(const float* x, const float* weight, float epsilon, int cols, float* y);
void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, int cols, float* y);
void gelu(const float* x, int cols, float* y);
void gelu_tanh(const float* x, int cols, float* y);
void xielu(const float* x, int cols, float positive, float negative, float beta, float* y);
void gated_gelu(const float* gate, const float* up, int cols, float* y);
void gated_gelu_tanh(const float* gate, const float* up, int cols, float* y);
void gated_silu(const float* gate, const float* up, int cols, float* y);
void gated_relu(const float* gate, const float* up, int cols, float* y);
void gated_within(const float* gate, const float* up, int cols, float slope, float limit, float* y);
void gated_sigmoid(const float* gate, const float* up, int cols, float* y);
void soft_cap(float* x, int count, float cap);
void rope(float* head, const float* cos, const float* sin, int rotated);
void store_kv(KvFormat format, const float* key, const float* value, int head_dim, int slot, uint8_t* keys, uint8_t* values);
// Of output o of a panel in a half of group g; `scales` is where the panel's begin. Formats without a minimum have 0.
struct ScaleAndMinimum {
    float scale, minimum;
};
ScaleAndMinimum scale_and_minimum(Format format, const uint8_t* scales, int g, int half, int o);
void dequantize_row(const PackedMatrix& w, int row, float* out);
void attention(const AttentionTile& tile);
void merge_attention(const AttentionTile& tile);
void encoder_attention(const EncoderTile& tile);
void delta_gates(float* decay, float* beta, const float* rates, const float* bias, int heads);
void short_conv(const ShortConvTile& tile);
void delta_rule(const DeltaTile& tile);
void mamba_steps(float* steps, const float* bias, int heads);
void mamba_scan(const MambaTile& tile);
void selective_scan(const SelectiveTile& tile);
void gemm(const GemmTile& tile);

}  // namespace llm::LLM_NAMESPACE
