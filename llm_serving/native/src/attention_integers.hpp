// Attention over a context that is kept as integers (kv_format.hpp). Queries, and weights times the scales of values,
// become integers too: products are then summed exactly, two at a time, which takes half as long as in f32.
#pragma once
#include "attention_piece.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

constexpr int kPair = 2 * kBlockTokens;  // integers of two dimensions of a block's keys
template <class T>
constexpr int kInOne = 1;  // integers in a T
template <>
constexpr int kInOne<Codes> = 2;

// body(whether to fetch), as a constant; plain code waits for its arithmetic.
template <int R, class T, class Body>
LLM_INLINE void by_cold(const Piece<T>& piece, Body body) {
    if constexpr (kPairsAreVectors)
        if (piece.cold) return body(std::true_type{});
    body(std::false_type{});
}

// Keys of the next piece, while values are added: else memory would rest.
template <int Bytes>
LLM_INLINE void fetch(const void* from) {
    for (int line = 0; line < Bytes; line += 64) __builtin_prefetch(static_cast<const uint8_t*>(from) + line, 0, 2);
}

// A row's query or weights: integers, and what each of them stands for.
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
using QueryPairs = Rounded<kMostHeadDim>;
using WeightPairs = Rounded<kPieceTokens>;

// x[0 .. count], a multiple of eight, to factors of keys or values kept as T; `total` is the sum of their magnitudes.
template <class T, class Factors>
LLM_INLINE void round_factors(const float* x, int count, float largest, float total, Factors& out) {
    out.scale = larger(total / float(kMostFactorSum<T>), largest / 32767.0f);
    const float inverse = inverse_of(out.scale, 1.0f);
    for (int i = 0; i < count; i++) out.values[i] = int16_t(int32_t(round_even(x[i] * inverse)));
}

template <class T>
__attribute__((noinline)) void round_query(const float* x, int head_dim, QueryPairs& out) {
    const Lanes zero = broadcast(0.0f);
    Lanes most = zero, total = zero;
    for (int d = 0; d < head_dim; d += kLanes) {
        const Lanes v = load(x + d), magnitude = maximum(v, subtract(zero, v));
        most = maximum(most, magnitude);
        total = add(total, magnitude);
    }
    round_factors<T>(x, head_dim, largest(most), sum(total), out);
}

// Of a block's `integers`, 32 from number `at` on: a multiple of 64 for codes, of which `half` then tells the first 32 from the second.
template <class T>
LLM_INLINE Pairs pairs_at(const T* integers, int at, int half) { return load_as<Pairs>(integers + at + half * kPair); }
LLM_INLINE Pairs pairs_at(const Codes* integers, int at, int half) { return load_half<Pairs>(integers + at / 2, half); }

template <class T>
LLM_INLINE Wide scales_of(const T* vectors, int head_dim) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(vectors);
    return load_as<Wide>(reinterpret_cast<const float*>(bytes + kept_dims<T>(head_dim) * kBlockTokens * sizeof(T) / kInOne<T>));
}

// weights[r][0 .. 16 B] = scores of blocks first .. first + B. Of a cold piece it fetches the values of these blocks and
// the keys of the next ones, a line at a time between the products: in bursts they would wait for one another.
template <int R, int B, bool Cold, class T>
LLM_INLINE void score(const QueryPairs* queries, const Piece<T>& piece, int first, float* weights) {
    const T* const* keys = piece.keys + first;
    const T* const* values = piece.values + first;
    const T* const* next = keys + B;
    const auto fetch_both = [&](int at) __attribute__((always_inline)) {
        LLM_EACH(b, B) {
            __builtin_prefetch(values[b] + at, 0, 2);
            __builtin_prefetch(next[b] + at, 0, 2);
        }
    };
    Pairs sums[R][B];
    LLM_EACH(r, R) { LLM_EACH(b, B) { sums[r][b] = spread<Pairs>(0); } }
    // Not unrolled: the compiler would mix two steps, and run out of registers.
    for (int p = 0; p < piece.head_dim / 2; p += kInOne<T>) {
        if constexpr (Cold)
            if (p * sizeof(T) % (2 * kInOne<T>) == 0) fetch_both(p * kPair / kInOne<T>);  // a line each
        LLM_EACH(i, kInOne<T>) {
            add_products(sums, LLM_WITH(r) { return queries[r].pair(p + i); }, LLM_WITH(b) { return pairs_at(keys[b], p * kPair, i); });
        }
    }
    if constexpr (Cold) fetch_both(kept_dims<T>(piece.head_dim) * kBlockTokens / kInOne<T>);
    LLM_EACH(b, B) {
        const Wide scales = multiply(scales_of(keys[b], piece.head_dim), spread<Wide>(piece.scale * kLog2E));
        LLM_EACH(r, R) {
            const Wide factors = multiply(scales, spread<Wide>(queries[r].scale));
            store(weights + r * kPieceTokens + b * kBlockTokens, multiply(as_floats(sums[r][b]), factors));
        }
    }
}

template <int R, bool Cold, class T>
LLM_INLINE void score_blocks(const QueryPairs* queries, const Piece<T>& piece, int blocks, float* weights) {
    constexpr int kSide = kPairsAreVectors ? side_by_side(R) : 1;
    int block = 0;
    for (; block + kSide <= blocks; block += kSide)
        score<R, kSide, Cold>(queries, piece, block, weights + block * kBlockTokens);
    for (; block < blocks; block++) score<R, 1, Cold>(queries, piece, block, weights + block * kBlockTokens);
}

