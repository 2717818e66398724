// How keys and values lie in the KV cache, in bytes.
#pragma once
#include <cstddef>
#include <cstdint>

namespace llm {

constexpr int kBlockTokens = 16;

// Keys and values are signed integers. A block holds of each head pairs of dimensions, or of tokens, side by side:
// keys [head_dim / 2][16][2], values [8][head_dim][2], each followed by 16 f32 scales, one for the vector of each token.
// x = scale * q, and both come from that vector's own values only. What q8 and q4 keep is rotated first (rotation.hpp); the q of
// q4 are those of kCodes, see Codes for where they lie.
enum class KvFormat : uint8_t { q16, q8, q4 };

constexpr bool is_turned(KvFormat f) { return f != KvFormat::q16; }

// Two of 4 bits. 32 bytes hold two times 32 that integers would hold one after the other: the first in the low halves, the
// second in the high ones. So both of a byte are of one token, and two threads that store two tokens do not share a byte.
struct Codes {
    uint8_t both;
};

// What a code stands for: the values that lose least of a rotated vector whose largest is kMostCoded (Lloyd 1982, of SmolLM2's).
constexpr int8_t kCodes[16] = {-127, -100, -80, -63, -48, -33, -20, -7, 7, 20, 33, 48, 63, 80, 100, 127};
constexpr float kMostCoded = 133;

// Of the magnitude of q. Sums of products with 16-bit factors stay below 2^31 as far as the magnitudes of the factors add up to
// kMostFactorSum, and each is rounded by half at most. With bytes that bounds heads of more than 516 dimensions only.
template <class T>
constexpr int kMostOf = sizeof(T) == 1 ? 127 : 8191;
constexpr int kMostHeadDim = 576;  // of latent attention: 512 that are compressed, 64 that rotate
template <class T>
constexpr int kMostFactorSum = sizeof(T) == 1 ? 0x7fffffff / 127 - 512 : (1 << 18) - 512;
static_assert(kMostHeadDim <= 2 * 512, "rounding adds half for each factor");

// Dimensions that there is room for.
template <class T>
constexpr int kept_dims(int head_dim) { return head_dim; }
template <>
constexpr int kept_dims<Codes>(int head_dim) { return (head_dim + 31) / 32 * 32; }

// Of one head's keys, or values, in a block.
constexpr size_t vectors_bytes(KvFormat f, int head_dim) {
    const int bytes = f == KvFormat::q16 ? 2 * head_dim : f == KvFormat::q8 ? head_dim : kept_dims<Codes>(head_dim) / 2;
    return kBlockTokens * (size_t(bytes) + sizeof(float));
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
