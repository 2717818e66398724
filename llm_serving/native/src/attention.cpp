// Attention over paged keys and values, and over a whole sequence that is not cached.
#include <algorithm>

#include "attention_rows.hpp"
#include "rotation.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

// How many keys a token of the tile sees.
int seen_by(const AttentionTile& t, int token) { return t.seen ? t.seen[token] : t.first_position + token + 1; }

const float* sink_of(const AttentionTile& t, int head) { return t.sinks ? t.sinks + head : nullptr; }

// What all pieces give for row r, as it was before values were turned.
void finish(const AttentionTile& t, int r, const float* state) {
    float* out = t.out + size_t(r / t.group) * t.out_stride + r % t.group * t.head_dim;
    finish(state, t.head_dim, sink_of(t, r % t.group), out);
    if (is_turned(t.format)) rotate(out, t.head_dim);
}

template <class T>
void cached_attention(const AttentionTile& t) {
    const int num_rows = t.num_tokens * t.group, stride = state_floats(t.head_dim);
    Row* rows = reinterpret_cast<Row*>(t.scratch);
    float* states = t.scratch + size_t(num_rows) * kRowFloats;
    float* turned = states + size_t(num_rows) * stride;
    float* scratch = turned + size_t(num_rows) * t.head_dim;
    for (int r = 0; r < num_rows; r++) {
        const int token = r / t.group, head = r % t.group;
        const int position = t.first_position + token;
        rows[r] = {t.query + size_t(token) * t.query_stride + head * t.head_dim,
                   t.bias ? t.bias + head * t.bias_stride - position : nullptr, seen_by(t, token)};
        if constexpr (!std::is_same_v<T, int16_t>) {
            float* query = turned + size_t(r) * t.head_dim;
            std::copy_n(rows[r].query, t.head_dim, query);
            rotate(query, t.head_dim);
            rows[r].query = query;
        }
    }
    const int seen = seen_by(t, t.num_tokens - 1);
    const int first = std::max(t.first_piece, t.states ? t.piece : 0), end = t.states ? t.piece_end : (seen + kPieceTokens - 1) / kPieceTokens;
    for (int p = first; p < end; p++) {
        Piece<T> piece = {{}, {}, p * kPieceTokens, t.head_dim, t.scale, t.cap * kLog2E, true};
        const int last = (seen - 1) / kBlockTokens, known = end * kPieceBlocks - 1;
        for (int b = 0; b < 2 * kPieceBlocks; b++) {
            const int block = t.blocks[std::min({p * kPieceBlocks + b, last, known})];
            const size_t at = block_offset(block, vectors_bytes(t.format, t.head_dim), t.chunk_stride);
            piece.keys[b] = reinterpret_cast<const T*>(t.keys + at);
            if (b < kPieceBlocks) piece.values[b] = reinterpret_cast<const T*>(t.values + at);
        }
        float* into = t.states ? t.states + size_t(p - t.piece) * t.piece_stride : states;
        take_in(rows, num_rows, piece, t.states || p == first, into, scratch);
    }
    for (int r = 0; !t.states && r < num_rows; r++) finish(t, r, states + size_t(r) * stride);
}

}  // namespace

void attention(const AttentionTile& t) {
    if (t.format == KvFormat::q4) return cached_attention<Codes>(t);
    return t.format == KvFormat::q8 ? cached_attention<int8_t>(t) : cached_attention<int16_t>(t);
}

void merge_attention(const AttentionTile& t) {
    const int stride = state_floats(t.head_dim);
    for (int r = 0; r < t.num_tokens * t.group; r++) {
        float* state = t.states + t.first_piece * t.piece_stride + size_t(r) * stride;
        for (int p = 1; (t.first_piece + p) * kPieceTokens < seen_by(t, r / t.group); p++)
            merge(state, state + p * t.piece_stride, t.head_dim);
        finish(t, r, state);
    }
}

namespace {

// Keys and values laid out as blocks of the cache are, in f32; what is missing from the last block is zero.
void lay_out(const EncoderTile& t, float* keys, float* values) {
    const size_t block_floats = size_t(t.head_dim) * kBlockTokens;
    for (int token = 0; token < t.num_tokens; token++) {
        float* block = keys + token / kBlockTokens * block_floats + token % kBlockTokens;
        for (int d = 0; d < t.head_dim; d++) block[d * kBlockTokens] = t.key[size_t(token) * t.stride + d];
        for (int d = 0; d < t.head_dim; d++) values[size_t(token) * t.head_dim + d] = t.value[size_t(token) * t.stride + d];
    }
    for (int token = t.num_tokens; token % kBlockTokens; token++)
        for (int d = 0; d < t.head_dim; d++)
            keys[token / kBlockTokens * block_floats + d * kBlockTokens + token % kBlockTokens] = 0;
}

}  // namespace

void encoder_attention(const EncoderTile& t) {
    const size_t block_floats = size_t(t.head_dim) * kBlockTokens;
    const int stride = state_floats(t.head_dim);
    float* keys = t.scratch;
    float* values = keys + encoder_blocks(t.num_tokens) * block_floats;
    float* states = values + encoder_blocks(t.num_tokens) * block_floats;
    float* scratch = states + kAttentionRows * stride;
    lay_out(t, keys, values);
    const int num_rows = t.end * t.group;
    for (int first = t.begin * t.group; first < num_rows; first += kMostRows) {
        const int count = num_rows - first < kMostRows ? num_rows - first : kMostRows;
        Row rows[kMostRows];
        for (int r = 0; r < count; r++) {
            const int token = (first + r) / t.group, head = (first + r) % t.group;
            rows[r] = {t.query + size_t(token) * t.stride + head * t.head_dim,
                       t.bias ? t.bias + head * t.bias_stride + token * t.bias_row : nullptr, t.causal ? token + 1 : t.num_tokens};
        }
        for (int p = 0; p * kPieceTokens < rows[count - 1].seen; p++) {
            Piece<float> piece = {{}, {}, p * kPieceTokens, t.head_dim, t.scale, 0, false};
            for (int b = 0; b < kPieceBlocks; b++) {
                piece.keys[b] = keys + size_t(p * kPieceBlocks + b) * block_floats;
                piece.values[b] = values + size_t(p * kPieceBlocks + b) * block_floats;
            }
            take_in(rows, count, piece, p == 0, states, scratch);
        }
        for (int r = 0; r < count; r++) {
            const int token = (first + r) / t.group, head = (first + r) % t.group;
            finish(states + r * stride, t.head_dim, nullptr, t.out + size_t(token) * t.out_stride + head * t.head_dim);
        }
    }
}

}  // namespace llm::LLM_NAMESPACE
