#include "disentangled.hpp"

#include <algorithm>

#include "rows.hpp"

namespace llm {

namespace {

constexpr size_t kWidest = 16;  // lanes of a vector: kernels read rows of biases in whole ones

size_t padded(size_t count) { return (count + kWidest - 1) / kWidest * kWidest; }

}  // namespace

int DisentangledAttention::num_tiles(const Model&, const StepState& step) const { return step.input.num_sequences * heads; }

void DisentangledAttention::run_tile(Model& model, const StepState& step, int tile, int worker) const {
    const int sequence = tile / heads, head = tile % heads;
    const int first = step.input.query_starts[sequence], count = step.input.query_starts[sequence + 1] - first;
    Buffer& from = model.buffers[size_t(source)];
    Buffer& to = model.buffers[size_t(target)];
    const int head_dim = to.width / heads;
    const float* queries = from.row(first) + size_t(head) * head_dim;
    const float *keys = queries + to.width, *values = keys + to.width;

    const size_t bias_row = padded(size_t(count)), products = size_t(count) * positions;
    float* biases = worker_scratch(model, worker, count * bias_row + 2 * products + encoder_scratch(count, head_dim));
    float *by_query = biases + count * bias_row, *by_key = by_query + products, *rest = by_key + products;
    const int* middle = at.data() + model.max_context - 1;
    const int least = middle[1 - count], most = middle[count - 1];  // of the positions that these tokens need
    const auto multiply = [&](const std::vector<int>& of, const float* rows, float* out) {
        if (of.empty()) return std::fill(out, out + products, 0.0f);
        const PackedMatrix& matrix = model.low_ranks[size_t(of[size_t(head)])];
        const Activations input{nullptr, nullptr, nullptr, const_cast<float*>(rows), from.width};
        model.kernels->gemm({&matrix, &input, nullptr, out, size_t(positions), false, least / kPanel, most / kPanel + 1, 0, count});
    };
    multiply(position_keys, queries, by_query);
    multiply(position_queries, keys, by_key);
    for (int i = 0; i < count; i++) {
        float* bias = biases + i * bias_row;
        for (int j = 0; j < count; j++) {
            const int p = middle[i - j];
            bias[j] = (by_query[size_t(i) * positions + p] + by_key[size_t(j) * positions + p]) * scale;
        }
        std::fill(bias + count, bias + bias_row, 0.0f);
    }
    model.kernels->encoder_attention({queries, keys, values, to.row(first) + size_t(head) * head_dim, size_t(from.width), size_t(to.width),
                                      count, 0, count, 1, head_dim, false, scale, biases, 0, ptrdiff_t(bias_row), rest});
}

}  // namespace llm
