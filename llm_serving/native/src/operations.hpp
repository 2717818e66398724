// What a plan is made of. Rows are tokens, or the selected logit rows once `select_rows` was called.
#pragma once
#include "plan.hpp"

namespace llm {

// target = rows of a packed matrix, by token id.
struct Embed final : Operation {
    int matrix, target;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// Copies the rows whose logits are wanted.
struct Select final : Operation {
    int source, target;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// activations = quantize(rms_norm(source)), or quantize(source) where there is no weight.
struct Quantize final : Operation {
    int source;
    int weight = -1;
    float epsilon = 0;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// activations = quantize(silu(source[:cols]) * source[cols:]).
struct GatedSilu final : Operation {
    int source, cols;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// Several matrices over the same activations: target[:, offset : offset + rows] (+)= activations @ matrix.T + bias.
struct Projection {
    int matrix, bias, target, offset;
};

struct Linear final : Operation {
    std::vector<Projection> projections;
    bool accumulate = false;
    int total_panels = 0;  // over all projections
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;

private:
    struct Tiling {
        int rows, panels, row_tiles, panel_tiles;
    };
    Tiling tiling(const Model&, const StepState&) const;
};

// Rotates queries and keys of `source` = [queries | keys | values] and writes keys and values to the cache.
struct RopeStore final : Operation {
    int source, layer, query_heads;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

struct AttentionOperation final : Operation {
    int source, target, layer, query_heads;
    float scale;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

}  // namespace llm
