#include "experts.hpp"

#include <cmath>
#include <numeric>

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

}  // namespace

void Route::run_tile(Model& model, const StepState& step, int, int) const {
    Buffer& from = model.buffers[size_t(source)];
    const int experts = from.width;
    Routing& routing = step.routing;
    routing.rows.resize(size_t(experts));
    routing.weights.resize(size_t(experts));
    for (int e = 0; e < experts; e++) routing.rows[size_t(e)].clear(), routing.weights[size_t(e)].clear();
    std::vector<int> order(static_cast<size_t>(experts));
    for (int r = 0; r < num_rows(step); r++) {
        const float* logits = from.row(r);
        const double largest = *std::max_element(logits, logits + experts);
        double total = 0;
        for (int e = 0; e < experts; e++) total += exponential(logits[e] - largest);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
        for (int i = 0; i < used; i++) {
            const size_t e = size_t(order[size_t(i)]);
            routing.rows[e].push_back(r);
            routing.weights[e].push_back(float(exponential(logits[e] - largest) / total));
        }
    }
}

int Gather::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void Gather::run_tile(Model& model, const StepState& step, int tile, int) const {
    Buffer& from = model.buffers[size_t(source)];
    const std::vector<int>& rows = step.routing.rows[size_t(expert)];
    for_rows(tile, num_rows(step), [&](int r) { quantize_row(model, *this, from.row(rows[size_t(r)]), from.width, r); });
}

int Scatter::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void Scatter::run_tile(Model& model, const StepState& step, int tile, int) const {
    Buffer& from = model.buffers[size_t(source)];
    const std::vector<int>& rows = step.routing.rows[size_t(expert)];
    const std::vector<float>& weights = step.routing.weights[size_t(expert)];
    for_rows(tile, num_rows(step), [&](int r) {
        float* to = model.buffers[size_t(target)].row(rows[size_t(r)]);
        const float* row = from.row(r);
        for (int i = 0; i < from.width; i++) to[i] += weights[size_t(r)] * row[i];
    });
}

int Copy::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void Copy::run_tile(Model& model, const StepState& step, int tile, int) const {
    Buffer& from = model.buffers[size_t(source)];
    for_rows(tile, num_rows(step), [&](int r) {
        const float* row = from.row(r);
        float* to = model.buffers[size_t(target)].row(r);
        const float* added = bias < 0 ? nullptr : model.vectors[size_t(bias)].data();
        for (int i = 0; i < from.width; i++) {
            const float value = added ? row[i] + added[i] : row[i];
            to[i] = accumulate ? to[i] + value : value;
        }
    });
}

}  // namespace llm
