// What row-wise operations share: tiles of a few rows, scratch, and rows on their way to a matrix.
#pragma once
#include <algorithm>
#include <cstring>

#include "plan.hpp"

namespace llm {

constexpr int kRowsPerTile = 4;

inline int tiles_of(int rows) { return (rows + kRowsPerTile - 1) / kRowsPerTile; }

template <class Body>
void for_rows(int tile, int rows, Body body) {
    for (int r = tile * kRowsPerTile; r < std::min(rows, (tile + 1) * kRowsPerTile); r++) body(r);
}

inline float* worker_scratch(Model& model, int worker, size_t floats) {
    std::vector<float>& scratch = model.scratch[size_t(worker)];
    if (scratch.size() < floats) scratch.resize(floats);
    return scratch.data();
}

inline void quantize_row(Model& model, const StepState& step, const Operation& writer, const float* x, int cols, int row) {
    if (writer.keeps_adapted) {
        const std::vector<int>& slot_of = step.adapted(writer.on_logit_rows).slot_of;
        const int slot = slot_of.empty() ? -1 : slot_of[size_t(row)];
        if (slot >= 0) std::memcpy(model.adapted.data() + size_t(slot) * size_t(cols), x, sizeof(float) * size_t(cols));
    }
    const Activations a = model.activations(cols);
    if (model.exact) {
        std::memcpy(a.values + size_t(row) * cols, x, sizeof(float) * size_t(cols));
        return;
    }
    const size_t at = size_t(row) * cols;
    if (writer.writes_narrow(*model.kernels)) model.kernels->quantize(x, cols, a.narrow_row(row));
    if (writer.writes_wide(*model.kernels)) model.kernels->quantize_wide(x, cols, a.wide + at, a.wide_scales + at / kGroup);
}

}  // namespace llm
