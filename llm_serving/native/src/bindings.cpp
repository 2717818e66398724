// The Python face of the core: one class, plain arrays in and out.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "operations.hpp"
#include "quantize.hpp"

namespace nb = nanobind;
using namespace llm;

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Room = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using IdTable = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Logits = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

int pack(Plan& plan, const std::string& kind, Bytes data, int rows, int cols, const std::string& format, nb::object permutation) {
    Ids ids;
    if (!permutation.is_none()) {
        ids = nb::cast<Ids>(permutation);
        if (ids.shape(0) != size_t(rows)) throw std::invalid_argument("the row permutation has the wrong length");
    }
    nb::gil_scoped_release release;
    return plan.pack(kind, data.data(), data.size(), rows, cols, format, ids.is_valid() ? ids.data() : nullptr);
}

// `firsts`: empty, or of each projection the column of the activations that it begins at.
void add_linear(Plan& plan, const std::vector<std::tuple<int, int, int, int>>& projections, bool accumulate, const std::vector<int>& firsts) {
    if (!firsts.empty() && firsts.size() != projections.size()) throw std::invalid_argument("each projection begins at a column");
    auto linear = std::make_unique<Linear>();
    linear->accumulate = accumulate;
    for (size_t i = 0; i < projections.size(); i++) {
        const auto& [matrix, bias, target, offset] = projections[i];
        const PackedMatrix& weights = plan.model.matrices.at(size_t(matrix));
        if (!firsts.empty() && firsts[i] < 0) throw std::invalid_argument("columns are counted from 0 on");
        const int cols = plan.read_activations(weights, firsts.empty() ? -1 : firsts[i]);
        linear->projections.push_back({matrix, bias, target, offset, firsts.empty() ? 0 : firsts[i], cols});
        linear->total_panels += weights.panels();
    }
    plan.add(std::move(linear));
}

Logits run(Plan& plan, Ids token_ids, Ids positions, Ids query_starts, IdTable block_tables, Ids logit_rows, int output,
           std::optional<Table> given, std::optional<Ids> given_rows, std::optional<Ids> seen, std::optional<Ids> adapters,
           std::optional<IdTable> segments, std::optional<IdTable> rotary) {
    if (segments && segments->shape(1) != 3) throw std::invalid_argument("a state segment is an end, a source and a target");
    if (rotary && (rotary->shape(0) != token_ids.size() || rotary->shape(1) != 3))
        throw std::invalid_argument("each token has three rotary positions");
    if (given.has_value() != given_rows.has_value() || (given && given->shape(0) != given_rows->size()))
        throw std::invalid_argument("given rows and their places do not fit together");
    if (positions.size() != token_ids.size() || (seen && seen->size() != token_ids.size()) ||
        query_starts.size() != block_tables.shape(0) + 1 || (adapters && adapters->size() != block_tables.shape(0)))
        throw std::invalid_argument("the arrays of a step do not fit together");
    const StepInput input{token_ids.data(), positions.data(), int(token_ids.size()), query_starts.data(),
                          int(block_tables.shape(0)), block_tables.data(), int(block_tables.shape(1)),
                          logit_rows.data(), int(logit_rows.size()),
                          given ? given->data() : nullptr, given ? given_rows->data() : nullptr,
                          given ? int(given->shape(0)) : 0, given ? int(given->shape(1)) : 0,
                          seen ? seen->data() : nullptr, adapters ? adapters->data() : nullptr,
                          segments ? segments->data() : nullptr, segments ? int(segments->shape(0)) : 0,
                          rotary ? rotary->data() : nullptr};
    const float* logits;
    {
        nb::gil_scoped_release release;
        logits = plan.run(input, output);
    }
    const size_t rows = plan.selects_rows() ? logit_rows.size() : token_ids.size();
    const size_t shape[2] = {rows, size_t(plan.model.buffers.at(size_t(output)).width)};
    return Logits(const_cast<float*>(logits), 2, shape, nb::find(plan));
}

