#include "gated_conv.hpp"

#include <algorithm>

namespace llm {

namespace {

constexpr int kTogether = 512;  // channels of a tile
constexpr int kLanes = 8;       // channels side by side: a loop of this length becomes vectors

int channel_tiles(int cols) { return (cols + kTogether - 1) / kTogether; }

// One token of `kLanes` channels: products and sums as they stand here, so that any compiler gives the same bits.
void take(const float* gates, const float* opens, const float* inputs, const float* weights, int taps, size_t cols, float* const* past, float* out) {
    float now[kLanes], sum[kLanes];
    for (int i = 0; i < kLanes; i++) now[i] = gates[i] * inputs[i];
    for (int i = 0; i < kLanes; i++) sum[i] = weights[size_t(taps - 1) * cols + size_t(i)] * now[i];
    for (int k = taps - 2; k >= 0; k--) {
        for (int i = 0; i < kLanes; i++) {
            const float before = past[k][i];
            sum[i] += weights[size_t(k) * cols + size_t(i)] * before;
            past[k][i] = now[i];
            now[i] = before;
        }
    }
    for (int i = 0; i < kLanes; i++) out[i] = opens[i] * sum[i];
}

}  // namespace

int GatedConv::num_tiles(const Model&, const StepState& step) const { return step.input.num_sequences * channel_tiles(cols); }

void GatedConv::run_tile(Model& model, const StepState& step, int tile, int) const {
    Buffer& from = model.buffers[size_t(source)];
    Buffer& to = model.buffers[size_t(target)];
    const int sequence = tile / channel_tiles(cols), begin = tile % channel_tiles(cols) * kTogether;
    const int end = std::min(begin + kTogether, cols);
    const float* weights = model.vectors[size_t(weight)].data();
    for (int s = step.first_segment[size_t(sequence)]; s < step.first_segment[size_t(sequence) + 1]; s++) {
        const StateSegment& segment = step.segments[size_t(s)];
        float* past[kMostTaps];
        for (int k = 0; k < taps - 1; k++) past[k] = segment.open(state + size_t(k) * cols + begin, size_t(end - begin));
        for (int t = segment.begin; t < segment.end; t++) {
            const float* row = from.row(t);
            for (int c = begin; c < end; c += kLanes) {
                float* own[kMostTaps];
                for (int k = 0; k < taps - 1; k++) own[k] = past[k] + (c - begin);
                take(row + c, row + cols + c, row + 2 * cols + c, weights + c, taps, size_t(cols), own, to.row(t) + c);
            }
        }
    }
}

}  // namespace llm
