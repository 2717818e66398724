// Attention of encoders by AMX's tiles: queries, keys, weights and values rounded to bfloat16, sums, softmax and merging of
// pieces in f32, as attention_floats.hpp has them. A row does not depend on the rows beside it.
#include <algorithm>

#include "attention_rows.hpp"
#include "tiles.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

constexpr int kStep = 32;  // keys, or dimensions, that one product of tiles sums
constexpr int kRowBlocks = 2;
constexpr int kRowsTogether = kRowBlocks * kTileLines;

constexpr int tiles_of(int count, int each) { return (count + each - 1) / each; }

LLM_INLINE __mmask16 lanes_from(int first, int count) {
    const int left = count - first;
    return __mmask16(left >= 16 ? 0xffff : left <= 0 ? 0 : (1u << left) - 1);
}

// 32 numbers from x[first] on, of which there are `count`, times `factor`; zeros behind them.
LLM_INLINE __m512i step_of(const float* x, int first, int count, __m512 factor) {
    const __m512 low = _mm512_maskz_loadu_ps(lanes_from(first, count), x + first);
    const __m512 high = _mm512_maskz_loadu_ps(lanes_from(first + 16, count), x + first + 16);
    return __m512i(_mm512_cvtne2ps_pbh(_mm512_mul_ps(high, factor), _mm512_mul_ps(low, factor)));
}

// Keys and values of a KV head as tiles. What is missing from the last ones is zero.
//   keys    [block of 16 keys][step of dimensions], each [pair of dimensions][key][2]
//   values  [step of keys][16 dimensions], each [pair of keys][dimension][2]
class Context {
public:
    explicit Context(const EncoderTile& t) : steps_(tiles_of(t.head_dim, kStep)), columns_(tiles_of(t.head_dim, kTileLines)) {
        const size_t pieces = size_t(tiles_of(t.num_tokens, kPieceTokens));
        const size_t of_keys = pieces * kPieceBlocks * size_t(steps_);
        keys_ = tile_room(of_keys + pieces * (kPieceTokens / kStep) * size_t(columns_));
        values_ = keys_ + of_keys;
        for (int token = 0; token < t.num_tokens; token++) lay_out_key(t, token);
        const int end = tiles_of(t.num_tokens, kStep) * kStep;
        for (int token = 0; token < end; token += 2) lay_out_values(t, token);
        for (int token = t.num_tokens; token < tiles_of(t.num_tokens, kBlockTokens) * kBlockTokens; token++)
            for (int s = 0; s < steps_; s++) scatter(token, s, _mm512_setzero_si512());
    }
    const Tile* keys(int block) const { return keys_ + size_t(block) * size_t(steps_); }
    const Tile* values(int step) const { return values_ + size_t(step) * size_t(columns_); }
    int steps() const { return steps_; }      // of dimensions
    int columns() const { return columns_; }  // tiles of 16 dimensions

private:
    void scatter(int token, int step, __m512i pairs) {
        auto* tile = reinterpret_cast<uint8_t*>(keys_ + size_t(token / kBlockTokens) * size_t(steps_) + step);
        const __m512i lines = _mm512_setr_epi32(0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240);
        _mm512_i32scatter_epi32(tile + token % kBlockTokens * 4, lines, pairs, 4);
    }
    void lay_out_key(const EncoderTile& t, int token) {
        const float* key = t.key + size_t(token) * t.stride;
        for (int s = 0; s < steps_; s++) scatter(token, s, step_of(key, s * kStep, t.head_dim, _mm512_set1_ps(1.0f)));
    }
    void lay_out_values(const EncoderTile& t, int token) {
        const float* value = t.value + size_t(token) * t.stride;
        Tile* tiles = values_ + size_t(token / kStep) * size_t(columns_);
        for (int c = 0; c < columns_; c++) {
            const __mmask16 lanes = lanes_from(c * kTileLines, t.head_dim);
            const auto of = [&](int i) {
                return _mm512_maskz_loadu_ps(token + i < t.num_tokens ? lanes : 0, value + size_t(i) * t.stride + c * kTileLines);
            };
            store_pair(tiles[c].lines[token % kStep / 2], of(0), of(1));
        }
    }

    int steps_, columns_;
    Tile *keys_, *values_;
};

// What a thread needs for as many rows as go together.
struct alignas(64) Scratch {
    uint16_t queries[kRowsTogether][kMostHeadDim];
    float scores[kRowsTogether][kPieceTokens];
    uint16_t weights[kRowsTogether][kPieceTokens];
    float states[2][kRowsTogether][state_floats(kMostHeadDim)];
    Row rows[kRowsTogether];
};

// R times 16 rows of `rows`, [row][stride bytes], times two tiles of a context, `apart` each from the next; sums over `steps`.
template <int R>
LLM_INLINE void multiply(const void* rows, size_t stride, const Tile* first, const Tile* second, int apart, int steps) {
    unrolled<R>(LLM_WITH(r) { unrolled<2>(LLM_WITH(i) { clear_tile<2 * r + i>(); }); });
    const auto* line = static_cast<const uint8_t*>(rows);
    for (int s = 0; s < steps; s++, line += kLine, first += apart, second += apart) {
        load_tile<6>(first, kLine);
        load_tile<7>(second, kLine);
        unrolled<R>(LLM_WITH(r) {
            load_tile<4 + r>(line + r * kTileLines * stride, stride);
            unrolled<2>(LLM_WITH(i) { multiply_tiles<2 * r + i, 4 + r, 6 + i>(); });
        });
    }
}

