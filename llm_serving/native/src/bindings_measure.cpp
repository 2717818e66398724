// The Python face of the measurements.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "measure.hpp"

namespace nb = nanobind;
using namespace llm;

namespace {

// The best of `repeats` passes over `bytes`, by one thread and by all.
std::vector<double> read_rates(size_t bytes, int threads, int repeats) {
    nb::gil_scoped_release release;
    ThreadPool one(1), all(threads);
    const ReadProbe probe(bytes, all);
    std::vector<double> best(2);
    for (int i = 0; i < repeats; i++) {
        best[0] = std::max(best[0], probe.measure(one));
        best[1] = std::max(best[1], probe.measure(all));
    }
    return best;
}

// The best of `repeats` runs of `seconds`, by one thread and by all.
std::vector<double> peaks(const std::string& instruction, int threads, double seconds, int repeats) {
    nb::gil_scoped_release release;
    ThreadPool one(1), all(threads);
    std::vector<double> best(2);
    for (int i = 0; i < repeats; i++) {
        best[0] = std::max(best[0], measure_peak(instruction, one, seconds));
        best[1] = std::max(best[1], measure_peak(instruction, all, seconds));
    }
    return best;
}

}  // namespace

void bind_measure(nb::module_& m) {
    m.def("measurable_instructions", &measurable_instructions);
    m.def("read_rates", &read_rates, nb::arg("bytes"), nb::arg("threads"), nb::arg("repeats"));
    m.def("peaks", &peaks, nb::arg("instruction"), nb::arg("threads"), nb::arg("seconds"), nb::arg("repeats"));
}
