// AltUp, and what Gemma 3n has beside it, from Python.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <stdexcept>

#include "altup.hpp"
#include "numeric.hpp"

namespace nb = nanobind;
using namespace llm;

namespace {

void require(bool fits, const char* message) {
    if (!fits) throw std::invalid_argument(message);
}

int width_of(const Plan& plan, int buffer) { return plan.model.buffers.at(size_t(buffer)).width; }

// `mixes` is how many sums of streams there are for each of them.
void require_streams(const Plan& plan, const std::vector<int>& streams, int router, int weights, size_t mixes) {
    require(streams.size() > 1 && streams.size() <= size_t(kMostStreams), "AltUp takes 2 to 8 streams");
    const int width = width_of(plan, streams[0]);
    for (const int stream : streams) require(width_of(plan, stream) == width && width % kLanes == 0, "streams are equally wide, a multiple of 8");
    require(width_of(plan, router) == int(streams.size()), "the router of AltUp has one number for each stream");
    require(plan.model.vectors.at(size_t(weights)).size() == mixes * streams.size(), "the coefficients of AltUp do not fit its streams");
}

}  // namespace

void bind_altup(nb::class_<Plan>& plan) {
    plan.def("altup_predict", [](Plan& p, const std::vector<int>& streams, int router, int weights) {
            require_streams(p, streams, router, weights, streams.size() * streams.size());
            auto op = std::make_unique<AltUpPredict>();
            op->streams = streams;
            op->router = router;
            op->weights = weights;
            p.add(std::move(op));
        }, nb::arg("streams"), nb::arg("router"), nb::arg("weights"))
        .def("altup_correct", [](Plan& p, const std::vector<int>& streams, int source, int router, int weights) {
            require_streams(p, streams, router, weights, streams.size());
            require(width_of(p, source) == width_of(p, streams[0]), "what corrects streams is as wide as they are");
            auto op = std::make_unique<AltUpCorrect>();
            op->streams = streams;
            op->source = source;
            op->router = router;
            op->weights = weights;
            p.add(std::move(op));
        }, nb::arg("streams"), nb::arg("source"), nb::arg("router"), nb::arg("weights"))
        .def("match_magnitude", [](Plan& p, int source, int like, float least) {
            require(width_of(p, source) % kLanes == 0 && width_of(p, like) % kLanes == 0, "magnitudes are of a multiple of 8 numbers");
            require(least > 0, "the least mean of squares must be positive");
            auto op = std::make_unique<MatchMagnitude>();
            op->source = source;
            op->like = like;
            op->least = least;
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("like"), nb::arg("least"))
        .def("gaussian_top_k", [](Plan& p, int source, int cols, float deviations) {
            require(cols > 0 && cols % kLanes == 0 && cols <= width_of(p, source), "the buffer has no such columns, a multiple of 8");
            require(std::isfinite(deviations), "the cut must be a finite number of deviations from the mean");
            auto op = std::make_unique<GaussianTopK>();
            op->source = source;
            op->cols = cols;
            op->deviations = deviations;
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("cols"), nb::arg("deviations"));
}
