// A Mamba-2 layer between its matrices. See mamba.hpp.
#pragma once
#include "operations.hpp"

namespace llm {

// Heads of a layer, and how a row of its source has them: output gates, x, B, C, steps. Heads in turn share B and C of a group.
struct MambaHeads {
    int count, dim, groups, state;
    int inner() const { return count * dim; }
    int channels() const { return inner() + 2 * groups * state; }  // of the convolution
    int steps_at() const { return inner() + channels(); }
    int width() const { return steps_at() + count; }
};

// In place: x, B and C go through their short convolution and silu; steps become what the scan takes.
struct MambaInputs final : Operation {
    int source;
    size_t state;  // where its own begins, of each tile of channels the latest inputs
    MambaHeads heads;
    int taps, conv_bias, bias;  // vectors: [kTaps][channels], [channels] or -1, [count]
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;

private:
    int tiles_of_sequence() const;
    void convolve(Model&, const StateSegment&, int first) const;
};

// target = what C finds in the state that steps, B and x write, and skips of x.
struct MambaScan final : Operation {
    int source, target;
    size_t state;  // S of each head, see MambaTile
    MambaHeads heads;
    int rates, skips;  // vectors: [count]
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;

private:
    int columns_of_tile() const;
};

}  // namespace llm
