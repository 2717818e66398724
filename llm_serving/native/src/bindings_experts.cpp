// A mixture of experts, from Python.
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>

#include "experts.hpp"

namespace nb = nanobind;
using namespace llm;

namespace {

int width_of(const Plan& plan, int buffer) { return plan.model.buffers.at(size_t(buffer)).width; }

void require_same_width(const Plan& plan, int source, int target) {
    if (width_of(plan, source) != width_of(plan, target)) throw std::invalid_argument("the buffers differ in width");
}

// None, or a vector of that size.
void require_vector(const Plan& plan, int vector, size_t size) {
    if (vector >= 0 && plan.model.vectors.at(size_t(vector)).size() != size)
        throw std::invalid_argument("a vector does not fit the buffer");
}

// Groups of experts as large as one another, enough of which are used, and large enough.
void require_groups(int experts, int used, int groups, int groups_used, int group_best) {
    const bool fits = groups >= 1 && groups <= 64 && experts % groups == 0 && groups_used >= 1 && groups_used <= groups;
    if (!fits || group_best < 1 || group_best > 64 || group_best > experts / groups || used > groups_used * (experts / groups))
        throw std::invalid_argument("the groups of experts do not fit them");
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
    plan.def("route", [](Plan& p, int source, int used, bool normalized, bool sigmoid, int correction, float scale, int scales, int groups, int groups_used, int group_best, float margin) {
            const int experts = width_of(p, source);
            require_vector(p, scales, size_t(experts));
            if (used < 1 || used > experts) throw std::invalid_argument("so many experts cannot be used");
            if (p.model.experts_used && p.model.experts_used != used)
                throw std::invalid_argument("all layers must use as many experts");
            require_vector(p, correction, size_t(experts));
            require_groups(experts, used, groups, groups_used, group_best);
            if (margin < 0 || (margin > 0 && (sigmoid || normalized || correction >= 0 || scales >= 0 || groups > 1)))
                throw std::invalid_argument("a margin is not negative, and for softmax alone");
            p.model.experts_used = used;
            p.model.experts = experts;
            auto route = std::make_unique<Route>();
            route->source = source;
            route->normalized = normalized;
            route->scales = scales;
            route->sigmoid = sigmoid;
            route->correction = correction;
            route->scale = scale;
            route->margin = margin;
            route->groups = groups;
            route->groups_used = groups_used;
            route->group_best = group_best;
            p.add(std::move(route));
            auto arrange = std::make_unique<Arrange>();
            arrange->experts = experts;
            p.add(std::move(arrange));
        }, nb::arg("source"), nb::arg("used"), nb::arg("normalized") = false, nb::arg("sigmoid") = false, nb::arg("correction") = -1, nb::arg("scale") = 1.0f, nb::arg("scales") = -1, nb::arg("groups") = 1, nb::arg("groups_used") = 1, nb::arg("group_best") = 1, nb::arg("margin") = 0.0f)
        .def("gather", [](Plan& p, int source, bool weighted) {
            auto op = std::make_unique<Gather>();
            op->source = source;
            op->weighted = weighted;
            p.add(std::move(op), width_of(p, source), true);
        }, nb::arg("source"), nb::arg("weighted") = false)
        .def("expert_linear", [](Plan& p, const std::vector<Projections>& experts) {
            p.add(std::unique_ptr<Operation>(new_expert_linear(p, experts)), 0, true);
        }, nb::arg("experts"))
        .def("combine", [](Plan& p, int source, int target, int bias, bool accumulate, bool weighted) {
            require_same_width(p, source, target);
            require_vector(p, bias, size_t(width_of(p, source)));
            auto op = std::make_unique<Combine>();
            op->source = source;
            op->target = target;
            op->bias = bias;
            op->accumulate = accumulate;
            op->weighted = weighted;
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("target"), nb::arg("bias") = -1, nb::arg("accumulate") = true, nb::arg("weighted") = true)
        .def("copy", [](Plan& p, int source, int target, int bias, bool accumulate, int door, int scale, int offset) {
            if (door >= 0 && width_of(p, door) != 1) throw std::invalid_argument("a door is one number a row");
            if (offset < 0) require_same_width(p, source, target);
            if (offset >= 0 && offset > width_of(p, target) - width_of(p, source)) throw std::invalid_argument("a copy ends behind its target");
            require_vector(p, bias, size_t(width_of(p, source)));
            if (scale >= 0 && p.model.vectors.at(size_t(scale)).size() != 1) require_vector(p, scale, size_t(width_of(p, source)));
            auto op = std::make_unique<Copy>();
            op->source = source;
            op->target = target;
            op->bias = bias;
            op->accumulate = accumulate;
            op->door = door;
            op->scale = scale;
            op->offset = std::max(offset, 0);
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("target"), nb::arg("bias") = -1, nb::arg("accumulate") = false, nb::arg("door") = -1, nb::arg("scale") = -1, nb::arg("offset") = -1);
}
