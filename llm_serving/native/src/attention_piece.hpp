// Attention of a few rows over one piece of a context, for every instruction set.
//
// A row is one query head of one token. Pieces are kPieceTokens long and begin at multiples of that, so what a row
// computes depends on its own position only: scores, their maximum, weights, weighted values, each in one
// fixed order. Pieces are then merged from first to last, as an online softmax (Milakov & Gimelshein 2018).
// Keys lie transposed in their block: sixteen scores need no horizontal sum.
#pragma once
#include "pair_lanes.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

static_assert(kBlockTokens == kWideLanes);
constexpr float kLeast = -3.0e38f;  // below any score
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

// So few rows wait for keys and values rather than for sums.
constexpr int kColdRows = 6;

struct Row {
    const float* query;
    const float* bias;  // null, or what is added to the score of key j, at [j]
    int seen;           // keys it sees, from the first of the context on
};

static_assert(sizeof(Row) <= kRowFloats * sizeof(float));

// Up to kPieceTokens tokens: blocks of keys [head_dim][16] and values [16][head_dim]. Keys go on with those
// of the next piece; where nothing is known of them, any that may be fetched.
template <class T>
struct Piece {
    const T *keys[2 * kPieceBlocks], *values[kPieceBlocks];
    int first_key;  // position of the first of them
    int head_dim;
    float scale;
    bool cold;  // not in a cache: worth fetching ahead
};

// body(whether to fetch), as a constant; plain code waits for its arithmetic.
template <int R, class T, class Body>
LLM_INLINE void by_cold(const Piece<T>& piece, Body body) {
    if constexpr (kPairsAreVectors && R <= kColdRows && sizeof(T) < sizeof(float))
        if (piece.cold) return body(std::true_type{});
    body(std::false_type{});
}

// Keys of the next piece, while values are added: else memory would rest.
template <int Bytes>
LLM_INLINE void fetch(const void* from) {
    for (int line = 0; line < Bytes; line += 64) __builtin_prefetch(static_cast<const uint8_t*>(from) + line, 0, 2);
}

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
        unrolled<N>(LLM_EACH(n) { held[n] = vector(n); });
        unrolled<R>(LLM_EACH(r) {
            const V shared = spread<V>(factor(r));
            unrolled<N>(LLM_EACH(n) { sums[r][n] = fused(shared, held[n], sums[r][n]); });
        });
    } else {
        unrolled<N>(LLM_EACH(n) {
            const V shared = vector(n);
            unrolled<R>(LLM_EACH(r) { sums[r][n] = fused(spread<V>(factor(r)), shared, sums[r][n]); });
        });
    }
}

// weights[r][0 .. 16 B] = scores of blocks first .. first + B. Of a cold piece it fetches the values of these blocks and
// the keys of the next ones, a line at a time between the products: in bursts they would wait for one another.
template <int R, int B, bool Cold, class T>
LLM_INLINE void score(const Row* rows, const Piece<T>& piece, int first, float* weights) {
    const T* const* keys = piece.keys + first;
    const T* const* values = piece.values + first;
    const T* const* next = keys + B;
    Wide sums[R][B];
    unrolled<R>(LLM_EACH(r) { unrolled<B>(LLM_EACH(b) { sums[r][b] = spread<Wide>(0.0f); }); });
    for (int pair = 0; pair < piece.head_dim; pair += 2) {
        if constexpr (Cold)
            unrolled<B>(LLM_EACH(b) {
                __builtin_prefetch(values[b] + pair * kBlockTokens, 0, 2);
                __builtin_prefetch(next[b] + pair * kBlockTokens, 0, 2);
            });
        unrolled<2>(LLM_EACH(i) {
            const int d = pair + i;
            add_products(sums, LLM_EACH(r) { return rows[r].query[d]; }, LLM_EACH(b) { return load_as<Wide>(keys[b] + d * kBlockTokens); });
        });
    }
    unrolled<R>(LLM_EACH(r) {
        unrolled<B>(LLM_EACH(b) {
            store(weights + r * kPieceTokens + b * kBlockTokens, multiply(sums[r][b], spread<Wide>(piece.scale)));
        });
    });
}

template <int R, bool Cold, class T>
LLM_INLINE void score_blocks(const Row* rows, const Piece<T>& piece, int blocks, float* weights) {
    constexpr int kSide = side_by_side(R);
    int block = 0;
    for (; block + kSide <= blocks; block += kSide)
        score<R, kSide, Cold>(rows, piece, block, weights + block * kBlockTokens);
    for (; block < blocks; block++) score<R, 1, Cold>(rows, piece, block, weights + block * kBlockTokens);
}

