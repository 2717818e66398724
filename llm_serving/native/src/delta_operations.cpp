#include "delta_operations.hpp"

#include <algorithm>
#include <cmath>

#include "rows.hpp"

namespace llm {

namespace {

template <class Body>
void for_segments(const StepState& step, int sequence, Body body) {
    for (int i = step.first_segment[size_t(sequence)]; i < step.first_segment[size_t(sequence) + 1]; i++) body(step.segments[size_t(i)]);
}

constexpr int kFewTokens = 8;       // of a sequence: then heads go together
constexpr int kHeadsTogether = 4;
constexpr int kColumnsTogether = 32;  // of S, 16 KiB of 128 rows: a tile stays in the first cache over all tokens

}  // namespace

int DeltaInputs::heads_of_tile(const StepState& step) const {
    return step.input.num_tokens < kFewTokens * step.input.num_sequences ? kHeadsTogether : 1;
}

int DeltaInputs::tiles_of_sequence(const StepState& step) const {
    const int all = 2 * heads.keys + heads.values, together = heads_of_tile(step);
    return (all + together - 1) / together + 1;  // and one of gates
}

int DeltaInputs::num_tiles(const Model&, const StepState& step) const {
    return step.input.num_sequences * tiles_of_sequence(step);
}

void DeltaInputs::run_tile(Model& model, const StepState& step, int tile, int) const {
    const int tiles = tiles_of_sequence(step), together = heads_of_tile(step);
    const int sequence = tile / tiles, first = tile % tiles * together, all = 2 * heads.keys + heads.values;
    for_segments(step, sequence, [&](const StateSegment& segment) {
        for (int head = first; head < std::min(first + together, all); head++) convolve(model, segment, head);
        if (tile % tiles == tiles - 1) open_gates(model, segment);
    });
}

void DeltaInputs::convolve(Model& model, const StateSegment& segment, int head) const {
    const int value = head - 2 * heads.keys, cols = value < 0 ? heads.key_dim : heads.value_dim;
    const int channel = value < 0 ? head * cols : 2 * heads.keys * heads.key_dim + value * cols;
    const float length = head < heads.keys ? 1.0f / std::sqrt(float(cols)) : value < 0 ? 1.0f : 0.0f;
    Buffer& rows = model.buffers[size_t(source)];
    float* past = segment.open(state + size_t(kTaps - 1) * channel, size_t(kTaps - 1) * cols);
    model.kernels->short_conv({rows.row(segment.begin) + channel, model.vectors[size_t(taps)].data() + channel, past,
                               size_t(rows.width), size_t(heads.channels()), segment.end - segment.begin, cols, length});
}

void DeltaInputs::open_gates(Model& model, const StateSegment& segment) const {
    const float *rate = model.vectors[size_t(rates)].data(), *shift = model.vectors[size_t(bias)].data();
    for (int t = segment.begin; t < segment.end; t++) {
        float* beta = model.buffers[size_t(source)].row(t) + heads.gates_at();
        model.kernels->delta_gates(beta + heads.values, beta, rate, shift, heads.values);
    }
}

int DeltaRule::columns_of_tile() const { return std::min(kColumnsTogether, heads.value_dim); }

int DeltaRule::num_tiles(const Model&, const StepState& step) const {
    return step.input.num_sequences * heads.values * (heads.value_dim / columns_of_tile());
}

void DeltaRule::run_tile(Model& model, const StepState& step, int tile, int) const {
    const int columns = columns_of_tile(), tiles = heads.value_dim / columns;
    const int column = tile % tiles * columns, head = tile / tiles % heads.values, sequence = tile / tiles / heads.values;
    const int key = heads.key_of(head) * heads.key_dim;
    const size_t own = state + size_t(head) * heads.key_dim * heads.value_dim + size_t(column) * heads.key_dim;
    Buffer &from = model.buffers[size_t(source)], &to = model.buffers[size_t(target)];
    for_segments(step, sequence, [&](const StateSegment& segment) {
        const float* row = from.row(segment.begin);
        const float* keys = row + heads.keys * heads.key_dim;
        const float* beta = row + heads.gates_at() + head;
        model.kernels->delta_rule({row + key, keys + key, keys + heads.keys * heads.key_dim + head * heads.value_dim + column,
                                   beta + heads.values, beta, to.row(segment.begin) + head * heads.value_dim + column,
                                   segment.open(own, size_t(columns) * heads.key_dim), size_t(from.width), size_t(to.width),
                                   segment.end - segment.begin, heads.key_dim, columns});
    });
}

namespace {

void gated_squared_relu(const float* gate, const float* up, int cols, float* y) {
    for (int i = 0; i < cols; i++) {
        const float open = gate[i] > 0 ? gate[i] : 0;
        y[i] = open * open * up[i];
    }
}

}  // namespace

int OutputGate::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void OutputGate::run_tile(Model& model, const StepState& step, int tile, int worker) const {
    Buffer& from = model.buffers[size_t(source)];
    float* gated = worker_scratch(model, worker, size_t(from.width));
    const auto gate = act == OutputAct::silu ? model.kernels->gated_silu : act == OutputAct::sigmoid ? model.kernels->gated_sigmoid : gated_squared_relu;
    for_rows(tile, num_rows(step), [&](int r) {
        float* x = from.row(r);
        if (!gate_first) norm(model, x, from.width);
        gate(model.buffers[size_t(gates)].row(r) + offset, x, from.width, gated);
        if (gate_first) norm(model, gated, from.width);
        quantize_row(model, step, *this, gated, from.width, r);
    });
}

void OutputGate::norm(Model& model, float* x, int width) const {
    if (weight < 0) return;
    const std::vector<float>& gain = model.vectors[size_t(weight)];
    for (int i = 0; i < width; i += head_dim)
        model.kernels->rms_norm(x + i, gain.data() + size_t(i) % gain.size(), epsilon, head_dim, x + i);
}

}  // namespace llm
