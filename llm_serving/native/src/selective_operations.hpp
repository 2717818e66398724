// A layer of Mamba's first version between its matrices. See selective_scan.hpp.
#pragma once
#include "operations.hpp"

namespace llm {

// In place: each column goes through a causal convolution of kTaps tokens, and silu.
struct ShortConv final : Operation {
    int source;
    size_t state;    // of each tile of channels, the latest inputs
    int taps, bias;  // vectors: [kTaps][channels], and [channels] or -1
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// target = what C finds in the states that steps, B and x write, and skips of x.
struct SelectiveScan final : Operation {
    int source, steps, target;
    int both;        // buffer of B and C of each token
    size_t state;    // of each tile of channels, see SelectiveTile
    int rows;
    int rates, skips;  // vectors: [rows][channels], [channels]
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

}  // namespace llm
