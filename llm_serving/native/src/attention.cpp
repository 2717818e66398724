// Attention over paged keys and values, one source for every ISA.
//
// A row (one query head of one token) walks its own context block by block with an online softmax
// (Milakov & Gimelshein 2018). Its arithmetic depends on its own position only, so it does not matter
// which rows share a tile. Keys lie transposed in their block: sixteen scores need no horizontal sum.
#include "elementwise.hpp"
#include "numeric.hpp"
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace llm::LLM_NAMESPACE {

namespace {

void widen(const uint16_t* source, int count, float* target) {
    int i = 0;
#if defined(__F16C__)
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(target + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i))));
#endif
    for (; i < count; i++) target[i] = half_to_float(source[i]);
}


void score_block(const float* query, const float* keys, int head_dim, float scale, float (&scores)[kBlockTokens]) {
    float lanes[kBlockTokens] = {0};
    for (int d = 0; d < head_dim; d++)
        for (int t = 0; t < kBlockTokens; t++) lanes[t] = fused(query[d], keys[d * kBlockTokens + t], lanes[t]);
    for (int t = 0; t < kBlockTokens; t++) scores[t] = lanes[t] * scale;
}

// Folds `valid` tokens of a block into a row's state: largest score, sum of weights, weighted values.
void fold_block(const float (&scores)[kBlockTokens], const float* values, int head_dim, int valid, float* state) {
    float largest = state[0];
    for (int t = 0; t < valid; t++) largest = scores[t] > largest ? scores[t] : largest;
    float weights[kBlockTokens];
    for (int t = 0; t < kBlockTokens; t++) weights[t] = exp_fixed(scores[t] - largest);
    for (int t = valid; t < kBlockTokens; t++) weights[t] = 0;
    float lanes[kLanes];
    for (int l = 0; l < kLanes; l++) lanes[l] = weights[l] + weights[l + kLanes];
    float* out = state + 2;
    if (largest != state[0]) {
        const float shrink = exp_fixed(state[0] - largest);
        state[0] = largest;
        state[1] *= shrink;
        for (int d = 0; d < head_dim; d++) out[d] *= shrink;
    }
    state[1] += sum_lanes(lanes);
    int d = 0;
    for (; d + 4 * kLanes <= head_dim; d += 4 * kLanes) {
        float acc[4 * kLanes];
        for (int l = 0; l < 4 * kLanes; l++) acc[l] = out[d + l];
        for (int t = 0; t < valid; t++)
            for (int l = 0; l < 4 * kLanes; l++) acc[l] = fused(weights[t], values[t * head_dim + d + l], acc[l]);
        for (int l = 0; l < 4 * kLanes; l++) out[d + l] = acc[l];
    }
    for (; d < head_dim; d++)
        for (int t = 0; t < valid; t++) out[d] = fused(weights[t], values[t * head_dim + d], out[d]);
}

}  // namespace

void attention(const AttentionTile& t) {
    const int rows = t.num_tokens * t.group;
    const int state_size = t.head_dim + 2;
    float* keys = t.scratch;
    float* values = keys + size_t(t.head_dim) * kBlockTokens;
    float* states = values + size_t(t.head_dim) * kBlockTokens;
    for (int r = 0; r < rows; r++) {
        float* state = states + size_t(r) * state_size;
        state[0] = -3.0e38f;
        for (int i = 1; i < state_size; i++) state[i] = 0;
    }
    const int last_position = t.first_position + t.num_tokens - 1;
    for (int block = 0; block * kBlockTokens <= last_position; block++) {
        const size_t at = size_t(t.blocks[block]) * t.block_stride;
        widen(t.keys + at, t.head_dim * kBlockTokens, keys);
        widen(t.values + at, t.head_dim * kBlockTokens, values);
        for (int token = 0; token < t.num_tokens; token++) {
            const int visible = t.first_position + token + 1 - block * kBlockTokens;
            if (visible <= 0) continue;
            const int valid = visible < kBlockTokens ? visible : kBlockTokens;
            for (int head = 0; head < t.group; head++) {
                float scores[kBlockTokens];
                score_block(t.query + size_t(token) * t.query_stride + head * t.head_dim, keys, t.head_dim, t.scale, scores);
                fold_block(scores, values, t.head_dim, valid, states + size_t(token * t.group + head) * state_size);
            }
        }
    }
    for (int token = 0; token < t.num_tokens; token++)
        for (int head = 0; head < t.group; head++) {
            const float* state = states + size_t(token * t.group + head) * state_size;
            float* out = t.out + size_t(token) * t.out_stride + head * t.head_dim;
            const float inverse = 1.0f / state[1];
            for (int d = 0; d < t.head_dim; d++) out[d] = state[2 + d] * inverse;
        }
}

}  // namespace llm::LLM_NAMESPACE
