// Attention over paged keys and values, one source for every instruction set.
//
// A row (one query head of one token) walks its own context block by block with an online softmax
// (Milakov & Gimelshein 2018). Its arithmetic depends on its own position only, so it does not matter
// which rows share a tile. Keys lie transposed in their block: sixteen scores need no horizontal sum.
#include "lanes.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

static_assert(kBlockTokens == 2 * kLanes);
constexpr float kLeast = -3.0e38f;  // below any score
constexpr int kChunk = 4;  // rows that share the loads of a block

// One row's running softmax. `out` is the sum of weights times values, not yet divided by `total`.
struct Row {
    const float* query;
    float* out;
    const float* bias;  // null, or what is added to the score of key j, at [j]
    float largest;
    int position;
    float total[kLanes];  // each lane sums every eighth key
};

static_assert(sizeof(Row) <= kRowFloats * sizeof(float));

// Sixteen tokens in f32: keys [head_dim][16], values [16][head_dim].
struct Block {
    const float *keys, *values;
    int first_key;  // position of the first of them
};

void widen(const uint16_t* source, int count, float* target) {
    for (int i = 0; i < count; i += kLanes) store(target + i, widen8(source + i));
}

template <int R>
LLM_INLINE void scores_of(const Row* rows, const float* keys, int head_dim, int first_key, Lanes scale, Lanes (&scores)[R][2]) {
    unrolled<R>(LLM_EACH(r) { scores[r][0] = scores[r][1] = broadcast(0); });
    for (int d = 0; d < head_dim; d++) {
        const Lanes low = load(keys + d * kBlockTokens), high = load(keys + d * kBlockTokens + kLanes);
        unrolled<R>(LLM_EACH(r) {
            const Lanes q = broadcast(rows[r].query[d]);
            scores[r][0] = fused(q, low, scores[r][0]);
            scores[r][1] = fused(q, high, scores[r][1]);
        });
    }
    unrolled<R>(LLM_EACH(r) {
        unrolled<2>(LLM_EACH(half) {
            scores[r][half] = multiply(scores[r][half], scale);
            if (rows[r].bias) scores[r][half] = add(scores[r][half], load(rows[r].bias + first_key + half * kLanes));
        });
    });
}

// Folds the scores into largest and total, shrinks what was summed so far, writes the weights.
LLM_INLINE void soften(Row& row, const Lanes (&scores)[2], int valid, int head_dim, float* weights) {
    const Lanes least = broadcast(kLeast), zero = broadcast(0.0f);
    const float most = largest(maximum(first_lanes(scores[0], valid, least), first_lanes(scores[1], valid - kLanes, least)));
    Lanes total = load(row.total);
    if (most > row.largest) {
        const Lanes shrink = exponential(broadcast(row.largest - most));
        total = multiply(total, shrink);
        for (int d = 0; d < head_dim; d += kLanes) store(row.out + d, multiply(load(row.out + d), shrink));
        row.largest = most;
    }
    const Lanes peak = broadcast(row.largest);
    const Lanes low = first_lanes(exponential(subtract(scores[0], peak)), valid, zero);
    const Lanes high = first_lanes(exponential(subtract(scores[1], peak)), valid - kLanes, zero);
    store(weights, low);
    store(weights + kLanes, high);
    store(row.total, add(total, add(low, high)));
}

// out[row][d .. d + 8 V] += weights @ values over the first `valid` tokens, in token order.
template <int R, int V>
LLM_INLINE void add_values(Row* rows, const float (*weights)[kBlockTokens], const float* values, int head_dim, int valid, int d) {
    Lanes acc[R][V];
    unrolled<R>(LLM_EACH(r) {
        unrolled<V>(LLM_EACH(v) { acc[r][v] = load(rows[r].out + d + v * kLanes); });
    });
    for (int t = 0; t < valid; t++)
        unrolled<V>(LLM_EACH(v) {
            const Lanes value = load(values + t * head_dim + d + v * kLanes);
            unrolled<R>(LLM_EACH(r) { acc[r][v] = fused(broadcast(weights[r][t]), value, acc[r][v]); });
        });
    unrolled<R>(LLM_EACH(r) {
        unrolled<V>(LLM_EACH(v) { store(rows[r].out + d + v * kLanes, acc[r][v]); });
    });
}

template <int R>
void fold(Row* rows, const Block& block, int head_dim, float scale, int valid) {
    Lanes scores[R][2];
    float weights[R][kBlockTokens];
    scores_of<R>(rows, block.keys, head_dim, block.first_key, broadcast(scale), scores);
    unrolled<R>(LLM_EACH(r) { soften(rows[r], scores[r], valid, head_dim, weights[r]); });
    constexpr int kWide = R > 2 ? 2 : 4;  // accumulators stay in registers
    int d = 0;
    for (; d + kWide * kLanes <= head_dim; d += kWide * kLanes) add_values<R, kWide>(rows, weights, block.values, head_dim, valid, d);
    for (; d < head_dim; d += kLanes) add_values<R, 1>(rows, weights, block.values, head_dim, valid, d);
}

