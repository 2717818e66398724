// Low-rank adapters, from Python.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "adapters.hpp"

namespace nb = nanobind;
using namespace llm;

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OfAdapter = std::vector<std::tuple<int, int, int, int>>;  // (down, up, target, offset)

void bind_adapters(nb::class_<Plan>& plan) {
    plan.def("low_rank", [](Plan& p, Matrix m) { return p.low_rank(m.data(), int(m.shape(0)), int(m.shape(1))); }, nb::arg("matrix"))
        .def("adapt", [](Plan& p, const std::vector<OfAdapter>& adapters) {
            std::vector<std::vector<LowRank>> all;
            for (const OfAdapter& own : adapters) {
                all.emplace_back();
                for (const auto& [down, up, target, offset] : own) all.back().push_back({down, up, target, offset});
            }
            add_adapters(p, std::move(all));
        }, nb::arg("adapters"));
}
