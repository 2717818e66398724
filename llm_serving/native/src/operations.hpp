// What a plan is made of. Rows are tokens, or the selected logit rows once `select_rows` was called.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "plan.hpp"

namespace llm {

// target = scale * rows of a packed matrix, by token id; rows that the step was given stand as they are.
struct Embed final : Operation {
    int matrix = -1;  // none: all rows are given
    int target;
    float scale = 1;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// target += columns from `offset` on of the rows that the step was given, for those tokens that have some.
struct AddGiven final : Operation {
    int target, offset;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// source = cap * tanh(source / cap).
struct SoftCap final : Operation {
    int source;
    float cap;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// Copies the rows whose logits are wanted.
struct Select final : Operation {
    int source, target;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// source += table[position], a learned position embedding.
struct AddPositions final : Operation {
    int table, target;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

struct Bounds {
    float least = -std::numeric_limits<float>::infinity(), most = std::numeric_limits<float>::infinity();
    bool are_none() const { return std::isinf(least) && std::isinf(most); }
    void keep(const float* from, int count, float* to) const {
        for (int i = 0; i < count; i++) to[i] = std::min(std::max(from[i], least), most);
    }
};

// Every number of `width` columns from `offset` on, kept within bounds.
struct Clamp final : Operation {
    int source, offset, width;
    Bounds within;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// activations = quantize(norm(source)): no weight, no norm; no bias, rms_norm; both, layer_norm.
// `keep` also writes the normed row back, as post-norm encoders need it.
struct Quantize final : Operation {
    int source;
    int weight = -1, bias = -1;
    float epsilon = 0;
    bool keep = false;
    Bounds within;  // of what is quantised, not of what is kept
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

enum class Gate { silu, gelu, gelu_tanh, relu };

// activations = quantize(gate(source[:cols]) * source[cols:]), gelu by erf or tanh; as gated_within with a limit.
// What gates open may be columns of another buffer.
struct Gated final : Operation {
    int source, cols;
    int opened = -1, opened_offset = 0;
    Gate gate = Gate::silu;
    float slope = 1, limit = 0;
    Bounds within;  // of what is quantised
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// activations = quantize(gelu(source)), by erf or tanh, or quick: x * sigmoid(1.702 x).
struct Gelu final : Operation {
    int source;
    bool tanh = false, quick = false;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// activations = quantize(xielu(source)), see kernels.hpp.
struct Xielu final : Operation {
    int source;
    float positive, negative, beta;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// Several matrices over the same activations: target[:, offset : offset + rows] (+)= activations @ matrix.T + bias.
// `cols` > 0: activations have so many columns, and the matrix reads as many as it has, from `first` on.
struct Projection {
    int matrix, bias, target, offset;
    int first = 0, cols = 0;
};

// A piece of such a product: `count` panels from `begin` on, counted over all projections, of the rows from row_begin to row_end.
void multiply(Model& model, const std::vector<Projection>& projections, bool accumulate, int begin, int count, int row_begin,
              int row_end);

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

// Rotates queries and keys of `source` = [queries | keys | values] and writes keys and values to the cache. Where
// `keys_are_values`, there are no others, and what rotates is of no use in them.
struct RopeStore final : Operation {
    int source, layer, query_heads;
    bool keys_are_values = false;
    int table = -1;  // a vector of angles as the plan's own ones, instead of them,
    int rotated = 0;  // for so many dimensions,
    std::vector<uint8_t> axes;  // by these, as `Model::rope_axes` has them
    int shared = -1;  // a vector that all keys of a token have in common, which coarse formats are kept without
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// What attention adds by distance to scores of one head, or of all: for distances 1 - max_context .. max_context + 16.
inline size_t bias_floats(const Model& model) { return 2 * size_t(model.max_context) + kBlockTokens; }

struct AttentionOperation final : Operation {
    int source, target, layer, query_heads;
    float scale;
    float cap = 0;   // > 0: scores are cap * tanh(score / cap)
    int window = 0;  // > 0: a token sees so many, itself counted in
    int chunk = 0;   // > 0: it sees its own of the stretches of so many tokens that the context is cut in
    int bias = -1;   // or a vector of bias_floats() for all heads, as a window has it, or for each
    bool bias_per_head = false;
    int sinks = -1;  // a vector with a number for each query head, see kernels.hpp
    bool ahead = true;  // else rows see nothing behind them, also within a span
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// Normalises every head of a slice of the rows: by its root mean square (Qwen 3), or with a bias as layer_norm does.
struct HeadNorm final : Operation {
    int source, offset, heads, weight, bias = -1;
    float epsilon;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// Rotates `heads` heads from the row's start; `table` is a vector [position][cos rotated/2, sin rotated/2].
// Positions of a second segment start over after the table's last row.
struct Rotate final : Operation {
    int source, heads, head_dim, rotated, table;
    int first = 0, stride = 1;  // which heads: this one, and each so many further
    std::vector<uint8_t> axes;  // as `Model::rope_axes`
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

// Tokens of a sequence see each other, or with `causal` what came before; `source` = [queries | keys | values], nothing is cached.
// With `whole` all of the step is one sequence.
struct EncoderAttention final : Operation {
    int source, target, heads, kv_heads;
    bool causal = false, whole = false;
    float scale;
    int bias = -1;  // or a vector of bias_floats() for all heads, or for each
    bool bias_per_head = false;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;
};

}  // namespace llm
