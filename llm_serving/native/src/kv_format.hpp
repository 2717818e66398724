// How keys and values lie in the KV cache, in bytes.
#pragma once
#include <cstddef>
#include <cstdint>

namespace llm {

constexpr int kBlockTokens = 16;

// A block holds of each head, in this order of dimensions,
//   f16  keys [head_dim][16], values [16][head_dim]
//   q8   signed bytes, pairs of dimensions or tokens side by side: keys [head_dim / 2][16][2], values [8][head_dim][2],
//        each followed by 16 f32 scales, one for the vector of each token. x = scale * q, q in -127..127, and both come
//        from that vector's own values only.
enum class KvFormat : uint8_t { f16, q8 };

constexpr int kMostByteDims = 512;  // so that head_dim products of a byte and 16 bits add up to less than 2^31

// Of one head's keys, or values, in a block.
constexpr size_t vectors_bytes(KvFormat f, int head_dim) {
    return kBlockTokens * (f == KvFormat::f16 ? size_t(head_dim) * 2 : size_t(head_dim) + sizeof(float));
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
