// A mixture of experts (Shazeer et al. 2017): each row goes to a few of them, and their weighted sum is the layer's.
//
// Route chooses, Arrange puts the rows of an expert next to each other (see Routing), and what follows works on all slots at
// once, so that a layer has as many barriers as a dense one, however many experts there are. Combine adds a row's slots up in
// the order of experts, so that a row's sum does not depend on its company.
#pragma once
#include "operations.hpp"

namespace llm {

// Of each row, the experts with the largest softmax(source), or sigmoid, which are their weights, scaled to a sum of one if
// `normalized`, and then by `scale`. Of equals, the first. A vector may correct the scores that choose, and only those.
// `scales` is -1, or a vector with what the weight of each expert is multiplied with at last. With several `groups` of experts
// that follow each other, only those of the `groups_used` best may be chosen: by the sum of their `group_best` largest scores.
// With a `margin` the weight of an expert is its softmax over those not chosen before it that are near it: less apart from its
// logit, which is the largest of theirs, than `margin` times the larger one of that and their own size (SparseMixer).
struct Route final : Operation {
    int source, scales = -1;
    bool normalized = false, sigmoid = false;
    int correction = -1;
    float scale = 1, margin = 0;
    int groups = 1, groups_used = 1, group_best = 1;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;

private:
    void keep_best_groups(float* scores, int experts) const;
    void share_among_near(const float* logits, int experts, const int* chosen, int used, float* shares) const;
};

// Slots from what was chosen.
struct Arrange final : Operation {
    int experts;
    int num_tiles(const Model&, const StepState&) const override { return 1; }
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// activations = quantize(source), of each slot's row; times the slot's weight if `weighted`.
struct Gather final : Operation {
    int source;
    bool weighted = false;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// What Linear does, of each slot by the matrices of its expert. They are alike but for their weights.
struct ExpertLinear final : Operation {
    std::vector<std::vector<Projection>> experts;
    int total_panels = 0;  // of one expert
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;

private:
    int panels_of_tile(const Model&, const StepState&) const;
};

// target += a vector, unless `bias` is -1, and then weight * source of each of the row's slots; or target = this sum. Without
// `weighted` the weights are one: what experts read was weighted.
struct Combine final : Operation {
    int source, target, bias = -1;
    bool accumulate = true, weighted = true;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// target = source, + a vector unless that is -1; or target += the same. What is added is times sigmoid(door), a buffer, unless
// that is -1. With `scale`, a vector of one number or one for each column, target is multiplied by that at last.
struct Copy final : Operation {
    int source, target, bias = -1, door = -1, scale = -1;
    int offset = 0;  // of the target's columns
    bool accumulate = false;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

}  // namespace llm
