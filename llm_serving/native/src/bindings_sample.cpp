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

int32_t checked_id(nb::handle item, int vocab) {
    const auto id = nb::cast<int32_t>(item);
    if (id < 0 || id >= vocab) throw std::invalid_argument("a token id is outside the vocabulary");
    return id;
}

void append_ids(SampleRow& row, nb::handle list, int vocab) {
    for (nb::handle item : nb::borrow<nb::list>(list)) row.ids.push_back(checked_id(item, vocab));
}

int vocab_of(const Logits& logits, size_t rows) {
    if (logits.shape(0) != rows || logits.shape(1) < 1 || logits.shape(1) > size_t(kMostIds))
        throw std::invalid_argument("the logits do not fit the rows");
    return int(logits.shape(1));
}

// (temperature, top_k, top_p, min_p, typical_p, seed, position, repetition, presence, frequency, prompt ids, output ids, biases)
SampleRow read_row(nb::handle item, int vocab) {
    const auto facts = nb::cast<nb::tuple>(item);
    SampleRow row;
    row.temperature = nb::cast<double>(facts[0]);
    row.top_k = nb::cast<int64_t>(facts[1]);
    row.top_p = nb::cast<double>(facts[2]);
    row.min_p = nb::cast<double>(facts[3]);
    row.typical_p = nb::cast<double>(facts[4]);
    row.seed = nb::cast<uint64_t>(facts[5]);
    row.position = nb::cast<uint64_t>(facts[6]);
    row.repetition = nb::cast<double>(facts[7]);
    row.presence = nb::cast<double>(facts[8]);
    row.frequency = nb::cast<double>(facts[9]);
    append_ids(row, facts[10], vocab);
    row.prompt_ids = row.ids.size();
    append_ids(row, facts[11], vocab);
    for (nb::handle item : nb::borrow<nb::tuple>(facts[12])) {
        const auto pair = nb::cast<nb::tuple>(item);
        row.biases.emplace_back(checked_id(pair[0], vocab), float(nb::cast<double>(pair[1])));
    }
    return row;
}

std::vector<int> sample(RowSampler& sampler, Logits logits, nb::list items) {
    const int vocab = vocab_of(logits, items.size());
    std::vector<SampleRow> rows;
    rows.reserve(items.size());
    for (nb::handle item : items) rows.push_back(read_row(item, vocab));
    nb::gil_scoped_release release;
    return sampler.sample(logits.data(), vocab, rows);
}

// A tuple a row: (logit of its token, ids, logits, greatest logit, total weight)
nb::list likeliest(RowSampler& sampler, Logits logits, nb::list items, std::vector<int> counts) {
    const int vocab = vocab_of(logits, items.size());
    if (counts.size() != items.size()) throw std::invalid_argument("the counts do not fit the rows");
    std::vector<int> tokens;
    for (nb::handle item : items) tokens.push_back(checked_id(item, vocab));
    std::vector<Likeliest> rows;
    {
        nb::gil_scoped_release release;
        rows = sampler.likeliest(logits.data(), vocab, tokens, counts);
    }
    nb::list out;
    for (const Likeliest& row : rows) out.append(nb::make_tuple(row.chosen, row.ids, row.logits, row.greatest, row.total));
    return out;
}

}  // namespace

void bind_sampler(nb::module_& m) {
    nb::class_<RowSampler>(m, "RowSampler")
        .def(nb::init<int, const std::string&>(), nb::arg("threads"), nb::arg("isa"))
        .def("sample", &sample, nb::arg("logits"), nb::arg("rows"))
        .def("likeliest", &likeliest, nb::arg("logits"), nb::arg("tokens"), nb::arg("counts"));
}
