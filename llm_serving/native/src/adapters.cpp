#include "adapters.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace llm {

namespace {

constexpr int kDownPanels = 2;  // of a tile: what a kernel takes together

int tiles_of_panels(int panels, int of_tile) { return (panels + of_tile - 1) / of_tile; }

// Rows of floats as gemm reads them.
Activations rows_of(float* values, int cols) { return {nullptr, nullptr, nullptr, values, cols}; }

// Where the results of an adapter's matrices begin whose ranks add up to `rank` before them.
float* low_of(Model& model, const AdaptedRows::Run& run, int rank) {
    return model.low.data() + size_t(run.begin) * size_t(model.most_rank) + size_t(run.end - run.begin) * size_t(rank);
}

// body(matrices, sum of the ranks before, first panel, end) for `count` panels from `begin` on, counted over all matrices.
template <class Body>
void for_panels(const Model& model, const std::vector<LowRank>& all, int LowRank::*which, int begin, int count, Body body) {
    int rank = 0;
    for (const LowRank& one : all) {
        const int panels = model.low_ranks[size_t(one.*which)].panels(), end = std::min(begin + count, panels);
        if (begin < end) {
            body(one, rank, begin, end);
            count -= end - begin;
            begin = panels;
        }
        if (!count) return;
        begin -= panels;
        rank += model.low_ranks[size_t(one.down)].rows;
    }
}

}  // namespace

void AdaptedRows::group(const std::vector<int>& adapter_of, int adapters) {
    constexpr int kMostRun = 64;  // slots, so that an adapter of many rows is more than one worker's
    std::vector<int> next(size_t(adapters) + 1, 0);
    for (int adapter : adapter_of) next[size_t(adapter + 1)]++;
    runs.clear();
    next[0] = 0;  // those without one
    for (int a = 0; a < adapters; a++) {
        const int begin = next[size_t(a)], end = next[size_t(a) + 1] += begin;
        for (int at = begin; at < end; at += kMostRun) runs.push_back({a, at, std::min(at + kMostRun, end)});
    }
    slot_of.assign(runs.empty() ? 0 : adapter_of.size(), -1);
    row_of.resize(runs.empty() ? 0 : size_t(runs.back().end));
    for (size_t row = 0; row < slot_of.size(); row++) {
        if (adapter_of[row] < 0) continue;
        slot_of[row] = next[size_t(adapter_of[row])]++;
        row_of[size_t(slot_of[row])] = int(row);
    }
}

int AdapterDown::num_tiles(const Model&, const StepState& step) const {
    return int(step.adapted(on_logit_rows).runs.size()) * tiles_of_panels(ranks->down_panels, kDownPanels);
}

void AdapterDown::run_tile(Model& model, const StepState& step, int tile, int) const {
    const int tiles = tiles_of_panels(ranks->down_panels, kDownPanels);
    const AdaptedRows::Run& run = step.adapted(on_logit_rows).runs[size_t(tile / tiles)];
    const auto& all = ranks->of[size_t(run.adapter)];
    for_panels(model, all, &LowRank::down, tile % tiles * kDownPanels, kDownPanels, [&](const LowRank& one, int rank, int begin, int end) {
        const PackedMatrix& down = model.low_ranks[size_t(one.down)];
        const Activations input = rows_of(model.adapted.data() + size_t(run.begin) * size_t(down.cols), down.cols);
        model.kernels->gemm({&down, &input, nullptr, low_of(model, run, rank), size_t(down.rows), false, begin, end, 0, run.end - run.begin});
    });
}

// Long enough to be worth the counter.
int AdapterUp::panels_of_tile(const Model& model, const StepState& step) const {
    constexpr double kTileWork = 1e5;  // multiply-adds
    const AdaptedRows& rows = step.adapted(on_logit_rows);
    const double work = double(kPanel) * model.most_rank * double(rows.row_of.size()) / double(rows.runs.size());
    return std::min(int(kTileWork / work) / 2 * 2 + 2, ranks->up_panels);
}

int AdapterUp::num_tiles(const Model& model, const StepState& step) const {
    const size_t runs = step.adapted(on_logit_rows).runs.size();
    return runs ? int(runs) * tiles_of_panels(ranks->up_panels, panels_of_tile(model, step)) : 0;
}

