// DeBERTa's attention, from Python.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>

#include "disentangled.hpp"

namespace nb = nanobind;
using namespace llm;

void bind_disentangled(nb::class_<Plan>& plan) {
    plan.def("disentangled_attention", [](Plan& p, int source, int target, int heads, float scale, const std::vector<int>& position_keys,
                                          const std::vector<int>& position_queries, int positions, const std::vector<int>& at) {
        const auto require = [](bool fits, const char* message) {
            if (!fits) throw std::invalid_argument(message);
        };
        const int width = p.model.buffers.at(size_t(target)).width;
        require(heads > 0 && width % heads == 0 && width / heads % 8 == 0 && width / heads <= kMostHeadDim, "a head has a multiple of 8 numbers");
        require(p.model.buffers.at(size_t(source)).width == 3 * width, "queries, keys and values are as wide as what comes out");
        for (const auto* of : {&position_keys, &position_queries}) {
            require(of->empty() || of->size() == size_t(heads), "each head has positions of its own");
            for (int matrix : *of) {
                const PackedMatrix& own = p.model.low_ranks.at(size_t(matrix));
                require(own.rows == positions && own.cols == width / heads, "positions are as wide as a head");
            }
        }
        const bool fits = at.size() == 2 * size_t(p.model.max_context) - 1 && std::is_sorted(at.begin(), at.end());
        require(fits && at.front() >= 0 && at.back() < positions, "each distance needs one of the positions, in their order");
        auto op = std::make_unique<DisentangledAttention>();
        op->source = source;
        op->target = target;
        op->heads = heads;
        op->scale = scale;
        op->position_keys = position_keys;
        op->position_queries = position_queries;
        op->positions = positions;
        op->at = at;
        p.add(std::move(op));
    }, nb::arg("source"), nb::arg("target"), nb::arg("heads"), nb::arg("scale"), nb::arg("position_keys"), nb::arg("position_queries"), nb::arg("positions"), nb::arg("at"));
}
