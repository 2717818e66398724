// Attention and what prepares it, from Python.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "operations.hpp"

namespace nb = nanobind;
using namespace llm;

namespace {

void check_bias(const Plan& p, int bias, int rows) {
    if (bias >= 0 && p.model.vectors.at(size_t(bias)).size() != size_t(rows) * bias_floats(p.model))
        throw std::invalid_argument("the attention bias does not cover all distances");
}

}  // namespace

void bind_attention(nb::class_<Plan>& plan) {
    plan
        .def("encoder_attention", [](Plan& p, int source, int target, int heads, int kv_heads, float scale, bool causal, int bias, bool bias_per_head, bool whole) {
            check_bias(p, bias, bias_per_head ? heads : 1);
            auto op = std::make_unique<EncoderAttention>();
            op->source = source;
            op->target = target;
            op->heads = heads;
            op->kv_heads = kv_heads;
            op->scale = scale;
            op->causal = causal;
            op->bias = bias;
            op->bias_per_head = bias_per_head;
            op->whole = whole;
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("target"), nb::arg("heads"), nb::arg("kv_heads"), nb::arg("scale"), nb::arg("causal") = false, nb::arg("bias") = -1, nb::arg("bias_per_head") = false, nb::arg("whole") = false)
        .def("head_norm", [](Plan& p, int source, int offset, int heads, int weight, float epsilon, int bias) {
            const size_t size = p.model.vectors.at(size_t(weight)).size(), width = size_t(p.model.buffers.at(size_t(source)).width);
            const bool fits = offset >= 0 && heads > 0 && size_t(offset) + size_t(heads) * size <= width;
            if (!fits || (bias >= 0 && p.model.vectors.at(size_t(bias)).size() != size))
                throw std::invalid_argument("the norm of heads does not fit them");
            auto op = std::make_unique<HeadNorm>();
            op->source = source;
            op->offset = offset;
            op->heads = heads;
            op->weight = weight;
            op->epsilon = epsilon;
            op->bias = bias;
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("offset"), nb::arg("heads"), nb::arg("weight"), nb::arg("epsilon"), nb::arg("bias") = -1)
        .def("rotate", [](Plan& p, int source, int heads, int head_dim, int rotated, int table, const std::vector<int>& axes, int first, int stride) {
            if (first < 0 || stride <= 0) throw std::invalid_argument("there are no such heads");
            if (rotated <= 0 || rotated > head_dim || head_dim > kMostHeadDim || p.model.vectors.at(size_t(table)).size() < size_t(rotated))
                throw std::invalid_argument("the rotation table is empty");
            auto op = std::make_unique<Rotate>();
            op->source = source;
            op->heads = heads;
            op->head_dim = head_dim;
            op->rotated = rotated;
            op->table = table;
            op->axes = p.axes_of(axes, rotated);
            op->first = first;
            op->stride = stride;
            if (!axes.empty() && p.model.vectors.at(size_t(table)).size() < size_t(p.model.max_context) * size_t(rotated))
                throw std::invalid_argument("the rotation table is shorter than the context");
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("heads"), nb::arg("head_dim"), nb::arg("rotated"), nb::arg("table"), nb::arg("axes") = std::vector<int>(), nb::arg("first") = 0, nb::arg("stride") = 1)
        .def("rope_store", [](Plan& p, int source, int layer, int query_heads, int table, int rotated, bool keys_are_values, const std::vector<int>& axes, int shared) {
            if (table >= 0 && (rotated <= 0 || p.model.vectors.at(size_t(table)).size() < size_t(p.model.max_context) * size_t(rotated)))
                throw std::invalid_argument("the rotation table is shorter than the context");
            if (p.selects_rows()) throw std::invalid_argument("keys and values are those of all tokens");
            if (shared >= 0 && keys_are_values) throw std::invalid_argument("keys that are values too have nothing that can be left out");
            if (shared >= 0) p.model.vectors.at(size_t(shared));
            auto op = std::make_unique<RopeStore>();
            op->table = table;
            op->rotated = rotated;
            op->source = source;
            op->layer = layer;
            op->query_heads = query_heads;
            op->keys_are_values = keys_are_values;
            op->axes = p.axes_of(axes, rotated);
            op->shared = shared;
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("layer"), nb::arg("query_heads"), nb::arg("table") = -1, nb::arg("rotated") = 0, nb::arg("keys_are_values") = false, nb::arg("axes") = std::vector<int>(), nb::arg("shared") = -1)
        .def("attention", [](Plan& p, int source, int target, int layer, int query_heads, float scale, int window, int bias, float cap, int sinks, bool ahead, int chunk, bool bias_per_head) {
            if (window > 0 && bias < 0) throw std::invalid_argument("a window needs what is added by distance");
            check_bias(p, bias, bias_per_head ? query_heads : 1);
            if (sinks >= 0 && p.model.vectors.at(size_t(sinks)).size() != size_t(query_heads))
                throw std::invalid_argument("there must be a sink for each query head");
            if (chunk < 0 || chunk % kPieceTokens || (chunk && window) || (chunk && p.model.attention_chunk && p.model.attention_chunk != chunk))
                throw std::invalid_argument("chunks of attention are all as long, a multiple of " + std::to_string(kPieceTokens) + " tokens, and have no windows");
            if (chunk) p.model.attention_chunk = chunk;
            auto op = std::make_unique<AttentionOperation>();
            op->chunk = chunk;
            op->source = source;
            op->target = target;
            op->layer = layer;
            p.model.attends_rows |= p.selects_rows();
            op->query_heads = p.model.query_heads = query_heads;
            op->scale = scale;
            op->window = window;
            op->bias = bias;
            op->cap = cap;
            op->sinks = sinks;
            op->ahead = ahead;
            op->bias_per_head = bias_per_head;
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("target"), nb::arg("layer"), nb::arg("query_heads"), nb::arg("scale"), nb::arg("window") = 0, nb::arg("bias") = -1, nb::arg("cap") = 0.0f, nb::arg("sinks") = -1, nb::arg("ahead") = true, nb::arg("chunk") = 0, nb::arg("bias_per_head") = false);
}
