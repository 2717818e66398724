// Attention of decoders and of encoders, and what prepares its queries and keys.
#include <algorithm>
#include <cstring>

#include "operations.hpp"
#include "rows.hpp"

namespace llm {

namespace {

// Cosines and sines for a row. Where its rotary positions have dimensions, each frequency's are gathered by its own one.
const float* angles_of(const std::vector<float>& table, int rotated, const std::vector<uint8_t>& axes, size_t position,
                       const int32_t* rotary, float (&gathered)[kMostHeadDim]) {
    if (!rotary || axes.empty()) return table.data() + position * size_t(rotated);
    const size_t half = size_t(rotated) / 2;
    for (size_t i = 0; i < half; i++) {
        const float* row = table.data() + size_t(rotary[axes[i]]) * size_t(rotated);
        gathered[i] = row[i];
        gathered[half + i] = row[half + i];
    }
    return gathered;
}

const int32_t* rotary_of(const StepInput& in, int token) { return in.rotary ? in.rotary + size_t(token) * 3 : nullptr; }

}  // namespace

int RopeStore::num_tiles(const Model&, const StepState& step) const { return tiles_of(num_rows(step)); }

void RopeStore::run_tile(Model& model, const StepState& step, int tile, int) const {
    const KvCache& kv = model.kv;
    const int heads = kv.layers[size_t(layer)].heads, head_dim = kv.layers[size_t(layer)].head_dim;
    const StepInput& in = step.input;
    const std::vector<float>& angles = table < 0 ? model.rope : model.vectors[size_t(table)];
    const int turned = table < 0 ? model.rotated : rotated;
    const std::vector<uint8_t>& turned_by = table < 0 ? model.rope_axes : axes;
    const float* common = shared < 0 || !is_turned(kv.format) ? nullptr : model.vectors[size_t(shared)].data();
    float gathered[kMostHeadDim];
    for_rows(tile, num_rows(step), [&](int t) {
        const int position = in.positions[t];
        const int block = in.block_tables[size_t(step.sequence_of[size_t(t)]) * in.table_width + position / kBlockTokens];
        const float* cos = angles_of(angles, turned, turned_by, size_t(position), rotary_of(in, t), gathered);
        const float* sin = cos + turned / 2;
        float* queries = model.buffers[size_t(source)].row(t);
        float* keys = queries + size_t(query_heads) * head_dim;
        float* values = keys_are_values ? keys : keys + size_t(heads) * head_dim;
        for (int h = 0; h < query_heads + heads; h++)
            model.kernels->rope(queries + size_t(h) * head_dim, cos, sin, turned);
        for (int d = 0; common && d < heads * head_dim; d++) keys[d] -= common[d];
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
    const size_t bias_row = bias_per_head ? bias_floats(model) : 0;
    const float* biases = bias < 0 ? nullptr : model.vectors[size_t(bias)].data() + size_t(head) * group * bias_row + model.max_context - 1;
    const float* own_sinks = sinks < 0 ? nullptr : model.vectors[size_t(sinks)].data() + head * group;
    int first_piece = window > 0 ? std::max(0, first_position - window + 1) / kPieceTokens : 0;
    if (chunk > 0) first_piece = first_position / chunk * (chunk / kPieceTokens);  // tiles lie within chunks, see Plan::add_run
    AttentionTile work = {from.row(tokens.row) + size_t(head) * group * head_dim,
                          to.row(tokens.row) + size_t(head) * group * head_dim, size_t(from.width),
                          size_t(to.width), kv.format, kv.keys(layer, head, 0), kv.values(layer, head, 0), kv.chunk_stride(),
                          step.input.block_tables + size_t(tokens.sequence) * step.input.table_width,
                          first_position, tokens.count, step.input.seen && ahead ? step.input.seen + tokens.first : nullptr, group, head_dim, scale, cap, biases, bias_row, own_sinks, first_piece, tokens.piece, tokens.piece_end, 0, nullptr,
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
    float gathered[kMostHeadDim];
    for_rows(tile, num_rows(step), [&](int r) {
        const int token = token_of(step, r);
        const size_t position = size_t(step.input.positions[token]) % (angles.size() / size_t(rotated));
        const float* cos = angles_of(angles, rotated, axes, position, rotary_of(step.input, token), gathered);
        float* head = model.buffers[size_t(source)].row(r);
        for (int h = first; h < heads; h += stride) model.kernels->rope(head + h * head_dim, cos, cos + rotated / 2, rotated);
    });
}

namespace {

// Of one head; so long sequences are cut, that others who wait for the cores wait for no whole head.
constexpr int kEncoderQueries = 1024;

// That the longest sequence has.
int query_parts(const StepInput& in, bool whole) {
    int most = whole ? in.num_tokens : 0;
    for (int s = 0; s < in.num_sequences; s++) most = std::max(most, in.query_starts[s + 1] - in.query_starts[s]);
    return (most + kEncoderQueries - 1) / kEncoderQueries;
}

}  // namespace

int EncoderAttention::num_tiles(const Model&, const StepState& step) const {
    return (whole ? 1 : step.input.num_sequences) * kv_heads * query_parts(step.input, whole);
}

void EncoderAttention::run_tile(Model& model, const StepState& step, int tile, int worker) const {
    const int parts = query_parts(step.input, whole), begin = tile % parts * kEncoderQueries;
    const int sequence = tile / parts / kv_heads, kv_head = tile / parts % kv_heads;
    const int first = step.input.query_starts[sequence];
    const int count = (whole ? step.input.num_tokens : step.input.query_starts[sequence + 1]) - first;
    if (begin >= count) return;
    const int group = heads / kv_heads;
    Buffer& from = model.buffers[size_t(source)];
    Buffer& to = model.buffers[size_t(target)];
    const int head_dim = to.width / heads;
    const float* row = from.row(first);
    const float* keys = row + size_t(heads + kv_head) * head_dim;
    const size_t bias_row = bias_per_head ? bias_floats(model) : 0;
    const float* centre = bias < 0 ? nullptr : model.vectors[size_t(bias)].data() + size_t(kv_head) * group * bias_row + model.max_context - 1;
    model.kernels->encoder_attention({row + size_t(kv_head) * group * head_dim, keys, keys + size_t(kv_heads) * head_dim,
                                      to.row(first) + size_t(kv_head) * group * head_dim, size_t(from.width),
                                      size_t(to.width), count, begin, std::min(begin + kEncoderQueries, count), group, head_dim, causal, scale, centre,
                                      bias_row, -1,
                                      worker_scratch(model, worker, encoder_scratch(count, head_dim))});
}

}  // namespace llm
