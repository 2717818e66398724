// Kernels of Mamba-2, one source for every ISA.
#include "softplus.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

// T tokens from `first` on, over N vectors of columns from `column` on.
template <class V, int N, int T>
LLM_INLINE void scan_tokens(const MambaTile& tile, int first, int column) {
    static_assert(T <= kLanes);
    constexpr int kWidth = int(sizeof(V) / sizeof(float));
    const size_t at = size_t(first) * tile.stride;
    float fades[kLanes] = {};
    V added[T][N], found[T][N], fading[T];
    LLM_EACH(t, T) { fades[t] = tile.step[at + t * tile.stride]; }
    store(fades, exponential(multiply(load(fades), broadcast(tile.rate))));
    LLM_EACH(t, T) {
        const V step = spread<V>(tile.step[at + t * tile.stride]);
        fading[t] = spread<V>(fades[t]);
        LLM_EACH(n, N) {
            const V x = load_as<V>(tile.x + at + t * tile.stride + column + n * kWidth);
            added[t][n] = multiply(x, step);
            found[t][n] = multiply(x, spread<V>(tile.skip));
        }
    }
    const float *b = tile.b + at, *c = tile.c + at;
    for (int i = 0; i < tile.rows; i++) {
        float* place = tile.state + size_t(i) * size_t(tile.columns) + column;
        V s[N];
        LLM_EACH(n, N) { s[n] = load_as<V>(place + n * kWidth); }
        LLM_EACH(t, T) {
            const V in = spread<V>(b[t * tile.stride + size_t(i)]), out = spread<V>(c[t * tile.stride + size_t(i)]);
            LLM_EACH(n, N) {
                s[n] = fused(in, added[t][n], multiply(s[n], fading[t]));
                found[t][n] = fused(s[n], out, found[t][n]);
            }
        }
        LLM_EACH(n, N) { store(place + n * kWidth, s[n]); }
    }
    LLM_EACH(t, T) {
        float* out = tile.out + size_t(first + t) * tile.out_stride + column;
        LLM_EACH(n, N) { store(out + n * kWidth, found[t][n]); }
    }
}

// T tokens at once while there are so many.
template <class V, int N, int T>
LLM_INLINE void scan_columns(const MambaTile& tile, int column) {
    int t = 0;
    for (; t + T <= tile.num_tokens; t += T) scan_tokens<V, N, T>(tile, t, column);
    for (; t < tile.num_tokens; t++) scan_tokens<V, N, 1>(tile, t, column);
}

}  // namespace

void mamba_steps(float* steps, const float* bias, int heads) {
    for (int h = 0; h < heads; h += kLanes) {
        const size_t bytes = size_t(heads - h < kLanes ? heads - h : kLanes) * sizeof(float);
        float lanes[2][kLanes] = {};
        memcpy(lanes[0], steps + h, bytes);
        memcpy(lanes[1], bias + h, bytes);
        store(lanes[0], softplus_of(add(load(lanes[0]), load(lanes[1]))));
        memcpy(steps + h, lanes[0], bytes);
    }
}

void mamba_scan(const MambaTile& tile) {
    int column = 0;
#if defined(__AVX512F__)
    for (; column + 2 * kWideLanes <= tile.columns; column += 2 * kWideLanes) scan_columns<Wide, 2, 4>(tile, column);
    if (column < tile.columns) scan_columns<Wide, 1, 4>(tile, column);
#else
    for (; column < tile.columns; column += 2 * kLanes) scan_columns<Lanes, 2, 2>(tile, column);
#endif
}

}  // namespace llm::LLM_NAMESPACE
