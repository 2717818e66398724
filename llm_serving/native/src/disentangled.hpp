// Attention of DeBERTa (He et al. 2021), where contents meet positions, too.
#pragma once
#include "plan.hpp"

namespace llm {

// target = attention inside each sequence; `source` = [queries | keys | values]. The score of query i and key j is
// scale * (q_i k_j + q_i position_keys[at(i - j)] + k_j position_queries[at(i - j)]).
struct DisentangledAttention final : Operation {
    int source, target, heads;
    float scale;
    std::vector<int> position_keys, position_queries;  // of each head: in `Model::low_ranks`, [positions][head_dim]; or empty
    int positions;
    std::vector<int> at;  // [2 * max_context - 1]: rows of both, never descending; the middle is distance 0
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

}  // namespace llm
