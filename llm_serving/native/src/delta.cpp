// Kernels of Gated DeltaNet, one source for every ISA.
#include "softplus.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

constexpr float kNormEpsilon = 1e-6f;  // under the root of squared lengths

template <class V>
LLM_INLINE V sigmoid_of(V v) {
    const V one = spread<V>(1.0f);
    return divide(one, add(one, exponential(subtract(spread<V>(0.0f), v))));
}

LLM_INLINE Lanes add_squares(Lanes v, Lanes sums) { return fused(v, v, sums); }
LLM_INLINE Lanes add_squares(Wide v, Lanes sums) { return add_squares(high_half(v), add_squares(low_half(v), sums)); }

}  // namespace

void gated_sigmoid(const float* gate, const float* up, int cols, float* y) {
    for_wide_lanes(cols, [&]<class V>(int i, V) __attribute__((always_inline)) {
        store(y + i, multiply(sigmoid_of(load_as<V>(gate + i)), load_as<V>(up + i)));
    });
}

void delta_gates(float* decay, float* beta, const float* rates, const float* bias, int heads) {
    for (int h = 0; h < heads; h += kLanes) {
        const int here = heads - h < kLanes ? heads - h : kLanes;
        float lanes[4][kLanes] = {};
        const float* from[4] = {decay + h, beta + h, rates + h, bias + h};
        for (int i = 0; i < 4; i++) memcpy(lanes[i], from[i], size_t(here) * sizeof(float));
        store(lanes[0], exponential(multiply(load(lanes[2]), softplus_of(add(load(lanes[0]), load(lanes[3]))))));
        store(lanes[1], sigmoid_of(load(lanes[1])));
        memcpy(decay + h, lanes[0], size_t(here) * sizeof(float));
        memcpy(beta + h, lanes[1], size_t(here) * sizeof(float));
    }
}

void short_conv(const ShortConvTile& tile) {
    static_assert(kTaps == 4);
    float past[kTaps - 1][kMostDeltaDim];  // a ring, the oldest first when `at` is 0
    for (int k = 0; k < kTaps - 1; k++) memcpy(past[k], tile.state + k * tile.cols, size_t(tile.cols) * sizeof(float));
    int at = 0;
    const float* taps = tile.taps;
    for (int t = 0; t < tile.num_tokens; t++, at = at == kTaps - 2 ? 0 : at + 1) {
        float* row = tile.rows + size_t(t) * tile.stride;
        float *oldest = past[at], *older = past[(at + 1) % 3], *old = past[(at + 2) % 3];
        Lanes squares = broadcast(0.0f);
        for_wide_lanes(tile.cols, [&]<class V>(int i, V) __attribute__((always_inline)) {
            const V x = load_as<V>(row + i);
            const V first = load_as<V>(oldest + i), tap = load_as<V>(taps + i);
            V y = tile.bias ? fused(first, tap, load_as<V>(tile.bias + i)) : multiply(first, tap);
            y = fused(load_as<V>(older + i), load_as<V>(taps + tile.tap_stride + i), y);
            y = fused(load_as<V>(old + i), load_as<V>(taps + 2 * tile.tap_stride + i), y);
            y = fused(x, load_as<V>(taps + 3 * tile.tap_stride + i), y);
            y = silu_of(y);
            squares = add_squares(y, squares);
            store(oldest + i, x);
            store(row + i, y);
        });
        if (tile.length <= 0) continue;
        const float scale = tile.length / __builtin_sqrtf(sum(squares) + kNormEpsilon);
        for_wide_lanes(tile.cols, [&]<class V>(int i, V) __attribute__((always_inline)) {
            store(row + i, multiply(load_as<V>(row + i), spread<V>(scale)));
        });
    }
    for (int k = 0; k < kTaps - 1; k++)
        memcpy(tile.state + k * tile.cols, past[(at + k) % 3], size_t(tile.cols) * sizeof(float));
}

