// Blocks of the KV cache: memory for them, and as bytes that can be kept elsewhere and put back into any block.
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "plan.hpp"

namespace llm {

namespace {

// piece(memory, offset, bytes) for every part of the block that lies in one place, in the order of the offsets.
template <class Piece>
void for_each_piece(const KvCache& kv, int block, size_t bytes, const Piece& piece) {
    if (block < 0 || block >= kv.blocks) throw std::invalid_argument("a block id is out of range");
    if (bytes != kv.block_bytes) throw std::invalid_argument("a block has another number of bytes");
    size_t offset = 0;
    for (int layer = 0; layer < int(kv.layers.size()); layer++) {
        const size_t size = kv.vectors(layer);
        for (int head = 0; head < kv.layers[size_t(layer)].heads; head++) {
            piece(kv.keys(layer, head, block), offset, size);
            piece(kv.values(layer, head, block), offset + size, size);
            offset += 2 * size;
        }
    }
}

}  // namespace

void KvCache::lay_out(const std::vector<std::pair<int, int>>& shapes, KvFormat kept_as) {
    format = kept_as;
    layers.clear();
    block_bytes = 0;
    fewest_heads = most_heads = shapes.front().first;
    most_head_dim = 0;
    for (const auto& [heads, head_dim] : shapes) {
        layers.push_back({heads, head_dim, block_bytes});
        block_bytes += 2 * size_t(heads) * vectors_bytes(format, head_dim);
        fewest_heads = std::min(fewest_heads, heads);
        most_heads = std::max(most_heads, heads);
        most_head_dim = std::max(most_head_dim, head_dim);
    }
}

// The first token of a chunk touches all of its pages, and the kernel gives a page when it is touched: in a virtual machine
// that stopped a stream for 58 ms once in 976 tokens. So each new block touches its share of the chunk that comes next.
void KvCache::touch_ahead(int block) {
    wanted_ = std::max(wanted_, std::min(size_t(block + 1 + kChunkBlocks), chunks() * kChunkBlocks) * block_bytes);
    touch(wanted_);
}

// Even so a huge page took 5 ms there, as long as a step. What one long prompt needs is better had before it comes.
bool KvCache::touch_while_idle() {
    if (!memory) return false;
    constexpr size_t kAtOnce = size_t(2) << 20, kAhead = size_t(128) << 20;
    const size_t end = std::min(wanted_ + kAhead, chunks() * chunk_stride());
    touch(std::min(touched_ + kAtOnce, end));
    return touched_ < end;
}

void KvCache::touch(size_t end) {
    constexpr size_t kPage = 4096;
    auto* bytes = static_cast<volatile uint8_t*>(memory->data());
    for (; touched_ < end; touched_ += kPage) bytes[touched_] = bytes[touched_];  // which may be in use already
}

void Plan::read_block(int block, uint8_t* out, size_t bytes) const {
    for_each_piece(model.kv, block, bytes, [&](const uint8_t* memory, size_t at, size_t size) { memcpy(out + at, memory, size); });
}

void Plan::write_block(int block, const uint8_t* data, size_t bytes) {
    for_each_piece(model.kv, block, bytes, [&](uint8_t* memory, size_t at, size_t size) { memcpy(memory, data + at, size); });
}

}  // namespace llm
