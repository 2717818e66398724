// Digests of recurrent layers' kernels, for kernel_digests.cpp.
#pragma once
#include <vector>

#include "digest_report.hpp"
#include "kernels.hpp"

namespace llm {

// Steps of one and of some tokens, from a state that is not zero.
inline void delta_net(const Kernels& kernels, Report& report) {
    for (int tokens : {1, 9})
        for (int columns : {16, 32, 48}) {
            constexpr int key_dim = 48;
            Random random{uint64_t(tokens + columns)};
            const size_t stride = size_t(2 * key_dim + columns + 2);
            std::vector<float> rows = random.reals(stride * size_t(tokens), 1.0f), out(size_t(9 * 48));
            std::vector<float> state = random.reals(size_t(key_dim * columns), 1.0f), past = random.reals(3 * key_dim, 2.0f);
            const std::vector<float> taps = random.reals(4 * stride, 1.0f), rates = random.reals(11, 4.0f);
            kernels.short_conv({rows.data(), taps.data(), past.data(), stride, stride, tokens, key_dim, 0.5f});
            report.add(rows), report.add(past);
            report.line("short_conv of %d tokens for %d columns", tokens, columns);
            const float *query = rows.data(), *value = query + 2 * key_dim;
            kernels.delta_rule({query, query + key_dim, value, value + columns, value + columns + 1, out.data(), state.data(), stride,
                                size_t(columns), tokens, key_dim, columns});
            report.add(out), report.add(state);
            report.line("delta_rule of %d tokens and %d columns", tokens, columns);
            std::vector<float> decay = random.reals(11, 30.0f), beta = random.reals(11, 30.0f);
            kernels.delta_gates(decay.data(), beta.data(), rates.data(), taps.data(), 11);
            report.add(decay), report.add(beta);
            kernels.gated_sigmoid(rows.data(), taps.data(), 24, out.data());
            report.add(out);
            report.line("delta_gates and gated_sigmoid, case %d", tokens * columns);
        }
}

// Whole groups of tokens and the rest of them.
inline void mamba(const Kernels& kernels, Report& report) {
    for (int tokens : {1, 6, 11})
        for (int columns : {16, 32}) {
            constexpr int rows = 24;
            Random random{uint64_t(tokens * columns)};
            const size_t stride = size_t(2 * rows + columns + 3);
            std::vector<float> source = random.reals(stride * size_t(tokens), 1.0f), out(size_t(11 * 32));
            std::vector<float> state = random.reals(size_t(rows * columns), 1.0f), past = random.reals(3 * rows, 2.0f);
            const std::vector<float> bias = random.reals(stride, 3.0f), taps = random.reals(4 * stride, 1.0f);
            for (int t = 0; t < tokens; t++) kernels.mamba_steps(source.data() + size_t(t) * stride + stride - 3, bias.data(), 3);
            kernels.short_conv({source.data(), taps.data(), past.data(), stride, stride, tokens, rows, 0.0f, bias.data()});
            const float *b = source.data(), *x = b + 2 * rows;
            kernels.mamba_scan({x, b, b + rows, x + columns + 1, out.data(), state.data(), stride, size_t(columns), tokens, rows, columns, -0.7f, 0.3f});
            report.add(source), report.add(out), report.add(state);
            report.line("mamba of %d tokens and %d columns", tokens, columns);
        }
}

// Channels that fill vectors, and eight that are left.
inline void selective(const Kernels& kernels, Report& report) {
    for (int tokens : {1, 5})
        for (int channels : {32, 40}) {
            constexpr int rows = 16;
            Random random{uint64_t(tokens * channels)};
            const size_t stride = size_t(2 * channels + 2 * rows);
            const std::vector<float> source = random.reals(stride * size_t(tokens), 2.0f), skips = random.reals(size_t(channels), 1.0f);
            std::vector<float> state = random.reals(size_t(rows * channels), 1.0f), rates = random.reals(size_t(rows * channels), 3.0f);
            for (float& rate : rates) rate = rate < 0 ? rate : -rate;
            std::vector<float> out(size_t(tokens * channels));
            const float *x = source.data(), *b = x + 2 * channels;
            kernels.selective_scan({x, x + channels, b, b + rows, rates.data(), skips.data(), out.data(), state.data(), stride, stride, stride,
                                    size_t(channels), size_t(channels), tokens, rows, channels});
            report.add(out), report.add(state);
            report.line("selective_scan of %d tokens and %d channels", tokens, channels);
        }
}

}  // namespace llm
