// Low-rank adapters (LoRA, Hu et al. 2021): y += (x down^T) up^T, of the rows whose sequence has one.
//
// Rows of an adapter lie next to each other while they are multiplied (see AdaptedRows): whoever writes activations puts such
// rows there as well, in f32. Both products are those of f32 weights: a plain chain over the inputs for each output, whatever
// the row's company. Other rows are not touched.
#pragma once
#include <memory>

#include "operations.hpp"

namespace llm {

// What one adapter has for one projection: two of Model::low_ranks, and where the outputs of the second go.
struct LowRank {
    int down, up, target, offset;
};

// What all adapters have for the projections of one Linear: of each, none or several.
struct LowRanks {
    std::vector<std::vector<LowRank>> of;
    int down_panels = 0, up_panels = 0;  // of one adapter, at most
};

// Model::low = x down^T of each adapted row. The results of an adapter's matrices lie one after the other, run by run.
struct AdapterDown final : Operation {
    std::shared_ptr<const LowRanks> ranks;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// target[:, offset : offset + outputs] += Model::low up^T.
struct AdapterUp final : Operation {
    std::shared_ptr<const LowRanks> ranks;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;

private:
    int panels_of_tile(const Model&, const StepState&) const;
};

// Adds both to the Linear that was added last: the first product beside it, the second behind it.
// Throws std::invalid_argument where sizes do not fit.
void add_adapters(Plan& plan, std::vector<std::vector<LowRank>> of);

}  // namespace llm
