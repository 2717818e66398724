#include "operations.hpp"

#include <algorithm>
#include <cstring>

#include "rows.hpp"

namespace llm {

int Embed::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void Embed::run_tile(Model& model, const StepState& step, int tile, int) const {
    for_rows(tile, num_rows(step), [&](int r) {
        Buffer& to = model.buffers[size_t(target)];
        if (const float* given = step.given(r)) {
            memcpy(to.row(r), given, size_t(to.width) * sizeof(float));
            return;
        }
        model.kernels->dequantize_row(model.matrices[size_t(matrix)], step.input.token_ids[r], to.row(r));
        for (int i = 0; scale != 1 && i < to.width; i++) to.row(r)[i] *= scale;
    });
}

int AddGiven::num_tiles(const Model&, const StepState& step) const { return step.input.num_given ? tiles_of(num_rows(step)) : 0; }

void AddGiven::run_tile(Model& model, const StepState& step, int tile, int) const {
    Buffer& to = model.buffers[size_t(target)];
    for_rows(tile, num_rows(step), [&](int r) {
        const float* given = step.given(token_of(step, r));
        for (int i = 0; given && i < to.width; i++) to.row(r)[i] += given[offset + i];
    });
}

int AddPositions::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void AddPositions::run_tile(Model& model, const StepState& step, int tile, int) const {
    Buffer& to = model.buffers[size_t(target)];
    const std::vector<float>& rows = model.vectors[size_t(table)];
    for_rows(tile, num_rows(step), [&](int r) {
        const float* row = rows.data() + size_t(step.input.positions[r]) * to.width;
        for (int i = 0; i < to.width; i++) to.row(r)[i] += row[i];
    });
}

int Select::num_tiles(const Model&, const StepState& step) const { return tiles_of(step.input.num_rows); }

void Select::run_tile(Model& model, const StepState& step, int tile, int) const {
    Buffer& from = model.buffers[size_t(source)];
    Buffer& to = model.buffers[size_t(target)];
    for_rows(tile, step.input.num_rows, [&](int r) {
        std::memcpy(to.row(r), from.row(step.input.logit_rows[r]), sizeof(float) * size_t(from.width));
    });
}

int Quantize::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void Quantize::run_tile(Model& model, const StepState& step, int tile, int worker) const {
    Buffer& from = model.buffers[size_t(source)];
    float* scratch = worker_scratch(model, worker, size_t(from.width));
    for_rows(tile, num_rows(step), [&](int r) {
        float* x = from.row(r);
        float* normed = weight < 0 || keep ? x : scratch;
        const float* gain = weight < 0 ? nullptr : model.vectors[size_t(weight)].data();
        if (gain && bias < 0) model.kernels->rms_norm(x, gain, epsilon, from.width, normed);
        if (gain && bias >= 0)
            model.kernels->layer_norm(x, gain, model.vectors[size_t(bias)].data(), epsilon, from.width, normed);
        if (!within.are_none()) {
            within.keep(normed, from.width, scratch);
            normed = scratch;
        }
        quantize_row(model, step, *this, normed, from.width, r);
    });
}

int Clamp::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void Clamp::run_tile(Model& model, const StepState& step, int tile, int) const {
    for_rows(tile, num_rows(step), [&](int r) {
        float* row = model.buffers[size_t(source)].row(r) + offset;
        within.keep(row, width, row);
    });
}

namespace {

auto kernel_of(const Kernels& kernels, Gate gate) {
    switch (gate) {
        case Gate::gelu: return kernels.gated_gelu;
        case Gate::gelu_tanh: return kernels.gated_gelu_tanh;
        case Gate::relu: return kernels.gated_relu;
        default: return kernels.gated_silu;
    }
}

}  // namespace

int Gated::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void Gated::run_tile(Model& model, const StepState& step, int tile, int worker) const {
    float* gated = worker_scratch(model, worker, size_t(cols));
    for_rows(tile, num_rows(step), [&](int r) {
        const float* x = model.buffers[size_t(source)].row(r);
        const float* up = opened < 0 ? x + cols : model.buffers[size_t(opened)].row(r) + opened_offset;
        if (limit > 0) model.kernels->gated_within(x, up, cols, slope, limit, gated);
        else kernel_of(*model.kernels, gate)(x, up, cols, gated);
        if (!within.are_none()) within.keep(gated, cols, gated);
        quantize_row(model, step, *this, gated, cols, r);
    });
}

int Gelu::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void Gelu::run_tile(Model& model, const StepState& step, int tile, int worker) const {
    Buffer& from = model.buffers[size_t(source)];
    const size_t width = size_t(from.width);
    float* activated = worker_scratch(model, worker, 2 * width);
    float* nothing = activated + width;
    const auto activate = tanh ? model.kernels->gelu_tanh : model.kernels->gelu;
    if (quick) std::fill(nothing, nothing + width, 0.0f);
    for_rows(tile, num_rows(step), [&](int r) {
        // With nothing beside it the gate of gpt-oss is the quick form.
        if (quick) model.kernels->gated_within(from.row(r), nothing, from.width, 1.702f, 1e30f, activated);
        else activate(from.row(r), from.width, activated);
        quantize_row(model, step, *this, activated, from.width, r);
    });
}

int Xielu::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void Xielu::run_tile(Model& model, const StepState& step, int tile, int worker) const {
    Buffer& from = model.buffers[size_t(source)];
    float* bent = worker_scratch(model, worker, size_t(from.width));
    for_rows(tile, num_rows(step), [&](int r) {
        model.kernels->xielu(from.row(r), from.width, positive, negative, beta, bent);
        quantize_row(model, step, *this, bent, from.width, r);
    });
}

// Row blocks keep the activations of a tile in L2; panels are cut so that every worker finds several tiles,
// each long enough (some ten microseconds) to be worth the counter.
Linear::Tiling Linear::tiling(const Model& model, const StepState& step) const {
    constexpr int kMostRows = 128, kFewestRows = 24;
    const Kernels& kernels = *model.kernels;
    Tiling t;
    const int rows = num_rows(step);
    const PackedMatrix& first = model.matrices[size_t(projections[0].matrix)];
    const int cols = first.cols;
    const int input_bytes = first.format == Format::f32 ? 4 : reads_wide(first.format) || !kernels.has_wide ? 2 : 1;
    const int most_rows = std::clamp(kernels.gemm_bytes / (cols * input_bytes), kFewestRows, kMostRows) / kernels.gemm_rows * kernels.gemm_rows;
    const int workers = int(model.scratch.size());
    const int rounds = (rows + workers * most_rows - 1) / (workers * most_rows);
    const int own = (rows + workers * rounds - 1) / (workers * rounds);
    const int whole = (own + kernels.gemm_rows - 1) / kernels.gemm_rows * kernels.gemm_rows;
    t.rows = std::min({rows, own >= kFewestRows ? whole : most_rows, most_rows});
    const int by_work = int(kernels.gemm_work / (double(kPanel) * cols * t.rows)) + 1;
    const int by_workers = total_panels / (2 * workers) + 1;
    t.panels = (std::min(by_work, by_workers) + kernels.gemm_panels - 1) / kernels.gemm_panels * kernels.gemm_panels;
    t.row_tiles = (rows + t.rows - 1) / t.rows;
    t.panel_tiles = (total_panels + t.panels - 1) / t.panels;
    return t;
}

int Linear::num_tiles(const Model& model, const StepState& step) const {
    if (num_rows(step) == 0) return 0;
    const Tiling t = tiling(model, step);
    return t.row_tiles * t.panel_tiles;
}

void Linear::run_tile(Model& model, const StepState& step, int tile, int) const {
    const Tiling t = tiling(model, step);
    const int row_begin = tile / t.panel_tiles * t.rows;
    const int row_end = std::min(row_begin + t.rows, num_rows(step));
    const int begin = tile % t.panel_tiles * t.panels;
    multiply(model, projections, accumulate, begin, std::min(t.panels, total_panels - begin), row_begin, row_end);
}

void multiply(Model& model, const std::vector<Projection>& projections, bool accumulate, int begin, int count, int row_begin,
              int row_end) {
    for (const Projection& p : projections) {
        const PackedMatrix& matrix = model.matrices[size_t(p.matrix)];
        if (begin >= matrix.panels()) {
            begin -= matrix.panels();
            continue;
        }
        Buffer& out = model.buffers[size_t(p.target)];
        const Activations input = model.activations(p.cols ? p.cols : matrix.cols).from(p.first);
        const int end = std::min(begin + count, matrix.panels());
        model.kernels->gemm({&matrix, &input, p.bias < 0 ? nullptr : model.vectors[size_t(p.bias)].data(),
                             out.data.data() + p.offset, size_t(out.width), accumulate, begin, end, row_begin, row_end});
        count -= end - begin;
        begin = 0;
        if (count == 0) return;
    }
}

namespace {

constexpr int kCappedTogether = 4096;  // columns; rows of logits are few and long

int column_tiles(const Buffer& buffer) { return (buffer.width + kCappedTogether - 1) / kCappedTogether; }

}  // namespace

int SoftCap::num_tiles(const Model& model, const StepState& step) const {
    return num_rows(step) * column_tiles(model.buffers[size_t(source)]);
}

void SoftCap::run_tile(Model& model, const StepState&, int tile, int) const {
    Buffer& of = model.buffers[size_t(source)];
    const int row = tile / column_tiles(of), first = tile % column_tiles(of) * kCappedTogether;
    model.kernels->soft_cap(of.row(row) + first, std::min(kCappedTogether, of.width - first), cap);
}

}  // namespace llm
