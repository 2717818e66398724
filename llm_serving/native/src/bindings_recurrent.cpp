// Recurrent layers, from Python.
#include <nanobind/nanobind.h>

#include <stdexcept>

#include "gated_conv.hpp"

namespace nb = nanobind;
using namespace llm;

void bind_recurrent(nb::class_<Plan>& plan) {
    plan.def("states", [](Plan& p, int slots) { p.model.recurrent.allocate(slots); }, nb::arg("slots"));
    plan.def_prop_ro("state_floats", [](const Plan& p) { return p.model.recurrent.floats; });
    plan.def("gated_conv", [](Plan& p, int source, int target, int weight, int taps) {
        auto op = std::make_unique<GatedConv>();
        op->source = source;
        op->target = target;
        op->weight = weight;
        op->taps = taps;
        op->cols = p.model.buffers.at(size_t(target)).width;
        const bool fits = taps > 1 && taps <= kMostTaps && op->cols % 8 == 0 && p.model.buffers.at(size_t(source)).width == 3 * op->cols &&
                          p.model.vectors.at(size_t(weight)).size() == size_t(taps) * size_t(op->cols);
        if (!fits) throw std::invalid_argument("a short convolution does not fit its buffers, or sees other than 2 to 8 tokens");
        op->state = p.model.recurrent.take(size_t(taps - 1) * size_t(op->cols));
        p.add(std::move(op));
    }, nb::arg("source"), nb::arg("target"), nb::arg("weight"), nb::arg("taps"));
}