// scores[0 .. seen] -> 2^(score - largest of them): their largest and sum into `tail`, times the scales of values into `out`,
// with zeros up to the end of `blocks`, where memory may hold anything.
template <class T>
__attribute__((noinline)) void soften(const Piece<T>& piece, float* scores, const float* bias, int seen, int blocks, Tail& tail, WeightPairs& out) {
    const int full = seen & -kWideLanes, rest = seen - full;
    const float peak = peak_of(scores, bias, seen);
    const Wide zero = spread<Wide>(0.0f);
    Wide total = zero, most_scaled = zero, total_scaled = zero;
    const auto weigh = [&](int k, auto of_seen) __attribute__((always_inline)) {
        const Wide weight = power_of_two(subtract(load_as<Wide>(scores + k), spread<Wide>(peak)));
        const Wide scaled = of_seen(multiply(weight, scales_of(piece.values[k / kBlockTokens], piece.head_dim)));
        total = add(total, of_seen(weight));
        most_scaled = maximum(most_scaled, scaled);
        total_scaled = add(total_scaled, scaled);
        store(scores + k, scaled);
    };
    for (int k = 0; k < full; k += kWideLanes) weigh(k, [](Wide v) __attribute__((always_inline)) { return v; });
    if (rest) weigh(full, [&](Wide v) __attribute__((always_inline)) { return first_lanes(v, rest, zero); });
    for (int k = full + (rest ? kWideLanes : 0); k < blocks * kBlockTokens; k += kWideLanes) store(scores + k, zero);
    tail = {peak, sum(total)};
    round_factors<T>(scores, blocks * kBlockTokens, largest(most_scaled), sum(total_scaled), out);
}

// states[r][d .. d + 16 N] = weights[r] @ values. Of the last sixteen dimensions there may be only eight: what lies behind them
// is read, but not stored.
template <int R, int N, bool Cold, class T>
LLM_INLINE void add_values(const Piece<T>& piece, const WeightPairs* weights, int blocks, int d, float* states, int stride) {
    Pairs sums[R][N];
    LLM_EACH(r, R) { LLM_EACH(n, N) { sums[r][n] = spread<Pairs>(0); } }
    const int half = N == 1 ? d / kWideLanes % kInOne<T> : 0;
    for (int block = 0; block < blocks; block++)
        for (int i = 0; i < kBlockTokens / 2; i++) {
            const int at = 2 * (i * kept_dims<T>(piece.head_dim) + d - half * kWideLanes);
            const T* values = piece.values[block];
            if constexpr (Cold) fetch<N * 2 * kWideLanes * sizeof(T) / kInOne<T>>(piece.keys[kPieceBlocks + block] + at / kInOne<T>);
            const int pair = block * (kBlockTokens / 2) + i;
            add_products(sums, LLM_WITH(r) { return weights[r].pair(pair); },
                         LLM_WITH(n) { return pairs_at(values, at + n / kInOne<T> * kInOne<T> * kPair, n % kInOne<T> + half); });
        }
    LLM_EACH(r, R) {
        LLM_EACH(n, N) {
            float* out = states + r * stride + d + n * kWideLanes;
            const Wide sum = multiply(as_floats(sums[r][n]), spread<Wide>(weights[r].scale));
            if (d + n * kWideLanes + kWideLanes <= piece.head_dim) store(out, sum);
            else store(out, low_half(sum));
        }
    }
}

template <int R, bool Cold, class T>
LLM_INLINE void add_values(const Piece<T>& piece, const WeightPairs* weights, int blocks, float* states, int stride) {
    constexpr int kSide = kPairsAreVectors ? side_by_side(R) : 1;
    int d = 0;
    for (; d + kSide * kWideLanes <= piece.head_dim; d += kSide * kWideLanes)
        add_values<R, kSide, Cold>(piece, weights, blocks, d, states, stride);
    for (; d < piece.head_dim; d += kWideLanes) add_values<R, 1, Cold>(piece, weights, blocks, d, states, stride);
}

// Rows are in the order of their positions, and the first of them sees a key of the piece.
template <int R, class T>
void attend_integers(const Row* rows, const Piece<T>& piece, float* weights, float* states) {
    const int stride = state_floats(piece.head_dim);
    const int blocks = (keys_within(rows[R - 1].seen, piece.first_key) + kBlockTokens - 1) / kBlockTokens;
    QueryPairs queries[R];
    WeightPairs rounded[R];
    for (int r = 0; r < R; r++) round_query<T>(rows[r].query, piece.head_dim, queries[r]);
    by_cold<R>(piece, LLM_WITH(cold) { score_blocks<R, cold>(queries, piece, blocks, weights); });
    for (int r = 0; piece.cap > 0 && r < R; r++)
        soft_cap(weights + r * kPieceTokens, keys_within(rows[r].seen, piece.first_key), piece.cap);
    for (int r = 0; r < R; r++)
        soften(piece, weights + r * kPieceTokens, rows[r].bias ? rows[r].bias + piece.first_key : nullptr,
               keys_within(rows[r].seen, piece.first_key), blocks, tail_of(states + r * stride, piece.head_dim), rounded[r]);
    by_cold<R>(piece, LLM_WITH(cold) { add_values<R, cold>(piece, rounded, blocks, states, stride); });
}

template <int R>
void attend(const Row* rows, const Piece<int16_t>& piece, float* weights, float* states) {
    attend_integers<R>(rows, piece, weights, states);
}
template <int R>
void attend(const Row* rows, const Piece<int8_t>& piece, float* weights, float* states) {
    attend_integers<R>(rows, piece, weights, states);
}
template <int R>
void attend(const Row* rows, const Piece<Codes>& piece, float* weights, float* states) {
    attend_integers<R>(rows, piece, weights, states);
}

}  // namespace

}  // namespace llm::LLM_NAMESPACE
