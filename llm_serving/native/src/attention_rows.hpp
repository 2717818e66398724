// Rows take in a context piece by piece, whatever its keys and values are kept as.
#pragma once
#include "attention_floats.hpp"
#include "attention_integers.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

// Sums by plain code are many for the compiler: six rows of bytes took it two minutes, of others one.
constexpr int kFew = kPairsAreVectors ? 6 : 1;

// As many of `count` rows as fit; returns how many.
template <class T>
int attend_some(const Row* rows, int count, const Piece<T>& piece, float* weights, float* states) {
    if constexpr (kMostRows > 6)
        if (count >= kMostRows) return attend<kMostRows>(rows, piece, weights, states), kMostRows;
    const int taken = count < kFew ? count : kFew;
    unrolled<kFew>(LLM_WITH(i) {
        if (taken == i + 1) attend<i + 1>(rows, piece, weights, states);
    });
    return taken;
}

// state = what follows from both.
LLM_INLINE void merge(float* state, const float* next, int head_dim) {
    Tail& tail = tail_of(state, head_dim);
    const Tail& other = tail_of(const_cast<float*>(next), head_dim);
    const float most = larger(other.largest, tail.largest);
    const Lanes keep = power_of_two(broadcast(tail.largest - most)), take = power_of_two(broadcast(other.largest - most));
    for (int d = 0; d < head_dim; d += kLanes)
        store(state + d, fused(load(next + d), take, multiply(load(state + d), keep)));
    float factors[2][kLanes];
    store(factors[0], keep);
    store(factors[1], take);
    tail = {most, llm::fused(other.total, factors[1][0], tail.total * factors[0][0])};
}

// A `sink`, unless null, is the last score of all, whatever pieces there were: keys cost nothing more for it.
LLM_INLINE void finish(const float* state, int head_dim, const float* sink, float* out) {
    const Tail& tail = tail_of(const_cast<float*>(state), head_dim);
    Lanes inverse = broadcast(1.0f / tail.total);
    if (sink) {
        const float score = *sink * kLog2E, most = larger(score, tail.largest);
        const Lanes keep = power_of_two(broadcast(tail.largest - most)), take = power_of_two(broadcast(score - most));
        inverse = divide(keep, fused(broadcast(tail.total), keep, take));
    }
    for (int d = 0; d < head_dim; d += kLanes) store(out + d, multiply(load(state + d), inverse));
}

// Every row takes in what it sees of the piece, which is in a cache once the first of them have. `states` are those of all
// rows, begun by the first piece.
template <class T>
void take_in(const Row* rows, int num_rows, Piece<T>& piece, bool first, float* states, float* scratch) {
    const int stride = state_floats(piece.head_dim);
    float* weights = scratch;
    float* fresh = weights + kAttentionRows * kPieceTokens;
    int r = 0, count;
    while (r < num_rows && rows[r].seen <= piece.first_key) r++;
    for (; r < num_rows; r += count) {
        float* state = states + size_t(r) * stride;
        count = attend_some(rows + r, num_rows - r, piece, weights, first ? state : fresh);
        piece.cold = false;
        for (int i = 0; !first && i < count; i++) merge(state + i * stride, fresh + i * stride, piece.head_dim);
    }
}

}  // namespace

}  // namespace llm::LLM_NAMESPACE
