#include "operations.hpp"

#include <algorithm>
#include <cstring>

#include "rows.hpp"

namespace llm {

int Embed::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void Embed::run_tile(Model& model, const StepState& step, int tile, int) const {
    for_rows(tile, num_rows(step), [&](int r) {
        Buffer& to = model.buffers[size_t(target)];
        if (const float* given = step.given(r)) {
            memcpy(to.row(r), given, size_t(to.width) * sizeof(float));
            return;
        }
        model.kernels->dequantize_row(model.matrices[size_t(matrix)], step.input.token_ids[r], to.row(r));
        for (int i = 0; scale != 1 && i < to.width; i++) to.row(r)[i] *= scale;
    });
}

int AddPositions::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void AddPositions::run_tile(Model& model, const StepState& step, int tile, int) const {
    Buffer& to = model.buffers[size_t(target)];
    const std::vector<float>& rows = model.vectors[size_t(table)];
    for_rows(tile, num_rows(step), [&](int r) {
        const float* row = rows.data() + size_t(step.input.positions[r]) * to.width;
        for (int i = 0; i < to.width; i++) to.row(r)[i] += row[i];
    });
}

int Select::num_tiles(const Model&, const StepState& step) const { return tiles_of(step.input.num_rows); }

void Select::run_tile(Model& model, const StepState& step, int tile, int) const {
    Buffer& from = model.buffers[size_t(source)];
    Buffer& to = model.buffers[size_t(target)];
    for_rows(tile, step.input.num_rows, [&](int r) {
        std::memcpy(to.row(r), from.row(step.input.logit_rows[r]), sizeof(float) * size_t(from.width));
    });
}

int Quantize::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void Quantize::run_tile(Model& model, const StepState& step, int tile, int worker) const {
    Buffer& from = model.buffers[size_t(source)];
    float* scratch = worker_scratch(model, worker, size_t(from.width));
    for_rows(tile, num_rows(step), [&](int r) {
        float* x = from.row(r);
        float* normed = weight < 0 || keep ? x : scratch;
        const float* gain = weight < 0 ? nullptr : model.vectors[size_t(weight)].data();
        if (gain && bias < 0) model.kernels->rms_norm(x, gain, epsilon, from.width, normed);
        if (gain && bias >= 0)
            model.kernels->layer_norm(x, gain, model.vectors[size_t(bias)].data(), epsilon, from.width, normed);
        quantize_row(model, step, *this, normed, from.width, r);
    });
}

int Gated::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void Gated::run_tile(Model& model, const StepState& step, int tile, int worker) const {
    float* gated = worker_scratch(model, worker, size_t(cols));
    for_rows(tile, num_rows(step), [&](int r) {
        const float* x = model.buffers[size_t(source)].row(r);
        const float* up = opened < 0 ? x + cols : model.buffers[size_t(opened)].row(r) + opened_offset;
        const auto activate = tanh ? model.kernels->gated_gelu_tanh : gelu ? model.kernels->gated_gelu : model.kernels->gated_silu;
        if (limit > 0) model.kernels->gated_within(x, up, cols, slope, limit, gated);
        else activate(x, up, cols, gated);
        quantize_row(model, step, *this, gated, cols, r);
    });
}

int Gelu::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void Gelu::run_tile(Model& model, const StepState& step, int tile, int worker) const {
    Buffer& from = model.buffers[size_t(source)];
    float* activated = worker_scratch(model, worker, size_t(from.width));
    const auto activate = tanh ? model.kernels->gelu_tanh : model.kernels->gelu;
    for_rows(tile, num_rows(step), [&](int r) {
        activate(from.row(r), from.width, activated);
        quantize_row(model, step, *this, activated, from.width, r);
    });
}

int Xielu::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void Xielu::run_tile(Model& model, const StepState& step, int tile, int worker) const {
    Buffer& from = model.buffers[size_t(source)];
    float* bent = worker_scratch(model, worker, size_t(from.width));
    for_rows(tile, num_rows(step), [&](int r) {
        model.kernels->xielu(from.row(r), from.width, positive, negative, beta, bent);
        quantize_row(model, *this, bent, from.width, r);
    });
}

// Row blocks keep the activations of a tile in L2; panels are cut so that every worker finds several tiles,
// each long enough (some ten microseconds) to be worth the counter.
Linear::Tiling Linear::tiling(const Model& model, const StepState& step) const {
    constexpr int kMostRows = 128, kFewestRows = 24;
    constexpr int kTileBytes = 192 << 10;  // of activations, less than half of any current L2
    constexpr double kTileWork = 1.5e6;  // multiply-adds
    Tiling t;
    const int rows = num_rows(step);
    const PackedMatrix& first = model.matrices[size_t(projections[0].matrix)];
    const int cols = first.cols;
    const int input_bytes = first.format == Format::f32 ? 4 : reads_wide(first.format) ? 2 : 1;
    const int most_rows = std::clamp(kTileBytes / (cols * input_bytes), kFewestRows, kMostRows);
    const int workers = int(model.scratch.size());
    const int rounds = (rows + workers * most_rows - 1) / (workers * most_rows);
    const int own = (rows + workers * rounds - 1) / (workers * rounds);
    t.rows = std::min(rows, own >= kFewestRows ? own : most_rows);
    const int by_work = int(kTileWork / (double(kPanel) * cols * t.rows)) + 1;
    const int by_workers = total_panels / (2 * workers) + 1;
    t.panels = (std::min(by_work, by_workers) + 1) / 2 * 2;  // kernels take them in pairs
    t.row_tiles = (rows + t.rows - 1) / t.rows;
    t.panel_tiles = (total_panels + t.panels - 1) / t.panels;
    return t;
}

int Linear::num_tiles(const Model& model, const StepState& step) const {
    if (num_rows(step) == 0) return 0;
    const Tiling t = tiling(model, step);
    return t.row_tiles * t.panel_tiles;
}

void Linear::run_tile(Model& model, const StepState& step, int tile, int) const {
    const Tiling t = tiling(model, step);
    const int row_begin = tile / t.panel_tiles * t.rows;
    const int row_end = std::min(row_begin + t.rows, num_rows(step));
    const int begin = tile % t.panel_tiles * t.panels;
    multiply(model, projections, accumulate, begin, std::min(t.panels, total_panels - begin), row_begin, row_end);
}

void multiply(Model& model, const std::vector<Projection>& projections, bool accumulate, int begin, int count, int row_begin,
              int row_end) {
    for (const Projection& p : projections) {
        const PackedMatrix& matrix = model.matrices[size_t(p.matrix)];
        if (begin >= matrix.panels()) {
            begin -= matrix.panels();
            continue;
        }
        Buffer& out = model.buffers[size_t(p.target)];
        const Activations input = model.activations(matrix.cols);
        const int end = std::min(begin + count, matrix.panels());
        model.kernels->gemm({&matrix, &input, p.bias < 0 ? nullptr : model.vectors[size_t(p.bias)].data(),
                             out.data.data() + p.offset, size_t(out.width), accumulate, begin, end, row_begin, row_end});
        count -= end - begin;
        begin = 0;
        if (count == 0) return;
    }
}

int RopeStore::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void RopeStore::run_tile(Model& model, const StepState& step, int tile, int) const {
    const KvCache& kv = model.kv;
    const int heads = kv.layers[size_t(layer)].heads, head_dim = kv.layers[size_t(layer)].head_dim;
    const StepInput& in = step.input;
    const std::vector<float>& angles = table < 0 ? model.rope : model.vectors[size_t(table)];
    const int turned = table < 0 ? model.rotated : rotated;
    for_rows(tile, num_rows(step), [&](int t) {
        const int position = in.positions[t];
        const int block = in.block_tables[size_t(step.sequence_of[size_t(t)]) * in.table_width + position / kBlockTokens];
        const float* cos = angles.data() + size_t(position) * turned;
        const float* sin = cos + turned / 2;
        float* queries = model.buffers[size_t(source)].row(t);
        float* keys = queries + size_t(query_heads) * head_dim;
        float* values = keys + size_t(heads) * head_dim;
        for (int h = 0; h < query_heads + heads; h++)
            model.kernels->rope(queries + size_t(h) * head_dim, cos, sin, turned);
        for (int h = 0; h < heads; h++)
            model.kernels->store_kv(kv.format, keys + size_t(h) * head_dim, values + size_t(h) * head_dim, head_dim,
                                    position % kBlockTokens, kv.keys(layer, h, block), kv.values(layer, h, block));
    });
}

int AttentionOperation::num_tiles(const Model& model, const StepState& step) const {
    return int(step.tiles(on_logit_rows).size()) * model.kv.layers[size_t(layer)].heads;
}

void AttentionOperation::run_tile(Model& model, const StepState& step, int tile, int worker) const {
    const KvCache& kv = model.kv;
    const int heads = kv.layers[size_t(layer)].heads, head_dim = kv.layers[size_t(layer)].head_dim;
    // Late tokens see the most: they go first, so that the last tiles to be handed out are short.
    const std::vector<TokenTile>& tiles = step.tiles(on_logit_rows);
    const TokenTile& tokens = tiles[tiles.size() - 1 - size_t(tile / heads)];
    const int head = tile % heads;
    const int group = query_heads / heads;
    Buffer& from = model.buffers[size_t(source)];
    Buffer& to = model.buffers[size_t(target)];
    const int first_position = step.input.positions[tokens.first];
    const float* biases = bias < 0 ? nullptr : model.vectors[size_t(bias)].data() + model.max_context - 1;
    const float* own_sinks = sinks < 0 ? nullptr : model.vectors[size_t(sinks)].data() + head * group;
    const int first_piece = window > 0 ? std::max(0, first_position - window + 1) / kPieceTokens : 0;
    AttentionTile work = {from.row(tokens.row) + size_t(head) * group * head_dim,
                          to.row(tokens.row) + size_t(head) * group * head_dim, size_t(from.width),
                          size_t(to.width), kv.format, kv.keys(layer, head, 0), kv.values(layer, head, 0), kv.chunk_stride(),
                          step.input.block_tables + size_t(tokens.sequence) * step.input.table_width,
                          first_position, tokens.count, step.input.seen ? step.input.seen + tokens.first : nullptr, group, head_dim, scale, cap, biases, own_sinks, first_piece, tokens.piece, tokens.piece_end, 0, nullptr,
                          worker_scratch(model, worker, attention_scratch(group, head_dim))};
    if (tokens.pieces == 1) return model.kernels->attention(work);
    const size_t state = size_t(state_floats(head_dim));
    work.piece_stride = size_t(tokens.count) * query_heads * state;
    float* states = model.states.data() + tokens.first_state * state + size_t(tokens.count) * head * group * state;
    work.states = states + tokens.piece * work.piece_stride;
    model.kernels->attention(work);
    std::atomic<int>& done = model.pieces_done[size_t(tokens.split * heads + head)];
    const int own = tokens.piece_end - tokens.piece;
    if (done.fetch_add(own, std::memory_order_acq_rel) + own < tokens.pieces) return;
    done.store(0, std::memory_order_relaxed);
    work.states = states;
    model.kernels->merge_attention(work);  // whoever comes last: the order of pieces is fixed
}

namespace {

constexpr int kCappedTogether = 4096;  // columns; rows of logits are few and long

int column_tiles(const Buffer& buffer) { return (buffer.width + kCappedTogether - 1) / kCappedTogether; }

}  // namespace

int SoftCap::num_tiles(const Model& model, const StepState& step) const {
    return num_rows(step) * column_tiles(model.buffers[size_t(source)]);
}

void SoftCap::run_tile(Model& model, const StepState&, int tile, int) const {
    Buffer& of = model.buffers[size_t(source)];
    const int row = tile / column_tiles(of), first = tile % column_tiles(of) * kCappedTogether;
    model.kernels->soft_cap(of.row(row) + first, std::min(kCappedTogether, of.width - first), cap);
}

int HeadNorm::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void HeadNorm::run_tile(Model& model, const StepState& step, int tile, int) const {
    const std::vector<float>& gain = model.vectors[size_t(weight)];
    const int head_dim = int(gain.size());
    for_rows(tile, num_rows(step), [&](int r) {
        float* head = model.buffers[size_t(source)].row(r) + offset;
        for (int h = 0; h < heads; h++, head += head_dim) {
            if (bias < 0) model.kernels->rms_norm(head, gain.data(), epsilon, head_dim, head);
            else model.kernels->layer_norm(head, gain.data(), model.vectors[size_t(bias)].data(), epsilon, head_dim, head);
        }
    });
}

int Rotate::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void Rotate::run_tile(Model& model, const StepState& step, int tile, int) const {
    const std::vector<float>& angles = model.vectors[size_t(table)];
    for_rows(tile, num_rows(step), [&](int r) {
        const size_t position = size_t(step.input.positions[token_of(step, r)]) % (angles.size() / size_t(rotated));
        const float* cos = angles.data() + position * size_t(rotated);
        float* head = model.buffers[size_t(source)].row(r);
        for (int h = 0; h < heads; h++, head += head_dim) model.kernels->rope(head, cos, cos + rotated / 2, rotated);
    });
}

namespace {

// Of one head; so long sequences are cut, that others who wait for the cores wait for no whole head.
constexpr int kEncoderQueries = 1024;

// That the longest sequence has.
int query_parts(const StepInput& in) {
    int most = 0;
    for (int s = 0; s < in.num_sequences; s++) most = std::max(most, in.query_starts[s + 1] - in.query_starts[s]);
    return (most + kEncoderQueries - 1) / kEncoderQueries;
}

}  // namespace

int EncoderAttention::num_tiles(const Model&, const StepState& step) const {
    return step.input.num_sequences * kv_heads * query_parts(step.input);
}

void EncoderAttention::run_tile(Model& model, const StepState& step, int tile, int worker) const {
    const int parts = query_parts(step.input), begin = tile % parts * kEncoderQueries;
    const int sequence = tile / parts / kv_heads, kv_head = tile / parts % kv_heads;
    const int first = step.input.query_starts[sequence];
    const int count = step.input.query_starts[sequence + 1] - first;
    if (begin >= count) return;
    const int group = heads / kv_heads;
    Buffer& from = model.buffers[size_t(source)];
    Buffer& to = model.buffers[size_t(target)];
    const int head_dim = to.width / heads;
    const float* row = from.row(first);
    const float* keys = row + size_t(heads + kv_head) * head_dim;
    const size_t bias_row = 2 * size_t(model.max_context) + kBlockTokens;
    const float* centre = bias < 0 ? nullptr : model.vectors[size_t(bias)].data() + model.max_context - 1;
    if (centre && bias_per_head) centre += size_t(kv_head) * group * bias_row;
    model.kernels->encoder_attention({row + size_t(kv_head) * group * head_dim, keys, keys + size_t(kv_heads) * head_dim,
                                      to.row(first) + size_t(kv_head) * group * head_dim, size_t(from.width),
                                      size_t(to.width), count, begin, std::min(begin + kEncoderQueries, count), group, head_dim, causal, scale, centre,
                                      bias_per_head ? bias_row : 0,
                                      worker_scratch(model, worker, encoder_scratch(count, head_dim))});
}

}  // namespace llm
