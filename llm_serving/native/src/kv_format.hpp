// How keys and values lie in the KV cache, in bytes.
#pragma once
#include <cstddef>
#include <cstdint>

namespace llm {

constexpr int kBlockTokens = 16;

// Keys and values are signed integers. A block holds of each head pairs of dimensions, or of tokens, side by side:
// keys [head_dim / 2][16][2], values [8][head_dim][2], each followed by 16 f32 scales, one for the vector of each token.
// x = scale * q, and both come from that vector's own values only.
enum class KvFormat : uint8_t { q16, q8 };

// Of the magnitude of q. Sums of products with 16-bit factors stay below 2^31 as far as the magnitudes of the factors add up to
// kMostFactorSum, and each is rounded by half at most. With bytes that bounds heads of more than 516 dimensions only.
template <class T>
constexpr int kMostOf = sizeof(T) == 1 ? 127 : 8191;
constexpr int kMostHeadDim = 576;  // of latent attention: 512 that are compressed, 64 that rotate
template <class T>
constexpr int kMostFactorSum = sizeof(T) == 1 ? 0x7fffffff / 127 - 512 : (1 << 18) - 512;
static_assert(kMostHeadDim <= 2 * 512, "rounding adds half for each factor");

// Of one head's keys, or values, in a block.
constexpr size_t vectors_bytes(KvFormat f, int head_dim) {
    return kBlockTokens * (size_t(head_dim) * (f == KvFormat::q16 ? 2 : 1) + sizeof(float));
}

// Blocks of one layer and head lie together in chunks, and a chunk of all layers and heads follows the other.
// All blocks together would touch a huge page for each layer and head from the first token on; each alone
// spreads a context over as many pages as it has blocks, and took one sequence of 1 900 tokens from 147 to 88 tok/s.
// Not a power of two, lest keys, values and heads meet in the same sets of caches and banks of memory.
constexpr int kChunkBlocks = 61;

// Bytes from block 0 of a layer and head to block `block`; `block_bytes` is vectors_bytes().
inline size_t block_offset(int block, size_t block_bytes, size_t chunk_stride) {
    return size_t(block / kChunkBlocks) * chunk_stride + size_t(block % kChunkBlocks) * block_bytes;
}

}  // namespace llm
