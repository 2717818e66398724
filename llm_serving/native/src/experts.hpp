// A mixture of experts (Shazeer et al. 2017): each row goes to a few of them, and their weighted sum is the layer's.
//
// Route says who gets which rows. What follows with `expert` set works on these rows alone, which Gather has put
// next to each other; Scatter adds them up again, expert by expert, so a row's sum has one order.
#pragma once
#include "plan.hpp"

namespace llm {

// Of each row, the `used` largest of softmax(source), as weights; not scaled to a sum of one. Of equals, the first.
struct Route final : Operation {
    int source, used;
    int num_tiles(const Model&, const StepState&) const override { return 1; }
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// activations = quantize(the expert's rows of `source`).
struct Gather final : Operation {
    int source;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// The expert's rows of `target` += weight * those of `source`, which lie next to each other.
struct Scatter final : Operation {
    int source, target;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// target = source, + a vector unless that is -1; or target += the same.
struct Copy final : Operation {
    int source, target, bias = -1;
    bool accumulate = false;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

}  // namespace llm
