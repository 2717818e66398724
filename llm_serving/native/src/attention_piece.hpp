// Attention of a few rows over one piece of a context, for every instruction set.
//
// A row is one query head of one token. Pieces are kPieceTokens long and begin at multiples of that, so what a row
// computes depends on its own position only: scores, their maximum, weights, weighted values, each in one
// fixed order. Pieces are then merged from first to last, as an online softmax (Milakov & Gimelshein 2018).
// Keys lie transposed in their block: sixteen scores need no horizontal sum.
#pragma once
#include "wide_lanes.hpp"

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

// Up to kPieceTokens tokens: blocks of keys [head_dim][16] and values [16][head_dim]. Keys go on with the blocks that
// will be read after the piece; where nothing is known of them, any that may be fetched.
template <class T>
struct Piece {
    const T *keys[kPieceBlocks + kMostSide], *values[kPieceBlocks];
    int first_key;  // position of the first of them
    int head_dim;
    float scale;
    bool cold;  // not in a cache: worth fetching ahead
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

// sums[r][n] += factor(r) * vectors(n). What there are more of is loaded one at a time, or registers would spill.
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
    unrolled<R>(LLM_EACH(r) { unrolled<B>(LLM_EACH(b) { sums[r][b] = spread<Wide>(0); }); });
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
    if constexpr (R <= kColdRows && sizeof(T) < sizeof(float))
        if (piece.cold) return score_blocks<R, true>(rows, piece, blocks, weights);
    score_blocks<R, false>(rows, piece, blocks, weights);
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
    Wide total = spread<Wide>(0);
    for (int k = 0; k < full; k += kWideLanes) {
        const Wide weight = exponential(subtract(load_as<Wide>(scores + k), spread<Wide>(peak)));
        store(scores + k, weight);
        total = add(total, weight);
    }
    if (rest) {
        const Wide weight = exponential(subtract(load_as<Wide>(scores + full), spread<Wide>(peak)));
        store(scores + full, weight);
        total = add(total, first_lanes(weight, rest, spread<Wide>(0)));
    }
    return {peak, sum(total)};
}

// states[r][d .. d + N V] += weights[r][begin .. end] @ values, in token order; from zero if begin is 0.
template <int R, int N, class V, class T>
LLM_INLINE void add_values(const Piece<T>& piece, const float* weights, int begin, int end, int d, float* states, int stride) {
    constexpr int kLength = sizeof(V) / sizeof(float);
    V sums[R][N];
    unrolled<R>(LLM_EACH(r) {
        unrolled<N>(LLM_EACH(n) {
            sums[r][n] = begin ? load_as<V>(states + r * stride + d + n * kLength) : spread<V>(0);
        });
    });
    for (int t = begin; t < end; t++) {
        const T* values = piece.values[t / kBlockTokens] + (t % kBlockTokens) * piece.head_dim + d;
        add_products(sums, LLM_EACH(r) { return weights[r * kPieceTokens + t]; }, LLM_EACH(n) { return load_as<V>(values + n * kLength); });
    }
    unrolled<R>(LLM_EACH(r) {
        unrolled<N>(LLM_EACH(n) { store(states + r * stride + d + n * kLength, sums[r][n]); });
    });
}

template <int R, class T>
LLM_INLINE void add_values(const Piece<T>& piece, const float* weights, int begin, int end, float* states, int stride) {
    constexpr int kSide = side_by_side(R);
    int d = 0;
    for (; d + kSide * kWideLanes <= piece.head_dim; d += kSide * kWideLanes)
        add_values<R, kSide, Wide>(piece, weights, begin, end, d, states, stride);
    for (; d + kWideLanes <= piece.head_dim; d += kWideLanes)
        add_values<R, 1, Wide>(piece, weights, begin, end, d, states, stride);
    if (d < piece.head_dim) add_values<R, 1, Lanes>(piece, weights, begin, end, d, states, stride);
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
    add_values<R>(piece, weights, 0, common, states, stride);
    // Slots past what a row sees may hold anything, even NaN: a weight of zero would not do.
    for (int r = 0; most > common && r < R; r++)
        add_values<1>(piece, weights + r * kPieceTokens, common, keys_within(rows[r].seen, piece.first_key),
                      states + r * stride, stride);
}

// As many of `count` rows as fit; returns how many.
template <class T>
int attend_some(const Row* rows, int count, const Piece<T>& piece, float* weights, float* states) {
    if constexpr (kMostRows > 6)
        if (count >= kMostRows) return attend<kMostRows>(rows, piece, weights, states), kMostRows;
    switch (count) {
        case 1: return attend<1>(rows, piece, weights, states), 1;
        case 2: return attend<2>(rows, piece, weights, states), 2;
        case 3: return attend<3>(rows, piece, weights, states), 3;
        case 4: return attend<4>(rows, piece, weights, states), 4;
        case 5: return attend<5>(rows, piece, weights, states), 5;
        default: return attend<6>(rows, piece, weights, states), 6;
    }
}

// state = what follows from both.
LLM_INLINE void merge(float* state, const float* next, int head_dim) {
    Tail& tail = tail_of(state, head_dim);
    const Tail& other = tail_of(const_cast<float*>(next), head_dim);
    const float most = larger(other.largest, tail.largest);
    const Lanes keep = exponential(broadcast(tail.largest - most)), take = exponential(broadcast(other.largest - most));
    for (int d = 0; d < head_dim; d += kLanes)
        store(state + d, fused(load(next + d), take, multiply(load(state + d), keep)));
    float factors[2][kLanes];
    store(factors[0], keep);
    store(factors[1], take);
    tail = {most, llm::fused(other.total, factors[1][0], tail.total * factors[0][0])};
}

LLM_INLINE void finish(const float* state, int head_dim, float* out) {
    const Lanes inverse = broadcast(1.0f / tail_of(const_cast<float*>(state), head_dim).total);
    for (int d = 0; d < head_dim; d += kLanes) store(out + d, multiply(load(state + d), inverse));
}

// Every row takes in what it sees of the piece. `states` are those of all rows, begun by the first piece.
template <class T>
void take_in(const Row* rows, int num_rows, const Piece<T>& piece, bool first, float* states, float* scratch) {
    const int stride = state_floats(piece.head_dim);
    float* weights = scratch;
    float* fresh = weights + kAttentionRows * kPieceTokens;
    int r = 0, count;
    while (r < num_rows && rows[r].seen <= piece.first_key) r++;
    for (; r < num_rows; r += count) {
        float* state = states + size_t(r) * stride;
        count = attend_some(rows + r, num_rows - r, piece, weights, first ? state : fresh);
        for (int i = 0; !first && i < count; i++) merge(state + i * stride, fresh + i * stride, piece.head_dim);
    }
}

}  // namespace

}  // namespace llm::LLM_NAMESPACE
