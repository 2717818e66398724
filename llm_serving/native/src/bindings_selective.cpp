// Mamba's first version, from Python.
#include <nanobind/nanobind.h>

#include <stdexcept>

#include "selective_operations.hpp"

namespace nb = nanobind;
using namespace llm;

namespace {

void require(bool fits, const char* message) {
    if (!fits) throw std::invalid_argument(message);
}

size_t width_of(const Plan& plan, int buffer) { return size_t(plan.model.buffers.at(size_t(buffer)).width); }

size_t size_of(const Plan& plan, int vector) { return plan.model.vectors.at(size_t(vector)).size(); }

}  // namespace

void bind_selective(nb::class_<Plan>& plan) {
    plan.def("short_conv", [](Plan& p, int source, int taps, int bias) {
            const size_t channels = width_of(p, source);
            require(channels % 8 == 0, "a convolution must have a multiple of 8 channels");
            require(size_of(p, taps) == kTaps * channels, "the convolution must have 4 taps for each channel");
            require(bias < 0 || size_of(p, bias) == channels, "the convolution must have a bias for each channel, or none");
            auto op = std::make_unique<ShortConv>();
            op->source = source;
            op->taps = taps;
            op->bias = bias;
            op->state = p.model.recurrent.take(size_t(kTaps - 1) * channels);
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("taps"), nb::arg("bias"))
        .def("selective_scan", [](Plan& p, int source, int steps, int both, int target, int rows, int rates, int skips) {
            const size_t channels = width_of(p, source);
            require(rows > 0 && rows <= kMostSelectiveState, "states of a selective scan must have 1 to 512 numbers a channel");
            require(channels % 8 == 0 && width_of(p, steps) == channels && width_of(p, target) == channels && width_of(p, both) == 2 * size_t(rows),
                    "the selective scan does not fit its buffers");
            require(size_of(p, rates) == size_t(rows) * channels && size_of(p, skips) == channels, "each channel needs its rates and a skip");
            auto op = std::make_unique<SelectiveScan>();
            op->source = source;
            op->steps = steps;
            op->both = both;
            op->target = target;
            op->rows = rows;
            op->rates = rates;
            op->skips = skips;
            op->state = p.model.recurrent.take(size_t(rows) * channels);
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("steps"), nb::arg("both"), nb::arg("target"), nb::arg("rows"), nb::arg("rates"), nb::arg("skips"));
}
