// Short convolutions over a sequence's tokens, each channel by itself (LFM2).
#pragma once
#include "plan.hpp"

namespace llm {

constexpr int kMostTaps = 8;  // tokens that a convolution sees, the token's own counted in

// target = opens * conv(gates * inputs) of `source` = [gates | opens | inputs]; `weight` is [taps][cols], the oldest first.
// The state is [taps - 1][cols]: gates * inputs of the tokens before.
struct GatedConv final : Operation {
    int source, target, weight, taps, cols;
    size_t state;  // where that begins in a slot
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

}  // namespace llm
