// A mixture of experts, from Python.
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "experts.hpp"

namespace nb = nanobind;
using namespace llm;

namespace {

int width_of(const Plan& plan, int buffer) { return plan.model.buffers.at(size_t(buffer)).width; }

void require_same_width(const Plan& plan, int source, int target) {
    if (width_of(plan, source) != width_of(plan, target)) throw std::invalid_argument("the buffers differ in width");
}

void require_bias(const Plan& plan, int source, int bias) {
    if (bias >= 0 && plan.model.vectors.at(size_t(bias)).size() != size_t(width_of(plan, source)))
        throw std::invalid_argument("the bias does not fit the buffer");
}

using Projections = std::vector<std::tuple<int, int, int, int>>;  // (matrix, bias, target, offset)

ExpertLinear* new_expert_linear(Plan& plan, const std::vector<Projections>& experts) {
    auto op = std::make_unique<ExpertLinear>();
    for (const Projections& own : experts) {
        std::vector<Projection> projections;
        int panels = 0;
        for (const auto& [matrix, bias, target, offset] : own) {
            const PackedMatrix& m = plan.model.matrices.at(size_t(matrix));
            plan.read_activations(m);
            if (!plan.model.buffers.at(size_t(target)).of_slots) throw std::invalid_argument("experts write to slots");
            projections.push_back({matrix, bias, target, offset});
            panels += m.panels();
        }
        if (!op->experts.empty() && panels != op->total_panels) throw std::invalid_argument("the experts differ in size");
        op->total_panels = panels;
        op->experts.push_back(std::move(projections));
    }
    if (!op->total_panels || int(experts.size()) != plan.model.experts)
        throw std::invalid_argument("there must be as many experts as the route knows");
    return op.release();
}

}  // namespace

void bind_experts(nb::class_<Plan>& plan) {
    plan.def("route", [](Plan& p, int source, int used, bool normalized) {
            const int experts = width_of(p, source);
            if (used < 1 || used > experts) throw std::invalid_argument("so many experts cannot be used");
            if (p.model.experts_used && p.model.experts_used != used)
                throw std::invalid_argument("all layers must use as many experts");
            p.model.experts_used = used;
            p.model.experts = experts;
            auto route = std::make_unique<Route>();
            route->source = source;
            route->normalized = normalized;
            p.add(std::move(route));
            auto arrange = std::make_unique<Arrange>();
            arrange->experts = experts;
            p.add(std::move(arrange));
        }, nb::arg("source"), nb::arg("used"), nb::arg("normalized") = false)
        .def("gather", [](Plan& p, int source) {
            auto op = std::make_unique<Gather>();
            op->source = source;
            p.add(std::move(op), width_of(p, source), true);
        }, nb::arg("source"))
        .def("expert_linear", [](Plan& p, const std::vector<Projections>& experts) {
            p.add(std::unique_ptr<Operation>(new_expert_linear(p, experts)), 0, true);
        }, nb::arg("experts"))
        .def("combine", [](Plan& p, int source, int target, int bias) {
            require_same_width(p, source, target);
            require_bias(p, source, bias);
            auto op = std::make_unique<Combine>();
            op->source = source;
            op->target = target;
            op->bias = bias;
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("target"), nb::arg("bias") = -1)
        .def("copy", [](Plan& p, int source, int target, int bias, bool accumulate, int gate) {
            require_same_width(p, source, target);
            require_bias(p, source, bias);
            if (gate >= 0 && width_of(p, gate) != 1) throw std::invalid_argument("a gate of rows is one number each");
            auto op = std::make_unique<Copy>();
            op->gate = gate;
            op->source = source;
            op->target = target;
            op->bias = bias;
            op->accumulate = accumulate;
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("target"), nb::arg("bias") = -1, nb::arg("accumulate") = false, nb::arg("gate") = -1);
}
