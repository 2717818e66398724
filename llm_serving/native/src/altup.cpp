#include "altup.hpp"

#include <algorithm>
#include <cmath>

#include "numeric.hpp"
#include "rows.hpp"

namespace llm {

// Loops have eight explicit lanes, so that any compiler gives the same bits.
namespace {

float mean_of(const float* x, int cols) {
    float lanes[kLanes] = {0};
    for (int i = 0; i < cols; i += kLanes)
        for (int l = 0; l < kLanes; l++) lanes[l] += x[i + l];
    return sum_lanes(lanes) / float(cols);
}

// Of (x - centre)^2.
float mean_square(const float* x, float centre, int cols) {
    float lanes[kLanes] = {0};
    for (int i = 0; i < cols; i += kLanes)
        for (int l = 0; l < kLanes; l++) lanes[l] += (x[i + l] - centre) * (x[i + l] - centre);
    return sum_lanes(lanes) / float(cols);
}

// out = weights @ tanh(router), `count` numbers; the router has as many as there are streams.
void coefficients(Model& model, const float* router, int streams, const std::vector<float>& weights, int count, float* out) {
    float bent[kMostStreams];
    std::copy_n(router, streams, bent);
    model.kernels->soft_cap(bent, streams, 1.0f);
    for (int c = 0; c < count; c++) {
        out[c] = 0;
        for (int i = 0; i < streams; i++) out[c] += weights[size_t(c) * size_t(streams) + size_t(i)] * bent[i];
    }
}

}  // namespace

int AltUpPredict::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void AltUpPredict::run_tile(Model& model, const StepState& step, int tile, int) const {
    const int count = int(streams.size()), cols = model.buffers[size_t(streams[0])].width;
    for_rows(tile, num_rows(step), [&](int r) {
        float mix[kMostStreams * kMostStreams];
        coefficients(model, model.buffers[size_t(router)].row(r), count, model.vectors[size_t(weights)], count * count, mix);
        float* rows[kMostStreams];
        for (int j = 0; j < count; j++) rows[j] = model.buffers[size_t(streams[size_t(j)])].row(r);
        for (int c = 0; c < cols; c += kLanes) {
            float before[kMostStreams][kLanes];
            for (int j = 0; j < count; j++)
                for (int l = 0; l < kLanes; l++) before[j][l] = rows[j][c + l];
            for (int j = 0; j < count; j++) {
                float sum[kLanes];
                for (int l = 0; l < kLanes; l++) sum[l] = before[j][l];
                for (int i = 0; i < count; i++)
                    for (int l = 0; l < kLanes; l++) sum[l] += mix[j * count + i] * before[i][l];
                for (int l = 0; l < kLanes; l++) rows[j][c + l] = sum[l];
            }
        }
    });
}

int AltUpCorrect::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void AltUpCorrect::run_tile(Model& model, const StepState& step, int tile, int) const {
    const int count = int(streams.size()), cols = model.buffers[size_t(source)].width;
    for_rows(tile, num_rows(step), [&](int r) {
        float gains[kMostStreams];
        coefficients(model, model.buffers[size_t(router)].row(r), count, model.vectors[size_t(weights)], count, gains);
        const float *found = model.buffers[size_t(source)].row(r), *predicted = model.buffers[size_t(streams[0])].row(r);
        for (int j = count - 1; j >= 0; j--) {  // the first one last: all are told how far it was off
            float* row = model.buffers[size_t(streams[size_t(j)])].row(r);
            for (int c = 0; c < cols; c += kLanes)
                for (int l = 0; l < kLanes; l++) row[c + l] += (1 + gains[j]) * (found[c + l] - predicted[c + l]);
        }
    });
}

int MatchMagnitude::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void MatchMagnitude::run_tile(Model& model, const StepState& step, int tile, int) const {
    for_rows(tile, num_rows(step), [&](int r) {
        Buffer &own = model.buffers[size_t(source)], &other = model.buffers[size_t(like)];
        float* row = own.row(r);
        const float wanted = std::sqrt(mean_square(other.row(r), 0, other.width));
        const float factor = wanted / std::sqrt(std::max(mean_square(row, 0, own.width), least));
        for (int i = 0; i < own.width; i++) row[i] *= factor;
    });
}

int GaussianTopK::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void GaussianTopK::run_tile(Model& model, const StepState& step, int tile, int) const {
    for_rows(tile, num_rows(step), [&](int r) {
        float* row = model.buffers[size_t(source)].row(r);
        const float mean = mean_of(row, cols);
        const float least = mean + deviations * std::sqrt(mean_square(row, mean, cols));
        for (int i = 0; i < cols; i += kLanes)
            for (int l = 0; l < kLanes; l++) row[i + l] = std::max(row[i + l] - least, 0.0f);
    });
}

}  // namespace llm