namespace {

// Of N times sixteen columns, sums over rows: of even ones, of odd ones.
template <int N>
struct ColumnSums {
    Wide of[2][N];
};

template <int N>
LLM_INLINE ColumnSums<N> no_sums() {
    ColumnSums<N> sums;
    LLM_EACH(i, 2 * N) { sums.of[i / N][i % N] = spread<Wide>(0.0f); }
    return sums;
}

// One token: fades the state, adds key times delta, and returns what the query finds; `next` also becomes what `next_key` finds.
template <int N, bool kIsLast>
LLM_INLINE ColumnSums<N> pass(float* state, size_t stride, int rows, float decay, const float* key, const Wide (&delta)[N], const float* query,
                              const float* next_key, ColumnSums<N>& next) {
    ColumnSums<N> found = no_sums<N>(), foreseen = no_sums<N>();
    const Wide fading = spread<Wide>(decay);
    for (int i = 0; i < rows; i += 2)
        LLM_EACH(odd, 2) {
            const Wide k = spread<Wide>(key[i + odd]), q = spread<Wide>(query[i + odd]);
            LLM_EACH(n, N) {
                float* place = state + size_t(i + odd) * stride + n * kDeltaColumns;
                const Wide s = fused(k, delta[n], multiply(load_as<Wide>(place), fading));
                store(place, s);
                found.of[odd][n] = fused(s, q, found.of[odd][n]);
                if constexpr (!kIsLast) foreseen.of[odd][n] = fused(s, spread<Wide>(next_key[i + odd]), foreseen.of[odd][n]);
            }
        }
    next = foreseen;
    return found;
}

// The state stays in the cache over all tokens, and is passed once for each: what is written for one is summed for the next.
template <int N>
LLM_INLINE void delta_columns(const DeltaTile& tile, int first) {
    const int rows = tile.key_dim;
    float* state = tile.state + first;
    const size_t stride = size_t(tile.columns);
    ColumnSums<N> sums = no_sums<N>();
    for (int i = 0; i < rows; i += 2)
        LLM_EACH(odd, 2) {
            const Wide k = spread<Wide>(tile.key[i + odd]);
            LLM_EACH(n, N) {
                const Wide s = load_as<Wide>(state + size_t(i + odd) * stride + n * kDeltaColumns);
                sums.of[odd][n] = fused(s, k, sums.of[odd][n]);
            }
        }
    for (int t = 0; t < tile.num_tokens; t++) {
        const size_t at = size_t(t) * tile.stride;
        const float decay = tile.decay[at];
        const Wide beta = spread<Wide>(tile.beta[at]);
        Wide delta[N];
        LLM_EACH(n, N) {
            const Wide known = multiply(add(sums.of[0][n], sums.of[1][n]), spread<Wide>(decay));
            delta[n] = multiply(subtract(load_as<Wide>(tile.value + at + first + n * kDeltaColumns), known), beta);
        }
        const float *key = tile.key + at, *query = tile.query + at;
        const ColumnSums<N> found = t + 1 < tile.num_tokens
                                        ? pass<N, false>(state, stride, rows, decay, key, delta, query, key + tile.stride, sums)
                                        : pass<N, true>(state, stride, rows, decay, key, delta, query, key, sums);
        float* out = tile.out + size_t(t) * tile.out_stride + first;
        LLM_EACH(n, N) { store(out + n * kDeltaColumns, add(found.of[0][n], found.of[1][n])); }
    }
}

}  // namespace

void delta_rule(const DeltaTile& tile) {
#if defined(__AVX512F__)
    constexpr int kAtOnce = 2;  // sixteens of columns, by the number of registers
#else
    constexpr int kAtOnce = 1;
#endif
    int first = 0;
    for (; first + kAtOnce * kDeltaColumns <= tile.columns; first += kAtOnce * kDeltaColumns) delta_columns<kAtOnce>(tile, first);
    if (first < tile.columns) delta_columns<1>(tile, first);
}

}  // namespace llm::LLM_NAMESPACE
