// The kernel of Mamba's first version, one source for every ISA.
#include "softplus.hpp"

namespace llm::LLM_NAMESPACE {

void selective_scan(const SelectiveTile& tile) {
    for_wide_lanes(tile.channels, [&]<class V>(int channel, V) __attribute__((always_inline)) {
        const V skip = load_as<V>(tile.skips + channel);
        for (int t = 0; t < tile.num_tokens; t++) {
            const size_t at = size_t(t);
            const V step = softplus_of(load_as<V>(tile.steps + at * tile.steps_stride + channel));
            const V x = load_as<V>(tile.x + at * tile.x_stride + channel), added = multiply(x, step);
            const float *b = tile.b + at * tile.b_stride, *c = tile.c + at * tile.b_stride;
            V found = multiply(x, skip);
            for (int i = 0; i < tile.rows; i++) {
                float* place = tile.state + size_t(i) * size_t(tile.channels) + channel;
                const V fading = exponential(multiply(step, load_as<V>(tile.rates + size_t(i) * tile.rates_stride + channel)));
                const V s = fused(spread<V>(b[i]), added, multiply(load_as<V>(place), fading));
                store(place, s);
                found = fused(s, spread<V>(c[i]), found);
            }
            store(tile.out + at * tile.out_stride + channel, found);
        }
    });
}

}  // namespace llm::LLM_NAMESPACE
