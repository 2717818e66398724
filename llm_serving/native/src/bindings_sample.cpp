// The Python face of the sampler.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "sample.hpp"

namespace nb = nanobind;
using namespace llm;

namespace {

using Logits = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void append_ids(SampleRow& row, nb::handle list, int vocab) {
    for (nb::handle item : nb::borrow<nb::list>(list)) {
        const auto id = nb::cast<int32_t>(item);
        if (id < 0 || id >= vocab) throw std::invalid_argument("a token id is outside the vocabulary");
        row.ids.push_back(id);
    }
}

// (temperature, top_k, top_p, min_p, seed, position, repetition, presence, frequency, prompt ids, output ids)
SampleRow read_row(nb::handle item, int vocab) {
    const auto facts = nb::cast<nb::tuple>(item);
    SampleRow row;
    row.temperature = nb::cast<double>(facts[0]);
    row.top_k = nb::cast<int64_t>(facts[1]);
    row.top_p = nb::cast<double>(facts[2]);
    row.min_p = nb::cast<double>(facts[3]);
    row.seed = nb::cast<uint64_t>(facts[4]);
    row.position = nb::cast<uint64_t>(facts[5]);
    row.repetition = nb::cast<double>(facts[6]);
    row.presence = nb::cast<double>(facts[7]);
    row.frequency = nb::cast<double>(facts[8]);
    append_ids(row, facts[9], vocab);
    row.prompt_ids = row.ids.size();
    append_ids(row, facts[10], vocab);
    return row;
}

std::vector<int> sample(RowSampler& sampler, Logits logits, nb::list items) {
    if (logits.shape(0) != items.size() || logits.shape(1) < 1 || logits.shape(1) > size_t(kMostIds))
        throw std::invalid_argument("the logits do not fit the rows");
    const int vocab = int(logits.shape(1));
    std::vector<SampleRow> rows;
    rows.reserve(items.size());
    for (nb::handle item : items) rows.push_back(read_row(item, vocab));
    nb::gil_scoped_release release;
    return sampler.sample(logits.data(), vocab, rows);
}

}  // namespace

void bind_sampler(nb::module_& m) {
    nb::class_<RowSampler>(m, "RowSampler")
        .def(nb::init<int, const std::string&>(), nb::arg("threads"), nb::arg("isa"))
        .def("sample", &sample, nb::arg("logits"), nb::arg("rows"));
}
