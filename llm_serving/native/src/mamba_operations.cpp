#include "mamba_operations.hpp"

#include <algorithm>

namespace llm {

namespace {

template <class Body>
void for_segments(const StepState& step, int sequence, Body body) {
    for (int i = step.first_segment[size_t(sequence)]; i < step.first_segment[size_t(sequence) + 1]; i++) body(step.segments[size_t(i)]);
}

constexpr int kChannelsTogether = 256;  // of a convolution
constexpr int kColumnsTogether = 32;    // of S, 16 KiB of 128 rows: a tile stays in the first cache over all tokens

}  // namespace

int MambaInputs::tiles_of_sequence() const {
    return (heads.channels() + kChannelsTogether - 1) / kChannelsTogether + 1;  // and one of steps
}

int MambaInputs::num_tiles(const Model&, const StepState& step) const { return step.input.num_sequences * tiles_of_sequence(); }

void MambaInputs::run_tile(Model& model, const StepState& step, int tile, int) const {
    const int tiles = tiles_of_sequence(), own = tile % tiles;
    for_segments(step, tile / tiles, [&](const StateSegment& segment) {
        if (own < tiles - 1) return convolve(model, segment, own * kChannelsTogether);
        for (int t = segment.begin; t < segment.end; t++)
            model.kernels->mamba_steps(model.buffers[size_t(source)].row(t) + heads.steps_at(), model.vectors[size_t(bias)].data(), heads.count);
    });
}

void MambaInputs::convolve(Model& model, const StateSegment& segment, int first) const {
    Buffer& rows = model.buffers[size_t(source)];
    const int cols = std::min(kChannelsTogether, heads.channels() - first);
    float* past = segment.open(state + size_t(kTaps - 1) * first, size_t(kTaps - 1) * cols);
    const float* shift = conv_bias < 0 ? nullptr : model.vectors[size_t(conv_bias)].data() + first;
    model.kernels->short_conv({rows.row(segment.begin) + heads.inner() + first, model.vectors[size_t(taps)].data() + first, past,
                               size_t(rows.width), size_t(heads.channels()), segment.end - segment.begin, cols, 0.0f, shift});
}

int MambaScan::columns_of_tile() const { return heads.dim % kColumnsTogether ? kMambaColumns : kColumnsTogether; }

int MambaScan::num_tiles(const Model&, const StepState& step) const {
    return step.input.num_sequences * (heads.inner() / columns_of_tile());
}

void MambaScan::run_tile(Model& model, const StepState& step, int tile, int) const {
    const int columns = columns_of_tile(), tiles = heads.inner() / columns;
    const int column = tile % tiles * columns, head = column / heads.dim;
    const int group = head / (heads.count / heads.groups);
    Buffer &from = model.buffers[size_t(source)], &to = model.buffers[size_t(target)];
    for_segments(step, tile / tiles, [&](const StateSegment& segment) {
        const float* row = from.row(segment.begin);
        const float* b = row + 2 * heads.inner() + group * heads.state;
        model.kernels->mamba_scan({row + heads.inner() + column, b, b + heads.groups * heads.state, row + heads.steps_at() + head,
                                   to.row(segment.begin) + column,
                                   segment.open(state + size_t(column) * heads.state, size_t(columns) * heads.state), size_t(from.width),
                                   size_t(to.width), segment.end - segment.begin, heads.state, columns,
                                   model.vectors[size_t(rates)][size_t(head)], model.vectors[size_t(skips)][size_t(head)]});
    });
}

}  // namespace llm