void AdapterUp::run_tile(Model& model, const StepState& step, int tile, int) const {
    const AdaptedRows& rows = step.adapted(on_logit_rows);
    const int panels = panels_of_tile(model, step), tiles = tiles_of_panels(ranks->up_panels, panels);
    const AdaptedRows::Run& run = rows.runs[size_t(tile / tiles)];
    const auto& all = ranks->of[size_t(run.adapter)];
    for_panels(model, all, &LowRank::up, tile % tiles * panels, panels, [&](const LowRank& one, int rank, int begin, int end) {
        const PackedMatrix& up = model.low_ranks[size_t(one.up)];
        Buffer& out = model.buffers[size_t(one.target)];
        for (int slot = run.begin, count; slot < run.end; slot += count) {  // rows that lie next to each other there, too
            const int row = rows.row_of[size_t(slot)];
            for (count = 1; slot + count < run.end && rows.row_of[size_t(slot + count)] == row + count;) count++;
            const Activations input = rows_of(low_of(model, run, rank) + size_t(slot - run.begin) * size_t(up.cols), up.cols);
            model.kernels->gemm({&up, &input, nullptr, out.row(row) + one.offset, size_t(out.width), true, begin, end, 0, count});
        }
    });
}

int Plan::low_rank(const float* values, int rows, int cols) {
    if (rows <= 0 || cols <= 0) throw std::invalid_argument("a matrix of an adapter needs rows and columns");
    PackedMatrix matrix{Format::f32, rows, cols, size_t(cols) * kPanel * sizeof(float), nullptr};
    auto* target = static_cast<uint8_t*>(arena_.allocate(matrix.bytes()));
    pool_.for_each(matrix.panels(), [&](int panel) {
        auto* own = reinterpret_cast<float*>(target + matrix.panel_stride * size_t(panel));
        for (int o = 0; o < std::min(kPanel, rows - panel * kPanel); o++)
            for (int k = 0; k < cols; k++) own[k * kPanel + o] = values[size_t(panel * kPanel + o) * size_t(cols) + size_t(k)];
    });
    matrix.data = target;
    model.low_ranks.push_back(matrix);
    return int(model.low_ranks.size()) - 1;
}

void Plan::prepare_adapters(const StepInput& input) {
    step_.adapted_tokens.runs.clear();
    step_.adapted_logit_rows.runs.clear();
    step_.adapted_tokens.slot_of.clear();
    step_.adapted_logit_rows.slot_of.clear();
    if (!input.adapters) return;
    std::vector<int> adapters(size_t(input.num_tokens));
    for (size_t t = 0; t < adapters.size(); t++) adapters[t] = input.adapters[step_.sequence_of[t]];
    step_.adapted_tokens.group(adapters, model.adapters);
    std::vector<int> of_logits(size_t(input.num_rows));
    for (size_t r = 0; r < of_logits.size(); r++) of_logits[r] = adapters[size_t(input.logit_rows[r])];
    step_.adapted_logit_rows.group(of_logits, model.adapters);
    const size_t rows = std::max(step_.adapted_tokens.row_of.size(), step_.adapted_logit_rows.row_of.size());
    model.adapted.resize(std::max(model.adapted.size(), rows * size_t(model.adapted_cols)));
    model.low.resize(std::max(model.low.size(), rows * size_t(model.most_rank)));
}

void add_adapters(Plan& plan, std::vector<std::vector<LowRank>> of) {
    const auto require = [](bool holds, const char* message) {
        if (!holds) throw std::invalid_argument(message);
    };
    Model& model = plan.model;
    Operation& writer = plan.last_writer();
    require(!writer.on_slots, "experts take no adapters");
    require(model.adapters == 0 || model.adapters == int(of.size()), "all matrices must know as many adapters");
    auto ranks = std::make_shared<LowRanks>();
    for (const auto& own : of) {
        int rank = 0, down_panels = 0, up_panels = 0;
        for (const LowRank& one : own) {
            const PackedMatrix &down = model.low_ranks.at(size_t(one.down)), &up = model.low_ranks.at(size_t(one.up));
            const Buffer& to = model.buffers.at(size_t(one.target));
            require(down.cols == writer.activation_cols, "an adapter reads activations of another width");
            require(up.cols == down.rows, "the two matrices of an adapter do not fit together");
            require(!to.of_slots && one.offset >= 0 && one.offset + up.rows <= to.width, "an adapter writes beyond its buffer");
            rank += down.rows;
            down_panels += down.panels();
            up_panels += up.panels();
        }
        model.most_rank = std::max(model.most_rank, rank);
        ranks->down_panels = std::max(ranks->down_panels, down_panels);
        ranks->up_panels = std::max(ranks->up_panels, up_panels);
    }
    require(ranks->up_panels > 0, "none of the adapters has a matrix here");
    model.adapters = int(of.size());
    model.adapted_cols = std::max(model.adapted_cols, writer.activation_cols);
    writer.keeps_adapted = true;
    ranks->of = std::move(of);
    auto down = std::make_unique<AdapterDown>();
    auto up = std::make_unique<AdapterUp>();
    down->ranks = up->ranks = std::move(ranks);
    plan.add_beside(std::move(down));
    plan.add(std::move(up));
}

}  // namespace llm