template <int R>
LLM_INLINE void store_products(float* to, size_t floats, bool both) {
    unrolled<R>(LLM_WITH(r) {
        store_tile<2 * r>(to + r * kTileLines * floats, floats * sizeof(float));
        if (both) store_tile<2 * r + 1>(to + r * kTileLines * floats + kTileLines, floats * sizeof(float));
    });
}

// scores[0 .. seen], softened, to bfloat16; zeros up to the end of the step.
LLM_INLINE void round_weights(const float* scores, int seen, int end, uint16_t* weights) {
    for (int k = 0; k < end; k += kStep) _mm512_store_si512(weights + k, step_of(scores, k, seen, _mm512_set1_ps(1.0f)));
}

// Rows take in a piece, of which the last sees `most` keys. `states` [row][state_floats()].
template <int R>
void attend_tiles(Scratch& s, const Context& context, int num_rows, int piece, int most, int head_dim, float* states) {
    const int first_key = piece * kPieceTokens, blocks = tiles_of(most, kBlockTokens), steps = tiles_of(most, kStep);
    for (int b = 0; b < blocks; b += 2) {
        const Tile* keys = context.keys(piece * kPieceBlocks + b);
        multiply<R>(s.queries, sizeof s.queries[0], keys, b + 1 < blocks ? keys + context.steps() : keys, 1, context.steps());
        store_products<R>(s.scores[0] + b * kBlockTokens, kPieceTokens, b + 1 < blocks);
    }
    Tail tails[kRowsTogether];
    for (int r = 0; r < num_rows; r++) {
        const int seen = keys_within(s.rows[r].seen, first_key);
        tails[r] = soften(s.scores[r], s.rows[r].bias ? s.rows[r].bias + first_key : nullptr, seen);
        round_weights(s.scores[r], seen, steps * kStep, s.weights[r]);
    }
    const int stride = state_floats(head_dim);
    for (int c = 0; c < context.columns(); c += 2) {
        const bool both = c + 1 < context.columns();
        const Tile* values = context.values(piece * (kPieceTokens / kStep)) + c;
        multiply<R>(s.weights, sizeof s.weights[0], values, both ? values + 1 : values, context.columns(), steps);
        store_products<R>(states + c * kTileLines, size_t(stride), both);
    }
    for (int r = 0; r < num_rows; r++) tail_of(states + r * stride, head_dim) = tails[r];  // where the last tile may reach
}

// Rows `first` to `first` + `count` of a tile: one query head of one token each.
void gather_rows(const EncoderTile& t, int first, int count, Scratch& s) {
    const __m512 scale = _mm512_set1_ps(t.scale * kLog2E);
    const int width = tiles_of(t.head_dim, kStep) * kStep;
    for (int r = 0; r < kRowsTogether; r++) {
        const int row = std::min(first + r, first + count - 1), token = row / t.group, head = row % t.group;
        s.rows[r] = {t.query + size_t(token) * t.stride + head * t.head_dim, t.bias ? t.bias + head * t.bias_stride + token * t.bias_row : nullptr,
                     t.causal ? token + 1 : t.num_tokens};
        for (int d = 0; d < width; d += kStep) _mm512_store_si512(s.queries[r] + d, step_of(s.rows[r].query, d, t.head_dim, scale));
    }
}

}  // namespace

void encoder_attention(const EncoderTile& t) {
    thread_local std::vector<Scratch> room(1);
    Scratch& s = room[0];
    const Context context(t);
    const Tiles tiles(TileShapes(kTileLines, 0));
    const int stride = state_floats(t.head_dim), end = t.end * t.group;
    for (int first = t.begin * t.group; first < end; first += kRowsTogether) {
        const int count = std::min(end - first, kRowsTogether);
        gather_rows(t, first, count, s);
        for (int p = 0; p * kPieceTokens < s.rows[count - 1].seen; p++) {
            float* states = s.states[p > 0][0];
            const int most = keys_within(s.rows[count - 1].seen, p * kPieceTokens);
            if (count > kTileLines) attend_tiles<2>(s, context, count, p, most, t.head_dim, states);
            else attend_tiles<1>(s, context, count, p, most, t.head_dim, states);
            for (int r = 0; p > 0 && r < count; r++) merge(s.states[0][0] + r * stride, states + r * stride, t.head_dim);
        }
        for (int r = 0; r < count; r++) {
            const int token = (first + r) / t.group, head = (first + r) % t.group;
            finish(s.states[0][0] + r * stride, t.head_dim, nullptr, t.out + size_t(token) * t.out_stride + head * t.head_dim);
        }
    }
}

}  // namespace llm::LLM_NAMESPACE
