// Attention of a few rows over one piece of a context: what integers (attention_integers.hpp) and floats
// (attention_floats.hpp) have in common.
//
// A row is one query head of one token. Pieces are kPieceTokens long and begin at multiples of that, so what a row
// computes depends on its own position only: scores, their maximum, weights, weighted values, each in one fixed order.
// Pieces are then merged from first to last, as an online softmax (Milakov & Gimelshein 2018).
// Keys lie transposed in their block: sixteen scores need no horizontal sum.
#pragma once
#include "pair_lanes.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

static_assert(kBlockTokens == kWideLanes);
constexpr float kLeast = -3.0e38f;  // below any score
constexpr float kLog2E = 1.44269504088896341f;  // scores are in units of log 2: a weight is a power of two
constexpr int kPieceBlocks = kPieceTokens / kBlockTokens;

#if defined(__AVX512F__)
constexpr int kRegisters = 24;  // of sixteen lanes, for sums; the others hold operands
constexpr int kMostRows = 12;
#else
constexpr int kRegisters = 6;
constexpr int kMostRows = 6;
#endif
static_assert(kMostRows <= kAttentionRows);
// How many blocks of keys, or vectors of values, meet all rows at once.
constexpr int kMostSide = 4;
constexpr int side_by_side(int rows) { return rows * kMostSide <= kRegisters ? kMostSide : rows * 2 <= kRegisters ? 2 : 1; }

struct Row {
    const float* query;
    const float* bias;  // null, or what is added to the score of key j, at [j]
    int seen;           // keys it sees, from the first of the context on
};

static_assert(sizeof(Row) <= kRowFloats * sizeof(float));

// Up to kPieceTokens tokens, as blocks. Keys go on with those of the next piece; where nothing is known of them, any that
// may be fetched.
template <class T>
struct Piece {
    const T *keys[2 * kPieceBlocks], *values[kPieceBlocks];
    int first_key;  // position of the first of them
    int head_dim;
    float scale;    // of scores
    float cap;      // 0, or scores are softly kept within it, as soft_cap does
    bool cold;      // no row has met it yet: worth fetching ahead
};

// What a row knows after some pieces: the weighted sum of values [head_dim], not yet divided, and then
struct Tail {
    float largest, total;
};
LLM_INLINE Tail& tail_of(float* state, int head_dim) { return *reinterpret_cast<Tail*>(state + head_dim); }

LLM_INLINE int keys_within(int seen, int first_key) {
    const int keys = seen - first_key;
    return keys < 0 ? 0 : keys < kPieceTokens ? keys : kPieceTokens;
}

// sums[r][n] += factor(r) * vectors(n), of floats or of pairs. What there are more of is loaded one at a time, or registers would spill.
template <int R, int N, class V, class Factor, class Vector>
LLM_INLINE void add_products(V (&sums)[R][N], Factor factor, Vector vector) {
    if constexpr (R > 2 * N) {
        V held[N];
        LLM_EACH(n, N) { held[n] = vector(n); }
        LLM_EACH(r, R) {
            const V shared = spread<V>(factor(r));
            LLM_EACH(n, N) { sums[r][n] = fused(shared, held[n], sums[r][n]); }
        }
    } else {
        LLM_EACH(n, N) {
            const V shared = vector(n);
            LLM_EACH(r, R) { sums[r][n] = fused(spread<V>(factor(r)), shared, sums[r][n]); }
        }
    }
}

// Adds `bias`, unless null, to scores[0 .. seen]; returns the largest.
LLM_INLINE float peak_of(float* scores, const float* bias, int seen) {
    const int full = seen & -kWideLanes, rest = seen - full;
    for (int k = 0; bias && k < seen; k += kWideLanes)
        store(scores + k, fused(load_as<Wide>(bias + k), spread<Wide>(kLog2E), load_as<Wide>(scores + k)));
    Wide most = spread<Wide>(kLeast);
    for (int k = 0; k < full; k += kWideLanes) most = maximum(load_as<Wide>(scores + k), most);
    if (rest) most = maximum(first_lanes(load_as<Wide>(scores + full), rest, most), most);
    return largest(most);
}

}  // namespace

}  // namespace llm::LLM_NAMESPACE
