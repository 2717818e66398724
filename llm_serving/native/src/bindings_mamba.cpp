// Mamba-2, from Python.
#include <nanobind/nanobind.h>

#include <stdexcept>

#include "mamba_operations.hpp"

namespace nb = nanobind;
using namespace llm;

namespace {

void require(bool fits, const char* message) {
    if (!fits) throw std::invalid_argument(message);
}

int width_of(const Plan& plan, int buffer) { return plan.model.buffers.at(size_t(buffer)).width; }

size_t size_of(const Plan& plan, int vector) { return plan.model.vectors.at(size_t(vector)).size(); }

MambaHeads checked(const Plan& plan, int source, int count, int dim, int groups, int state) {
    const auto is_size = [](int n, int step, int most) { return n > 0 && n <= most && n % step == 0; };
    require(is_size(groups, 1, 1 << 12) && is_size(count, groups, 1 << 12), "there must be a whole number of Mamba heads for each group");
    require(is_size(dim, kMambaColumns, kMostMambaDim) && is_size(state, 8, kMostMambaDim),
            "Mamba heads must have a multiple of 16 dimensions and states of a multiple of 8, up to 512");
    const MambaHeads heads{count, dim, groups, state};
    require(heads.width() == width_of(plan, source), "the heads of Mamba do not fit the buffer");
    return heads;
}

}  // namespace

void bind_mamba(nb::class_<Plan>& plan) {
    plan.def("mamba_inputs", [](Plan& p, int source, int count, int dim, int groups, int state, int taps, int conv_bias, int bias) {
            auto op = std::make_unique<MambaInputs>();
            op->heads = checked(p, source, count, dim, groups, state);
            op->source = source;
            const size_t channels = size_t(op->heads.channels());
            require(size_of(p, taps) == kTaps * channels, "the convolution must have 4 taps for each channel");
            require(conv_bias < 0 || size_of(p, conv_bias) == channels, "the convolution must have a bias for each channel, or none");
            require(size_of(p, bias) == size_t(count), "each Mamba head needs a bias of its step");
            op->taps = taps;
            op->conv_bias = conv_bias;
            op->bias = bias;
            op->state = p.model.recurrent.take(size_t(kTaps - 1) * channels);
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("count"), nb::arg("dim"), nb::arg("groups"), nb::arg("state"), nb::arg("taps"), nb::arg("conv_bias"), nb::arg("bias"))
        .def("mamba_scan", [](Plan& p, int source, int target, int count, int dim, int groups, int state, int rates, int skips) {
            auto op = std::make_unique<MambaScan>();
            op->heads = checked(p, source, count, dim, groups, state);
            require(width_of(p, target) == op->heads.inner(), "what Mamba finds does not fit the buffer");
            require(size_of(p, rates) == size_t(count) && size_of(p, skips) == size_t(count), "each Mamba head needs a rate and a skip");
            op->source = source;
            op->target = target;
            op->rates = rates;
            op->skips = skips;
            op->state = p.model.recurrent.take(size_t(op->heads.inner()) * state);
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("target"), nb::arg("count"), nb::arg("dim"), nb::arg("groups"), nb::arg("state"), nb::arg("rates"), nb::arg("skips"));
}
