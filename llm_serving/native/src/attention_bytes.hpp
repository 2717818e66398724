// Attention of a few rows over one piece of a context that is kept as bytes. Queries, and weights times the scales of
// values, become 16-bit integers: products with bytes are then summed in integers, two at a time, and nothing is widened
// to f32. What a row computes depends on its own position only, as in attention_piece.hpp.
#pragma once
#include "attention_piece.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

using Bytes = Piece<int8_t>;
constexpr int kPairBytes = 2 * kBlockTokens;  // of two dimensions of a block's keys

// A row's query or weights.
template <int Most>
struct alignas(64) Rounded {
    int16_t values[Most];
    float scale;
    int32_t pair(int i) const {
        int32_t both;
        memcpy(&both, values + 2 * i, sizeof both);
        return both;
    }
};
using QueryPairs = Rounded<kMostByteDims>;
using WeightPairs = Rounded<kPieceTokens>;

LLM_INLINE Wide scales_of(const int8_t* vectors, int head_dim) {
    return load_as<Wide>(reinterpret_cast<const float*>(vectors + head_dim * kBlockTokens));
}

// As `score` of attention_piece.hpp, which says what is fetched when.
template <int R, int B, bool Cold>
LLM_INLINE void score_bytes(const QueryPairs* queries, const Bytes& piece, int first, float* weights) {
    const int8_t* const* keys = piece.keys + first;
    const int8_t* const* values = piece.values + first;
    const int8_t* const* next = keys + B;
    Pairs sums[R][B];
    unrolled<R>(LLM_EACH(r) { unrolled<B>(LLM_EACH(b) { sums[r][b] = spread<Pairs>(0); }); });
    for (int pair = 0; pair < piece.head_dim / 2; pair += 2) {
        if constexpr (Cold)
            unrolled<B>(LLM_EACH(b) {
                __builtin_prefetch(values[b] + pair * kPairBytes, 0, 2);
                __builtin_prefetch(next[b] + pair * kPairBytes, 0, 2);
            });
        unrolled<2>(LLM_EACH(i) {
            const int p = pair + i;
            add_products(sums, LLM_EACH(r) { return queries[r].pair(p); }, LLM_EACH(b) { return load_as<Pairs>(keys[b] + p * kPairBytes); });
        });
    }
    unrolled<B>(LLM_EACH(b) {
        const Wide scales = multiply(scales_of(keys[b], piece.head_dim), spread<Wide>(piece.scale));
        if constexpr (Cold) {
            __builtin_prefetch(values[b] + piece.head_dim * kBlockTokens, 0, 2);
            __builtin_prefetch(next[b] + piece.head_dim * kBlockTokens, 0, 2);
        }
        unrolled<R>(LLM_EACH(r) {
            const Wide factors = multiply(scales, spread<Wide>(queries[r].scale));
            store(weights + r * kPieceTokens + b * kBlockTokens, multiply(as_floats(sums[r][b]), factors));
        });
    });
}

template <int R, bool Cold>
LLM_INLINE void score_byte_blocks(const QueryPairs* queries, const Bytes& piece, int blocks, float* weights) {
    constexpr int kSide = kPairsAreVectors ? side_by_side(R) : 1;
    int block = 0;
    for (; block + kSide <= blocks; block += kSide)
        score_bytes<R, kSide, Cold>(queries, piece, block, weights + block * kBlockTokens);
    for (; block < blocks; block++) score_bytes<R, 1, Cold>(queries, piece, block, weights + block * kBlockTokens);
}

// weights[0 .. seen] times the scales of values, as integers; zero up to the end of `blocks`, where memory may hold anything.
LLM_INLINE void round_weights(const Bytes& piece, float* weights, int seen, int blocks, WeightPairs& out) {
    for (int b = 0; b < blocks; b++) {
        float* own = weights + b * kBlockTokens;
        const int rest = seen - b * kBlockTokens;
        const Wide scaled = multiply(load_as<Wide>(own), scales_of(piece.values[b], piece.head_dim));
        store(own, first_lanes(scaled, rest < 0 ? 0 : rest, spread<Wide>(0.0f)));
    }
    out.scale = round_to_pairs(weights, blocks * kBlockTokens, out.values);
}

// states[r][d .. d + 16 N] = weights[r] @ values. Of the last sixteen dimensions there may be only eight: what lies behind them
// is read, but not stored.
template <int R, int N, bool Cold>
LLM_INLINE void add_byte_values(const Bytes& piece, const WeightPairs* weights, int blocks, int d, float* states, int stride) {
    Pairs sums[R][N];
    unrolled<R>(LLM_EACH(r) { unrolled<N>(LLM_EACH(n) { sums[r][n] = spread<Pairs>(0); }); });
    for (int block = 0; block < blocks; block++)
        for (int i = 0; i < kBlockTokens / 2; i++) {
            const int at = 2 * (i * piece.head_dim + d);
            const int8_t* values = piece.values[block] + at;
            if constexpr (Cold) fetch<N * 2 * kWideLanes>(piece.keys[kPieceBlocks + block] + at);
            const int pair = block * (kBlockTokens / 2) + i;
            add_products(sums, LLM_EACH(r) { return weights[r].pair(pair); }, LLM_EACH(n) { return load_as<Pairs>(values + n * 2 * kWideLanes); });
        }
    unrolled<R>(LLM_EACH(r) {
        unrolled<N>(LLM_EACH(n) {
            float* out = states + r * stride + d + n * kWideLanes;
            const Wide sum = multiply(as_floats(sums[r][n]), spread<Wide>(weights[r].scale));
            if (d + n * kWideLanes + kWideLanes <= piece.head_dim) store(out, sum);
            else store(out, low_half(sum));
        });
    });
}

template <int R, bool Cold>
LLM_INLINE void add_byte_values(const Bytes& piece, const WeightPairs* weights, int blocks, float* states, int stride) {
    constexpr int kSide = kPairsAreVectors ? side_by_side(R) : 1;
    int d = 0;
    for (; d + kSide * kWideLanes <= piece.head_dim; d += kSide * kWideLanes)
        add_byte_values<R, kSide, Cold>(piece, weights, blocks, d, states, stride);
    for (; d < piece.head_dim; d += kWideLanes) add_byte_values<R, 1, Cold>(piece, weights, blocks, d, states, stride);
}

// As `attend` of attention_piece.hpp.
template <int R>
void attend(const Row* rows, const Bytes& piece, float* weights, float* states) {
    const int stride = state_floats(piece.head_dim);
    const int blocks = (keys_within(rows[R - 1].seen, piece.first_key) + kBlockTokens - 1) / kBlockTokens;
    QueryPairs queries[R];
    WeightPairs rounded[R];
    for (int r = 0; r < R; r++) queries[r].scale = round_to_pairs(rows[r].query, piece.head_dim, queries[r].values);
    by_cold<R>(piece, LLM_EACH(cold) { score_byte_blocks<R, cold>(queries, piece, blocks, weights); });
    for (int r = 0; r < R; r++) {
        float* own = weights + r * kPieceTokens;
        const int seen = keys_within(rows[r].seen, piece.first_key);
        tail_of(states + r * stride, piece.head_dim) = soften(own, rows[r].bias ? rows[r].bias + piece.first_key : nullptr, seen);
        round_weights(piece, own, seen, blocks, rounded[r]);
    }
    by_cold<R>(piece, LLM_EACH(cold) { add_byte_values<R, cold>(piece, rounded, blocks, states, stride); });
}

}  // namespace

}  // namespace llm::LLM_NAMESPACE
