// A mixture of experts, from Python.
#include <nanobind/nanobind.h>

#include <stdexcept>

#include "experts.hpp"

namespace nb = nanobind;
using namespace llm;

namespace {

int width_of(const Plan& plan, int buffer) { return plan.model.buffers.at(size_t(buffer)).width; }

void require_same_width(const Plan& plan, int source, int target) {
    if (width_of(plan, source) != width_of(plan, target)) throw std::invalid_argument("the buffers differ in width");
}

}  // namespace

void bind_experts(nb::class_<Plan>& plan) {
    plan.def("for_expert", &Plan::for_expert, nb::arg("expert"))
        .def("route", [](Plan& p, int source, int used) {
            if (used < 1 || used > width_of(p, source)) throw std::invalid_argument("so many experts cannot be used");
            auto op = std::make_unique<Route>();
            op->source = source;
            op->used = used;
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("used"))
        .def("gather", [](Plan& p, int source) {
            auto op = std::make_unique<Gather>();
            op->source = source;
            p.add(std::move(op), width_of(p, source));
        }, nb::arg("source"))
        .def("scatter", [](Plan& p, int source, int target) {
            require_same_width(p, source, target);
            auto op = std::make_unique<Scatter>();
            op->source = source;
            op->target = target;
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("target"))
        .def("copy", [](Plan& p, int source, int target, int bias, bool accumulate) {
            require_same_width(p, source, target);
            if (bias >= 0 && p.model.vectors.at(size_t(bias)).size() != size_t(width_of(p, source)))
                throw std::invalid_argument("the bias does not fit the buffer");
            auto op = std::make_unique<Copy>();
            op->source = source;
            op->target = target;
            op->bias = bias;
            op->accumulate = accumulate;
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("target"), nb::arg("bias") = -1, nb::arg("accumulate") = false);
}