int adopt(Plan& plan, const std::string& format, Bytes panels, int rows, int cols, bool copy) {
    nb::gil_scoped_release release;
    return plan.adopt(format, panels.data(), panels.size(), rows, cols, copy);
}

nb::tuple panels(Plan& plan, int matrix) {
    const PackedMatrix& m = plan.model.matrices.at(size_t(matrix));
    const size_t shape[1] = {m.bytes()};
    nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>> bytes(m.data, 1, shape, nb::find(plan));
    return nb::make_tuple(std::string(format_name(m.format)), bytes);
}

uint64_t checksum(Plan& plan, Bytes bytes) {
    nb::gil_scoped_release release;
    return plan.checksum(bytes.data(), bytes.size());
}

// By itself for tests; plans share the process's.
void bind_turns(nb::module_& m) {
    using Release = nb::call_guard<nb::gil_scoped_release>;
    nb::enum_<Side>(m, "Side").value("CHAT", Side::chat).value("ENCODERS", Side::encoders);
    nb::class_<Turns>(m, "Turns").def(nb::init<double, double>(), nb::arg("slice"), nb::arg("share"));
    nb::class_<Turn>(m, "Turn")
        .def(nb::init<Turns&, Side>(), nb::arg("turns"), nb::arg("side"), nb::keep_alive<1, 2>(), Release())
        .def("pass_", &Turn::pass, Release())
        .def("leave", &Turn::leave, Release());
}

}  // namespace

void bind_adapters(nb::class_<Plan>& plan);  // bindings_adapters.cpp
void bind_altup(nb::class_<Plan>& plan);  // bindings_altup.cpp
void bind_attention(nb::class_<Plan>& plan);  // bindings_attention.cpp
void bind_delta(nb::class_<Plan>& plan);  // bindings_delta.cpp
void bind_disentangled(nb::class_<Plan>& plan);  // bindings_disentangled.cpp
void bind_experts(nb::class_<Plan>& plan);  // bindings_experts.cpp
void bind_lookup(nb::class_<Plan>& plan);  // lookup.cpp
void bind_mamba(nb::class_<Plan>& plan);  // bindings_mamba.cpp
void bind_measure(nb::module_& m);  // bindings_measure.cpp
void bind_recurrent(nb::class_<Plan>& plan);  // bindings_recurrent.cpp
void bind_selective(nb::class_<Plan>& plan);  // bindings_selective.cpp
void bind_sampler(nb::module_& m);  // bindings_sample.cpp

