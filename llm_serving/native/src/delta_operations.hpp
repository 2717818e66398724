// A Gated DeltaNet layer between its matrices, and gates of what attention gives. See delta.hpp.
#pragma once
#include "operations.hpp"

namespace llm {

// Heads of a layer, and how a row of its source has them: queries, keys, values, what opens the output, beta, decay.
struct DeltaHeads {
    int keys, values;        // heads; there are as many of queries as of keys
    int key_dim, value_dim;
    bool tiled = false;      // value head h goes with key head h % keys, else with h / (values / keys)
    int channels() const { return 2 * keys * key_dim + values * value_dim; }  // of the convolution
    int gates_at() const { return channels() + values * value_dim; }
    int width() const { return gates_at() + 2 * values; }
    int key_of(int value) const { return tiled ? value % keys : value / (values / keys); }
};

// In place: queries, keys and values go through their short convolution, queries to the length 1 / sqrt(key_dim), keys to 1;
// beta and decay become what the delta rule takes.
struct DeltaInputs final : Operation {
    int source;
    size_t state;  // where its own begins, of each head the latest inputs
    DeltaHeads heads;
    int taps, rates, bias;  // vectors: [kTaps][channels], [values], [values]
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;

private:
    int heads_of_tile(const StepState&) const;
    int tiles_of_sequence(const StepState&) const;
    void convolve(Model&, const StateSegment&, int head) const;
    void open_gates(Model&, const StateSegment&) const;
};

// target = what queries find in the state that keys and values write.
struct DeltaRule final : Operation {
    int source, target;
    size_t state;  // S of each value head, see DeltaTile
    DeltaHeads heads;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;

private:
    int columns_of_tile() const;
};

enum class OutputAct : uint8_t { sigmoid, silu, squared_relu };

// activations = quantize(norm(source) * act(gates[:, offset:])), the norm of each head; or
// quantize(norm(source * act(gates[:, offset:]))).
struct OutputGate final : Operation {
    int source, gates, offset;
    OutputAct act = OutputAct::sigmoid;
    bool gate_first = false;
    int weight = -1;  // of the norm, -1: there is none; of one head, or of all
    int head_dim = 0;
    float epsilon = 0;
    int num_tiles(const Model&, const StepState&) const override;
    void run_tile(Model&, const StepState&, int tile, int worker) const override;

private:
    void norm(Model&, float* x, int width) const;
};

}  // namespace llm
