// Rows of a table by token id, which stay where the file has them: so many megabytes are mapped, and hardly any read.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <stdexcept>

#include "blocks.hpp"
#include "rows.hpp"

namespace nb = nanobind;
using namespace llm;

namespace {

// target += scale * row of the table; of ids behind its end, row `beyond`.
struct AddRows final : Operation {
    Kind kind;
    const uint8_t* table;
    int rows, target, beyond;
    float scale;
    int num_tiles(const Model&, const StepState& step) const override { return tiles_of(num_rows(step)); }

    void run_tile(Model& model, const StepState& step, int tile, int) const override {
        Buffer& to = model.buffers[size_t(target)];
        const size_t stride = row_bytes(kind, to.width);
        for_rows(tile, num_rows(step), [&](int r) {
            const int id = step.input.token_ids[token_of(step, r)];
            const uint8_t* row = table + stride * size_t(id < rows ? id : beyond);
            float* sum = to.row(r);
            Group group;
            for (int g = 0; g < to.width / kGroup; g++, sum += kGroup) {
                decode(kind, row, g, group);
                for (int i = 0; i < kGroup; i++)
                    sum[i] += scale * (group.linear ? group.scale * float(group.q[i]) + group.minimum : group.values[i]);
            }
        });
    }
};

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void add_rows(Plan& plan, const std::string& kind, Bytes table, int rows, int target, float scale, int beyond) {
    auto op = std::make_unique<AddRows>();
    const int cols = plan.model.buffers.at(size_t(target)).width;
    op->kind = kind_from_name(kind);
    if (cols % kGroup || rows <= 0 || row_bytes(op->kind, cols) * size_t(rows) != table.size())
        throw std::invalid_argument("the table's size does not match its shape");
    if (beyond >= rows) throw std::invalid_argument("the table has no row for ids behind its end");
    if (beyond < 0 && rows < plan.model.vocab) throw std::invalid_argument("the table has fewer rows than the vocabulary");
    op->rows = rows;
    op->beyond = beyond;
    op->table = table.data();
    op->target = target;
    op->scale = scale;
    plan.add(std::move(op));
}

}  // namespace

// The bytes must outlive the plan, and are kept alive by it.
void bind_lookup(nb::class_<Plan>& plan) {
    plan.def("add_rows", &add_rows, nb::arg("kind"), nb::arg("table"), nb::arg("rows"), nb::arg("target"), nb::arg("scale"),
             nb::arg("beyond") = -1, nb::keep_alive<1, 3>());
}
