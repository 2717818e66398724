// Attention over a sequence that is not cached, in f32: there each token is looked at a few times only, and rounding
// keys and values first would take longer than it saves.
#pragma once
#include "attention_piece.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

using Floats = Piece<float>;

// weights[r][0 .. 16 B] = scores of blocks first .. first + B.
template <int R, int B>
LLM_INLINE void score(const Row* rows, const Floats& piece, int first, float* weights) {
    const float* const* keys = piece.keys + first;
    Wide sums[R][B];
    LLM_EACH(r, R) { LLM_EACH(b, B) { sums[r][b] = spread<Wide>(0.0f); } }
    for (int d = 0; d < piece.head_dim; d++)
        add_products(sums, LLM_WITH(r) { return rows[r].query[d]; }, LLM_WITH(b) { return load_as<Wide>(keys[b] + d * kBlockTokens); });
    LLM_EACH(r, R) {
        LLM_EACH(b, B) {
            store(weights + r * kPieceTokens + b * kBlockTokens, multiply(sums[r][b], spread<Wide>(piece.scale * kLog2E)));
        }
    }
}

template <int R>
LLM_INLINE void score_blocks(const Row* rows, const Floats& piece, int blocks, float* weights) {
    constexpr int kSide = side_by_side(R);
    int block = 0;
    for (; block + kSide <= blocks; block += kSide) score<R, kSide>(rows, piece, block, weights + block * kBlockTokens);
    for (; block < blocks; block++) score<R, 1>(rows, piece, block, weights + block * kBlockTokens);
}

// scores[0 .. seen] -> 2^(score - largest of them); returns the largest and the sum.
LLM_INLINE Tail soften(float* scores, const float* bias, int seen) {
    const float peak = peak_of(scores, bias, seen);
    const int full = seen & -kWideLanes, rest = seen - full;
    Wide total = spread<Wide>(0.0f);
    const auto weigh = [&](int k) __attribute__((always_inline)) {
        const Wide weight = power_of_two(subtract(load_as<Wide>(scores + k), spread<Wide>(peak)));
        store(scores + k, weight);
        return weight;
    };
    for (int k = 0; k < full; k += kWideLanes) total = add(total, weigh(k));
    if (rest) total = add(total, first_lanes(weigh(full), rest, spread<Wide>(0.0f)));
    return {peak, sum(total)};
}

// states[r][d .. d + N V] += weights[r][begin .. end] @ values, in token order; from zero if begin is 0.
template <int R, int N, class V>
LLM_INLINE void add_values(const Floats& piece, const float* weights, int begin, int end, int d, float* states, int stride) {
    constexpr int kLength = sizeof(V) / sizeof(float);
    V sums[R][N];
    LLM_EACH(r, R) {
        LLM_EACH(n, N) {
            sums[r][n] = begin ? load_as<V>(states + r * stride + d + n * kLength) : spread<V>(0.0f);
        }
    }
    for (int t = begin; t < end; t++) {
        const float* values = piece.values[t / kBlockTokens] + (t % kBlockTokens) * piece.head_dim + d;
        add_products(sums, LLM_WITH(r) { return weights[r * kPieceTokens + t]; }, LLM_WITH(n) { return load_as<V>(values + n * kLength); });
    }
    LLM_EACH(r, R) {
        LLM_EACH(n, N) { store(states + r * stride + d + n * kLength, sums[r][n]); }
    }
}

template <int R>
LLM_INLINE void add_values(const Floats& piece, const float* weights, int begin, int end, float* states, int stride) {
    constexpr int kSide = side_by_side(R);
    int d = 0;
    for (; d + kSide * kWideLanes <= piece.head_dim; d += kSide * kWideLanes)
        add_values<R, kSide, Wide>(piece, weights, begin, end, d, states, stride);
    for (; d + kWideLanes <= piece.head_dim; d += kWideLanes)
        add_values<R, 1, Wide>(piece, weights, begin, end, d, states, stride);
    if (d < piece.head_dim) add_values<R, 1, Lanes>(piece, weights, begin, end, d, states, stride);
}

// As `attend` of attention_integers.hpp.
template <int R>
void attend(const Row* rows, const Floats& piece, float* weights, float* states) {
    const int stride = state_floats(piece.head_dim);
    const int common = keys_within(rows[0].seen, piece.first_key), most = keys_within(rows[R - 1].seen, piece.first_key);
    score_blocks<R>(rows, piece, (most + kBlockTokens - 1) / kBlockTokens, weights);
    for (int r = 0; r < R; r++)
        tail_of(states + r * stride, piece.head_dim) =
            soften(weights + r * kPieceTokens, rows[r].bias ? rows[r].bias + piece.first_key : nullptr,
                   keys_within(rows[r].seen, piece.first_key));
    add_values<R>(piece, weights, 0, common, states, stride);
    // Slots past what a row sees may hold anything, even NaN: a weight of zero would not do.
    for (int r = 0; most > common && r < R; r++)
        add_values<1>(piece, weights + r * kPieceTokens, common, keys_within(rows[r].seen, piece.first_key), states + r * stride, stride);
}

}  // namespace

}  // namespace llm::LLM_NAMESPACE
