// Rows in several streams, of which a layer computes the first and predicts the others (AltUp, Baykal et al. 2023), and what
// Gemma 3n has beside them.
#pragma once
#include <vector>

#include "plan.hpp"

namespace llm {

constexpr int kMostStreams = 8;

// streams[j] += sum_i c[j][i] * streams[i], where c = weights @ tanh(router); `weights` is [streams * streams][streams].
struct AltUpPredict final : Operation {
    std::vector<int> streams;
    int router, weights;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// streams[j] += (1 + c[j]) * (source - streams[0]), where c = weights @ tanh(router); `weights` is [streams][streams].
struct AltUpCorrect final : Operation {
    std::vector<int> streams;
    int source, router, weights;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// source *= rms(like) / rms(source); the mean of the source's squares is taken to be `least` at least.
struct MatchMagnitude final : Operation {
    int source, like;
    float least;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// x = max(x - (mean + deviations * deviation), 0) of the first `cols` columns: the largest of them, were they normally
// distributed (You et al. 2025).
struct GaussianTopK final : Operation {
    int source, cols;
    float deviations;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

}  // namespace llm