void fold_rows(Row* rows, int count, const Block& block, int head_dim, float scale, int valid) {
    switch (count) {
        case 4: return fold<4>(rows, block, head_dim, scale, valid);
        case 3: return fold<3>(rows, block, head_dim, scale, valid);
        case 2: return fold<2>(rows, block, head_dim, scale, valid);
        default: return fold<1>(rows, block, head_dim, scale, valid);
    }
}

void finish_rows(Row* rows, int count, int head_dim) {
    for (int r = 0; r < count; r++) {
        const Lanes inverse = broadcast(1.0f / sum(load(rows[r].total)));
        for (int d = 0; d < head_dim; d += kLanes) store(rows[r].out + d, multiply(load(rows[r].out + d), inverse));
    }
}

int clamp_to_block(int tokens) { return tokens < 0 ? 0 : tokens < kBlockTokens ? tokens : kBlockTokens; }

// Every row folds what it may see of the block.
void fold_causal(Row* rows, int num_rows, const Block& block, int head_dim, float scale) {
    for (int r = 0, count; r < num_rows; r += count) {
        // A chunk takes rows that see equally much: slots past that may hold anything, even NaN.
        const int valid = clamp_to_block(rows[r].position + 1 - block.first_key);
        for (count = 1; count < kChunk && r + count < num_rows; count++)
            if (clamp_to_block(rows[r + count].position + 1 - block.first_key) != valid) break;
        if (valid) fold_rows(rows + r, count, block, head_dim, scale, valid);
    }
}

}  // namespace

void attention(const AttentionTile& t) {
    const int num_rows = t.num_tokens * t.group;
    float* keys = t.scratch;
    float* values = keys + size_t(t.head_dim) * kBlockTokens;
    Row* rows = reinterpret_cast<Row*>(values + size_t(t.head_dim) * kBlockTokens);
    for (int r = 0; r < num_rows; r++) {
        const int token = r / t.group, head = r % t.group;
        rows[r] = {t.query + size_t(token) * t.query_stride + head * t.head_dim,
                   t.out + size_t(token) * t.out_stride + head * t.head_dim, nullptr, kLeast, t.first_position + token, {0}};
        for (int d = 0; d < t.head_dim; d++) rows[r].out[d] = 0;
    }
    const int last_position = t.first_position + t.num_tokens - 1;
    for (int block = 0; block * kBlockTokens <= last_position; block++) {
        const size_t at = block_offset(t.blocks[block], size_t(t.head_dim) * kBlockTokens, t.chunk_stride);
        widen(t.keys + at, t.head_dim * kBlockTokens, keys);
        widen(t.values + at, t.head_dim * kBlockTokens, values);
        fold_causal(rows, num_rows, {keys, values, block * kBlockTokens}, t.head_dim, t.scale);
    }
    finish_rows(rows, num_rows, t.head_dim);
}

// Keys and values are laid out as blocks of the cache are, in f32; then it is the same fold.
void encoder_attention(const EncoderTile& t) {
    const int num_blocks = (t.num_tokens + kBlockTokens - 1) / kBlockTokens;
    const size_t block_floats = size_t(t.head_dim) * kBlockTokens;
    float* keys = t.scratch;
    float* values = keys + num_blocks * block_floats;
    for (int token = 0; token < t.num_tokens; token++) {
        float* block = keys + token / kBlockTokens * block_floats + token % kBlockTokens;
        for (int d = 0; d < t.head_dim; d++) block[d * kBlockTokens] = t.key[size_t(token) * t.stride + d];
        for (int d = 0; d < t.head_dim; d++) values[size_t(token) * t.head_dim + d] = t.value[size_t(token) * t.stride + d];
    }
    for (int token = t.num_tokens; token < num_blocks * kBlockTokens; token++)
        for (int d = 0; d < t.head_dim; d++)
            keys[token / kBlockTokens * block_floats + d * kBlockTokens + token % kBlockTokens] = 0;
    const int num_rows = t.num_tokens * t.group;
    for (int first = 0; first < num_rows; first += kChunk) {
        const int count = num_rows - first < kChunk ? num_rows - first : kChunk;
        Row rows[kChunk];
        for (int r = 0; r < count; r++) {
            const int token = (first + r) / t.group, head = (first + r) % t.group;
            rows[r] = {t.query + size_t(token) * t.stride + head * t.head_dim,
                       t.out + size_t(token) * t.out_stride + head * t.head_dim,
                       t.bias ? t.bias + head * t.bias_stride - token : nullptr, kLeast, token, {0}};
            for (int d = 0; d < t.head_dim; d++) rows[r].out[d] = 0;
        }
        for (int block = 0; block < num_blocks; block++) {
            const Block at = {keys + block * block_floats, values + block * block_floats, block * kBlockTokens};
            if (t.causal)
                fold_causal(rows, count, at, t.head_dim, t.scale);
            else
                fold_rows(rows, count, at, t.head_dim, t.scale, clamp_to_block(t.num_tokens - at.first_key));
        }
        finish_rows(rows, count, t.head_dim);
    }
}

}  // namespace llm::LLM_NAMESPACE
