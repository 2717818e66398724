// Gated DeltaNet and gates of attention, from Python.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <stdexcept>

#include "delta_operations.hpp"

namespace nb = nanobind;
using namespace llm;

namespace {

void require(bool fits, const char* message) {
    if (!fits) throw std::invalid_argument(message);
}

int width_of(const Plan& plan, int buffer) { return plan.model.buffers.at(size_t(buffer)).width; }

size_t size_of(const Plan& plan, int vector) { return plan.model.vectors.at(size_t(vector)).size(); }

DeltaHeads checked(const Plan& plan, int source, int keys, int values, int key_dim, int value_dim, bool tiled) {
    const auto is_size = [](int n, int step) { return n > 0 && n <= 1 << 16 && n % step == 0; };
    require(is_size(keys, 1) && is_size(values, keys), "there must be a whole number of value heads for each key head");
    require(is_size(key_dim, kDeltaColumns) && key_dim <= kMostDeltaDim && value_dim <= kMostDeltaDim &&
                (value_dim == kDeltaColumns || is_size(value_dim, 2 * kDeltaColumns)),
            "heads of a delta rule must have 16 dimensions, or a multiple of 32 up to 512");
    const DeltaHeads heads{keys, values, key_dim, value_dim, tiled};
    require(int64_t(values) * value_dim + int64_t(keys) * key_dim <= 1 << 20 && heads.width() == width_of(plan, source),
            "the heads of a delta rule do not fit the buffer");
    return heads;
}

}  // namespace

void bind_delta(nb::class_<Plan>& plan) {
    plan.def("delta_inputs", [](Plan& p, int source, int keys, int values, int key_dim, int value_dim, int taps, int rates, int bias) {
            auto op = std::make_unique<DeltaInputs>();
            op->heads = checked(p, source, keys, values, key_dim, value_dim, false);
            op->source = source;
            require(size_of(p, taps) == size_t(kTaps * op->heads.channels()), "the convolution must have 4 taps for each channel");
            require(size_of(p, rates) == size_t(values) && size_of(p, bias) == size_t(values), "each value head needs a decay and its bias");
            op->taps = taps;
            op->rates = rates;
            op->bias = bias;
            op->state = p.model.recurrent.take(size_t(kTaps - 1) * op->heads.channels());
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("keys"), nb::arg("values"), nb::arg("key_dim"), nb::arg("value_dim"), nb::arg("taps"), nb::arg("rates"), nb::arg("bias"))
        .def("delta_rule", [](Plan& p, int source, int target, int keys, int values, int key_dim, int value_dim, bool tiled) {
            auto op = std::make_unique<DeltaRule>();
            op->heads = checked(p, source, keys, values, key_dim, value_dim, tiled);
            require(width_of(p, target) == values * value_dim, "the values of a delta rule do not fit the buffer");
            op->source = source;
            op->target = target;
            op->state = p.model.recurrent.take(size_t(values) * key_dim * value_dim);
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("target"), nb::arg("keys"), nb::arg("values"), nb::arg("key_dim"), nb::arg("value_dim"), nb::arg("tiled") = false)
        .def("output_gate", [](Plan& p, int source, int gates, int offset, const std::string& activation, int weight, float epsilon, int head_dim, bool gate_first) {
            const int width = width_of(p, source);
            require(offset >= 0 && int64_t(offset) + width <= width_of(p, gates), "the gates do not fit their buffer");
            auto op = std::make_unique<OutputGate>();
            op->head_dim = head_dim ? head_dim : width;
            require(width % 8 == 0 && op->head_dim > 0 && op->head_dim % 8 == 0 && width % op->head_dim == 0, "the norm of heads does not fit them");
            require(weight < 0 || size_of(p, weight) == size_t(op->head_dim) || size_of(p, weight) == size_t(width),
                    "the norm of heads does not fit them");
            op->source = source;
            op->gates = gates;
            op->offset = offset;
            const bool is_silu = activation == "silu", is_relu = activation == "relu2";
            require(is_silu || is_relu || activation == "sigmoid", "gates are opened by sigmoid, silu or relu2");
            op->act = is_silu ? OutputAct::silu : is_relu ? OutputAct::squared_relu : OutputAct::sigmoid;
            op->gate_first = gate_first;
            op->weight = weight;
            op->epsilon = epsilon;
            p.add(std::move(op), width);
        }, nb::arg("source"), nb::arg("gates"), nb::arg("offset") = 0, nb::arg("activation") = "sigmoid", nb::arg("weight") = -1, nb::arg("epsilon") = 0.0f,
           nb::arg("head_dim") = 0, nb::arg("gate_first") = false);
}