NB_MODULE(_llm_serving_native, m) {
    m.attr("ABI") = 37;
    m.attr("PACKING") = kPacking;
    m.attr("ARITHMETIC") = kArithmetic;
    m.def("isa", [](const std::string& wanted) { return std::string(select_kernels(wanted.c_str()).name); }, nb::arg("wanted") = "auto");
    m.def("instruction_sets", [] { return instruction_sets(); });
    m.def("tile_set", [] { return tile_set(); });
    bind_turns(m);
    nb::enum_<Gate>(m, "Gate").value("SILU", Gate::silu).value("GELU", Gate::gelu).value("GELU_TANH", Gate::gelu_tanh).value("RELU", Gate::relu);
    nb::class_<Plan> plan(m, "Plan");
    plan
        .def(nb::init<int, const std::string&, int, int, Side>(), nb::arg("threads"), nb::arg("isa"), nb::arg("max_tokens"),
             nb::arg("max_context"), nb::arg("side") = Side::chat)
        .def("use", &Plan::use, nb::arg("isa"))
        .def_prop_ro("isa", [](const Plan& p) { return std::string(p.model.kernels->name); })
        .def_prop_ro("threads", &Plan::threads)
        .def_prop_ro("weight_bytes", &Plan::weight_bytes)
        .def("matrix_bytes", [](const Plan& p, int matrix) { const auto& m = p.model.matrices.at(size_t(matrix)); return size_t(m.panels()) * m.panel_stride; })
        .def("pack", &pack, nb::arg("kind"), nb::arg("data"), nb::arg("rows"), nb::arg("cols"), nb::arg("format"), nb::arg("permutation").none())
        .def("adopt", &adopt, nb::arg("format"), nb::arg("panels"), nb::arg("rows"), nb::arg("cols"), nb::arg("copy"), nb::keep_alive<1, 3>())
        .def("panels", &panels)
        .def("checksum", &checksum)
        .def("vector", [](Plan& p, Floats v) { return p.vector(v.data(), int(v.size())); })
        .def("buffer", &Plan::buffer, nb::arg("width"), nb::arg("of_slots") = false)
        .def("kv_cache", &Plan::kv_cache, nb::arg("layers"), nb::arg("blocks"), nb::arg("format"))
        .def_prop_rw("interrupted", [](const Plan& p) { return p.interrupted.load(); }, [](Plan& p, bool value) { p.interrupted = value; })
        .def_prop_ro("block_bytes", [](const Plan& p) { return p.model.kv.block_bytes; })
        .def("touch_while_idle", [](Plan& p) { return p.model.kv.touch_while_idle(); }, nb::call_guard<nb::gil_scoped_release>())
        .def("read_block", [](const Plan& p, int block, Room out) { p.read_block(block, out.data(), out.size()); })
        .def("write_block", [](Plan& p, int block, Bytes data) { p.write_block(block, data.data(), data.size()); })
        .def("rope_table", [](Plan& p, Table t, const std::vector<int>& axes) { p.rope_table(t.data(), int(t.shape(0)), int(t.shape(1)), axes); },
             nb::arg("values"), nb::arg("axes") = std::vector<int>())
        .def("select_rows", [](Plan& p, int source, int target) {
            p.select_rows();
            auto op = std::make_unique<Select>();
            op->source = source;
            op->target = target;
            p.add(std::move(op));
        })
        .def("embed", [](Plan& p, int matrix, int target, float scale) {
            const int cols = p.model.matrices.at(size_t(matrix)).cols, width = p.model.buffers.at(size_t(target)).width;
            if (cols != width)
                throw std::invalid_argument("an embedding has " + std::to_string(cols) + " columns where " + std::to_string(width) + " are needed");
            auto op = std::make_unique<Embed>();
            op->scale = scale;
            op->matrix = matrix;
            op->target = target;
            p.model.vocab = p.model.matrices.at(size_t(matrix)).rows;
            p.model.given_width = width;
            p.add(std::move(op));
        }, nb::arg("matrix"), nb::arg("target"), nb::arg("scale") = 1.0f)
        .def("given", [](Plan& p, int target) {
            auto op = std::make_unique<Embed>();
            op->target = target;
            p.model.given_width = p.model.buffers.at(size_t(target)).width;
            p.add(std::move(op));
        }, nb::arg("target"))
        .def("add_given", [](Plan& p, int target, int offset) {
            if (!p.model.given_width || offset < 0) throw std::invalid_argument("what was given is taken first, and then added to");
            auto op = std::make_unique<AddGiven>();
            op->target = target;
            op->offset = offset;
            p.model.given_width = std::max(p.model.given_width, offset + p.model.buffers.at(size_t(target)).width);
            p.add(std::move(op));
        }, nb::arg("target"), nb::arg("offset"))
        .def("add_positions", [](Plan& p, int table, int target) {
            auto op = std::make_unique<AddPositions>();
            op->table = table;
            op->target = target;
            const size_t width = size_t(p.model.buffers.at(size_t(target)).width);
            if (p.model.vectors.at(size_t(table)).size() < width * size_t(p.model.max_context))
                throw std::invalid_argument("the position table is shorter than the context");
            p.add(std::move(op));
        })
        .def("quantize", [](Plan& p, int source, int weight, int bias, float epsilon, bool keep, float least, float most) {
            auto op = std::make_unique<Quantize>();
            op->source = source;
            op->weight = weight;
            op->bias = bias;
            op->epsilon = epsilon;
            op->keep = keep;
            op->within = {least, most};
            p.add(std::move(op), p.model.buffers.at(size_t(source)).width);
        }, nb::arg("source"), nb::arg("weight") = -1, nb::arg("bias") = -1, nb::arg("epsilon") = 0.0f, nb::arg("keep") = false, nb::arg("least") = -INFINITY, nb::arg("most") = INFINITY)
        .def("gelu", [](Plan& p, int source, bool tanh, bool quick) {
            const Buffer& from = p.model.buffers.at(size_t(source));
            auto op = std::make_unique<Gelu>();
            op->source = source;
            op->tanh = tanh;
            op->quick = quick;
            p.add(std::move(op), from.width, from.of_slots);
        }, nb::arg("source"), nb::arg("tanh") = false, nb::arg("quick") = false)
        .def("xielu", [](Plan& p, int source, float positive, float negative, float beta) {
            const Buffer& from = p.model.buffers.at(size_t(source));
            auto op = std::make_unique<Xielu>();
            op->source = source;
            op->positive = positive;
            op->negative = negative;
            op->beta = beta;
            p.add(std::move(op), from.width, from.of_slots);
        }, nb::arg("source"), nb::arg("positive"), nb::arg("negative"), nb::arg("beta"))
        .def("soft_cap", [](Plan& p, int source, float cap) {
            (void)p.model.buffers.at(size_t(source));  // throws
            if (!(cap > 0)) throw std::invalid_argument("a soft cap must be positive");
            auto op = std::make_unique<SoftCap>();
            op->source = source;
            op->cap = cap;
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("cap"))
        .def("gated", [](Plan& p, int source, int cols, Gate gate, float limit, float slope, int opened, int opened_offset, float least, float most) {
            if (limit < 0) throw std::invalid_argument("a limit of gates must be positive");
            if (opened >= 0 && (opened_offset < 0 || opened_offset + cols > p.model.buffers.at(size_t(opened)).width))
                throw std::invalid_argument("the buffer has no such columns to be opened");
            auto op = std::make_unique<Gated>();
            op->source = source;
            op->cols = cols;
            op->gate = gate;
            op->limit = limit;
            op->slope = slope;
            op->opened = opened;
            op->opened_offset = opened_offset;
            op->within = {least, most};
            p.add(std::move(op), cols, p.model.buffers.at(size_t(source)).of_slots);
        }, nb::arg("source"), nb::arg("cols"), nb::arg("gate") = Gate::silu, nb::arg("limit") = 0.0f, nb::arg("slope") = 1.0f, nb::arg("opened") = -1, nb::arg("opened_offset") = 0, nb::arg("least") = -INFINITY, nb::arg("most") = INFINITY)
        .def("clamp", [](Plan& p, int source, int offset, int width, float least, float most) {
            if (offset < 0 || width <= 0 || offset + width > p.model.buffers.at(size_t(source)).width || !(least <= most))
                throw std::invalid_argument("there are no such columns, or bounds");
            auto op = std::make_unique<Clamp>();
            op->source = source;
            op->offset = offset;
            op->width = width;
            op->within = {least, most};
            p.add(std::move(op));
        }, nb::arg("source"), nb::arg("offset"), nb::arg("width"), nb::arg("least"), nb::arg("most"))
        .def("linear", &add_linear, nb::arg("projections"), nb::arg("accumulate") = false, nb::arg("firsts") = std::vector<int>())
        .def("run", &run, nb::arg("token_ids"), nb::arg("positions"), nb::arg("query_starts"), nb::arg("block_tables"),
             nb::arg("logit_rows"), nb::arg("output"), nb::arg("given").none() = nb::none(), nb::arg("given_rows").none() = nb::none(),
             nb::arg("seen").none() = nb::none(), nb::arg("adapters").none() = nb::none(), nb::arg("state_segments").none() = nb::none(),
             nb::arg("rotary").none() = nb::none());
    bind_adapters(plan);
    bind_altup(plan);
    bind_attention(plan);
    bind_delta(plan);
    bind_disentangled(plan);
    bind_experts(plan);
    bind_lookup(plan);
    bind_mamba(plan);
    bind_measure(m);
    bind_recurrent(plan);
    bind_selective(plan);
    bind_sampler(m);
}
