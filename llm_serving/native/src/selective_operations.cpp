#include "selective_operations.hpp"

#include <algorithm>

namespace llm {

namespace {

template <class Body>
void for_segments(const StepState& step, int sequence, Body body) {
    for (int i = step.first_segment[size_t(sequence)]; i < step.first_segment[size_t(sequence) + 1]; i++) body(step.segments[size_t(i)]);
}

constexpr int kConvTogether = 256;  // channels of a tile
constexpr int kScanTogether = 64;   // 4 KiB of states of 16: a tile stays in the first cache over all tokens

int width(const Model& model, int buffer) { return model.buffers[size_t(buffer)].width; }

int tiles_of(int channels, int together) { return (channels + together - 1) / together; }

}  // namespace

int ShortConv::num_tiles(const Model& model, const StepState& step) const {
    return step.input.num_sequences * tiles_of(width(model, source), kConvTogether);
}

void ShortConv::run_tile(Model& model, const StepState& step, int tile, int) const {
    Buffer& rows = model.buffers[size_t(source)];
    const int tiles = tiles_of(rows.width, kConvTogether), first = tile % tiles * kConvTogether;
    const int cols = std::min(kConvTogether, rows.width - first);
    const float* shift = bias < 0 ? nullptr : model.vectors[size_t(bias)].data() + first;
    for_segments(step, tile / tiles, [&](const StateSegment& segment) {
        float* past = segment.open(state + size_t(kTaps - 1) * first, size_t(kTaps - 1) * cols);
        model.kernels->short_conv({rows.row(segment.begin) + first, model.vectors[size_t(taps)].data() + first, past, size_t(rows.width),
                                   size_t(rows.width), segment.end - segment.begin, cols, 0.0f, shift});
    });
}

int SelectiveScan::num_tiles(const Model& model, const StepState& step) const {
    return step.input.num_sequences * tiles_of(width(model, source), kScanTogether);
}

void SelectiveScan::run_tile(Model& model, const StepState& step, int tile, int) const {
    Buffer &from = model.buffers[size_t(source)], &pace = model.buffers[size_t(steps)], &bc = model.buffers[size_t(both)];
    Buffer& to = model.buffers[size_t(target)];
    const int tiles = tiles_of(from.width, kScanTogether), first = tile % tiles * kScanTogether;
    const int channels = std::min(kScanTogether, from.width - first);
    for_segments(step, tile / tiles, [&](const StateSegment& segment) {
        const float* b = bc.row(segment.begin);
        model.kernels->selective_scan({from.row(segment.begin) + first, pace.row(segment.begin) + first, b, b + rows,
                                       model.vectors[size_t(rates)].data() + first, model.vectors[size_t(skips)].data() + first,
                                       to.row(segment.begin) + first, segment.open(state + size_t(first) * rows, size_t(channels) * rows),
                                       size_t(from.width), size_t(pace.width), size_t(bc.width), size_t(to.width), size_t(from.width),
                                       segment.end - segment.begin, rows, channels});
    });
}

}  // namespace llm