template <int R, class T>
LLM_INLINE void score_piece(const Row* rows, const Piece<T>& piece, int blocks, float* weights) {
    by_cold<R>(piece, LLM_EACH(cold) { score_blocks<R, cold>(rows, piece, blocks, weights); });
}

// scores[0 .. count] -> e^(score - largest of them); returns the largest and the sum.
LLM_INLINE Tail soften(float* scores, const float* bias, int count) {
    const int full = count & -kWideLanes, rest = count - full;
    for (int k = 0; bias && k < count; k += kWideLanes)
        store(scores + k, add(load_as<Wide>(scores + k), load_as<Wide>(bias + k)));
    Wide most = spread<Wide>(kLeast);
    for (int k = 0; k < full; k += kWideLanes) most = maximum(load_as<Wide>(scores + k), most);
    if (rest) most = maximum(first_lanes(load_as<Wide>(scores + full), rest, most), most);
    const float peak = largest(most);
    Wide total = spread<Wide>(0.0f);
    for (int k = 0; k < full; k += kWideLanes) {
        const Wide weight = exponential(subtract(load_as<Wide>(scores + k), spread<Wide>(peak)));
        store(scores + k, weight);
        total = add(total, weight);
    }
    if (rest) {
        const Wide weight = exponential(subtract(load_as<Wide>(scores + full), spread<Wide>(peak)));
        store(scores + full, weight);
        total = add(total, first_lanes(weight, rest, spread<Wide>(0.0f)));
    }
    return {peak, sum(total)};
}

// states[r][d .. d + N V] += weights[r][begin .. end] @ values, in token order; from zero if begin is 0.
template <int R, int N, bool Cold, class V, class T>
LLM_INLINE void add_values(const Piece<T>& piece, const float* weights, int begin, int end, int d, float* states, int stride) {
    constexpr int kLength = sizeof(V) / sizeof(float);
    V sums[R][N];
    unrolled<R>(LLM_EACH(r) {
        unrolled<N>(LLM_EACH(n) {
            sums[r][n] = begin ? load_as<V>(states + r * stride + d + n * kLength) : spread<V>(0.0f);
        });
    });
    for (int t = begin; t < end; t++) {
        const int at = (t % kBlockTokens) * piece.head_dim + d;
        const T* values = piece.values[t / kBlockTokens] + at;
        if constexpr (Cold) fetch<N * kWideLanes * sizeof(T)>(piece.keys[kPieceBlocks + t / kBlockTokens] + at);
        add_products(sums, LLM_EACH(r) { return weights[r * kPieceTokens + t]; }, LLM_EACH(n) { return load_as<V>(values + n * kLength); });
    }
    unrolled<R>(LLM_EACH(r) {
        unrolled<N>(LLM_EACH(n) { store(states + r * stride + d + n * kLength, sums[r][n]); });
    });
}

template <int R, bool Cold, class T>
LLM_INLINE void add_values(const Piece<T>& piece, const float* weights, int begin, int end, float* states, int stride) {
    constexpr int kSide = side_by_side(R);
    int d = 0;
    for (; d + kSide * kWideLanes <= piece.head_dim; d += kSide * kWideLanes)
        add_values<R, kSide, Cold, Wide>(piece, weights, begin, end, d, states, stride);
    for (; d + kWideLanes <= piece.head_dim; d += kWideLanes)
        add_values<R, 1, Cold, Wide>(piece, weights, begin, end, d, states, stride);
    if (d < piece.head_dim) add_values<R, 1, Cold, Lanes>(piece, weights, begin, end, d, states, stride);
}

// Rows are in the order of their positions, and the first of them sees a key of the piece.
template <int R, class T>
void attend(const Row* rows, const Piece<T>& piece, float* weights, float* states) {
    const int stride = state_floats(piece.head_dim);
    const int common = keys_within(rows[0].seen, piece.first_key), most = keys_within(rows[R - 1].seen, piece.first_key);
    score_piece<R>(rows, piece, (most + kBlockTokens - 1) / kBlockTokens, weights);
    for (int r = 0; r < R; r++)
        tail_of(states + r * stride, piece.head_dim) =
            soften(weights + r * kPieceTokens, rows[r].bias ? rows[r].bias + piece.first_key : nullptr,
                   keys_within(rows[r].seen, piece.first_key));
    by_cold<R>(piece, LLM_EACH(cold) { add_values<R, cold>(piece, weights, 0, common, states, stride); });
    // Slots past what a row sees may hold anything, even NaN: a weight of zero would not do.
    for (int r = 0; most > common && r < R; r++)
        add_values<1, false>(piece, weights + r * kPieceTokens, common, keys_within(rows[r].seen, piece.first_key),
                      states + r * stride, stride);
}

}  // namespace

}  // namespace llm::LLM_NAMESPACE
