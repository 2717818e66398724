#include "experts.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "numeric.hpp"
#include "rows.hpp"

namespace llm {

namespace {

// e^x for x <= 0 in plain arithmetic, so that no library's last bit decides.
double exponential(double x) {
    const double n = std::floor(x * 1.4426950408889634 + 0.5);
    const double r = (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
    double sum = 1;
    for (int i = 13; i > 0; i--) sum = 1 + sum * r / i;
    return n > -1000 ? std::ldexp(sum, int(n)) : 0;  // as NaN is not
}

double sigmoid_of(double x) {
    const double small = exponential(x < 0 ? x : -x);
    return (x < 0 ? small : 1) / (1 + small);
}

// The `used` largest of `scores`, best first.
void choose(const float* scores, int experts, int used, int* chosen) {
    for (int i = 0; i < used; i++) {
        int best = -1;
        for (int e = 0; e < experts; e++)
            if ((best < 0 || scores[e] > scores[best]) && std::find(chosen, chosen + i, e) == chosen + i) best = e;
        chosen[i] = best;
    }
}

}  // namespace

// Scores of all other groups become as low as they can be.
void Route::keep_best_groups(float* scores, int experts) const {
    constexpr int kMostGroups = 64;
    const int size = experts / groups;
    float sums[kMostGroups] = {};
    int best[kMostGroups];
    for (int g = 0; g < groups; g++) {
        const float* own = scores + g * size;
        choose(own, size, group_best, best);
        sums[g] = 0;
        for (int i = 0; i < group_best; i++) sums[g] += own[best[i]];
    }
    choose(sums, groups, groups_used, best);
    for (int g = 0; g < groups; g++)
        if (std::find(best, best + groups_used, g) == best + groups_used)
            std::fill(scores + g * size, scores + (g + 1) * size, -std::numeric_limits<float>::infinity());
}

void Route::share_among_near(const float* logits, int experts, const int* chosen, int used, float* shares) const {
    for (int i = 0; i < used; i++) {
        const float best = logits[chosen[i]];
        double total = 0;
        for (int e = 0; e < experts; e++) {
            const bool is_near = best - logits[e] <= margin * std::max(std::abs(logits[e]), best);
            if (is_near && std::find(chosen, chosen + i, e) == chosen + i) total += exponential(double(logits[e]) - best);
        }
        shares[i] = scale * float(1 / std::max(total, 1e-300));
    }
}

int Route::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void Route::run_tile(Model& model, const StepState& step, int tile, int worker) const {
    Buffer& from = model.buffers[size_t(source)];
    const int experts = from.width, used = model.experts_used;
    const float* own = scales < 0 ? nullptr : model.vectors[size_t(scales)].data();
    const float* corrections = correction < 0 ? nullptr : model.vectors[size_t(correction)].data();
    const bool is_scored = corrections || (groups > 1 && group_best > 1);  // else their order is that of logits
    float* scores = worker_scratch(model, worker, size_t(experts));
    for_rows(tile, num_rows(step), [&](int r) {
        const float* logits = from.row(r);
        int* chosen = step.routing.chosen.data() + size_t(r) * used;
        float* shares = step.routing.shares.data() + size_t(r) * used;
        const double largest = *std::max_element(logits, logits + experts);
        double total = 0;  // what softmax is divided by
        for (int e = 0; e < experts && !sigmoid && (is_scored || !normalized); e++) total += exponential(logits[e] - largest);
        const auto score = [&](int e) { return sigmoid ? sigmoid_of(logits[e]) : exponential(logits[e] - largest); };
        for (int e = 0; e < experts && is_scored; e++)
            scores[e] = float(score(e) / (sigmoid ? 1 : total)) + (corrections ? corrections[e] : 0);
        if (groups > 1) {
            if (!is_scored) std::copy(logits, logits + experts, scores);  // in whose order scores are
            keep_best_groups(scores, experts);
        }
        choose(is_scored || groups > 1 ? scores : logits, experts, used, chosen);
        if (margin > 0) return share_among_near(logits, experts, chosen, used, shares);
        if (normalized) total = 0;
        for (int i = 0; i < used && normalized; i++) total += score(chosen[i]);
        if (sigmoid && !normalized) total = 1;
        for (int i = 0; i < used; i++) shares[i] = scale * float(score(chosen[i]) / std::max(total, 1e-300));
        for (int i = 0; own && i < used; i++) shares[i] *= own[chosen[i]];
    });
}

void Arrange::run_tile(Model& model, const StepState& step, int, int) const {
    constexpr int kMostRun = 64;  // slots, so that a crowded expert is more than one worker's
    Routing& routing = step.routing;
    const int used = model.experts_used, slots = int(routing.row_of.size());
    std::vector<int> next(size_t(experts) + 1, 0);
    for (int i = 0; i < slots; i++) next[size_t(routing.chosen[size_t(i)]) + 1]++;
    routing.runs.clear();
    for (int e = 0; e < experts; e++) {
        const int begin = next[size_t(e)], end = next[size_t(e) + 1] += begin;
        for (int at = begin; at < end; at += kMostRun) routing.runs.push_back({e, at, std::min(at + kMostRun, end)});
    }
    for (int r = 0; r * used < slots; r++) {
        int* chosen = routing.chosen.data() + size_t(r) * used;
        float* shares = routing.shares.data() + size_t(r) * used;
        for (int i = 1; i < used; i++)  // by expert
            for (int j = i; j > 0 && chosen[j] < chosen[j - 1]; j--) std::swap(chosen[j], chosen[j - 1]), std::swap(shares[j], shares[j - 1]);
        for (int i = 0; i < used; i++) {
            const int slot = next[size_t(chosen[i])]++;
            routing.row_of[size_t(slot)] = r;
            routing.slots_of[size_t(r * used + i)] = slot;
            routing.weights[size_t(r * used + i)] = routing.weight_of[size_t(slot)] = shares[i];
        }
    }
}

int Gather::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void Gather::run_tile(Model& model, const StepState& step, int tile, int worker) const {
    Buffer& from = model.buffers[size_t(source)];
    float* scaled = worker_scratch(model, worker, size_t(from.width));
    for_rows(tile, num_rows(step), [&](int slot) {
        const float* row = from.row(step.routing.row_of[size_t(slot)]);
        const float weight = step.routing.weight_of[size_t(slot)];
        for (int i = 0; weighted && i < from.width; i++) scaled[i] = weight * row[i];
        quantize_row(model, step, *this, weighted ? scaled : row, from.width, slot);
    });
}

// Long enough to be worth the counter, and several for each worker.
int ExpertLinear::panels_of_tile(const Model& model, const StepState& step) const {
    constexpr double kTileWork = 1.5e6;  // multiply-adds
    const int cols = model.matrices[size_t(experts[0][0].matrix)].cols;
    const int runs = int(step.routing.runs.size()), workers = int(model.scratch.size());
    const int by_work = int(kTileWork * runs / (double(kPanel) * cols * num_rows(step))) + 1;
    const int by_workers = runs * total_panels / (4 * workers) + 1;
    return std::min((std::min(by_work, by_workers) + 1) / 2 * 2, total_panels);
}

int ExpertLinear::num_tiles(const Model& model, const StepState& step) const {
    const int panels = panels_of_tile(model, step);
    return int(step.routing.runs.size()) * ((total_panels + panels - 1) / panels);
}

void ExpertLinear::run_tile(Model& model, const StepState& step, int tile, int) const {
    const int panels = panels_of_tile(model, step), tiles = (total_panels + panels - 1) / panels;
    const Routing::Run& run = step.routing.runs[size_t(tile / tiles)];
    const int begin = tile % tiles * panels;
    multiply(model, experts[size_t(run.expert)], false, begin, std::min(panels, total_panels - begin), run.begin, run.end);
}

int Combine::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void Combine::run_tile(Model& model, const StepState& step, int tile, int) const {
    Buffer& from = model.buffers[size_t(source)];
    Buffer& to = model.buffers[size_t(target)];
    const int used = model.experts_used;
    const float* added = bias < 0 ? nullptr : model.vectors[size_t(bias)].data();
    for_rows(tile, num_rows(step), [&](int r) {
        float* sum = to.row(r);
        if (!accumulate) std::fill(sum, sum + to.width, 0.0f);
        for (int i = 0; added && i < to.width; i++) sum[i] += added[i];
        for (int u = 0; u < used; u++) {
            const float* row = from.row(step.routing.slots_of[size_t(r * used + u)]);
            const float weight = weighted ? step.routing.weights[size_t(r * used + u)] : 1.0f;
            for (int i = 0; i < to.width; i++) sum[i] += weight * row[i];
        }
    });
}

int Copy::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void Copy::run_tile(Model& model, const StepState& step, int tile, int) const {
    Buffer& from = model.buffers[size_t(source)];
    const float* own = scale < 0 ? nullptr : model.vectors[size_t(scale)].data();
    const bool by_columns = own && model.vectors[size_t(scale)].size() > 1;
    const float factor = own && !by_columns ? *own : 1.0f;
    for_rows(tile, num_rows(step), [&](int r) {
        const float* row = from.row(r);
        float* to = model.buffers[size_t(target)].row(r) + offset;
        const float* added = bias < 0 ? nullptr : model.vectors[size_t(bias)].data();
        const float open = door < 0 ? 1 : float(sigmoid_of(*model.buffers[size_t(door)].row(r)));
        for (int i = 0; i < from.width; i++) {
            const float value = open * (added ? row[i] + added[i] : row[i]);
            to[i] = (accumulate ? to[i] + value : value) * factor;
        }
        for (int i = 0; by_columns && i < from.width; i++) to[i] *= own[i];
    });
}

}  // namespace llm
