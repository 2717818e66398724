// Where products with 256-bit registers take weights from: a packed panel, or one that was unpacked for many rows.
// Included only by files that are compiled once per instruction set.
#pragma once
#include <vector>

#include "kernels.hpp"
#include "scales_256.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

// A panel as it is stored.
template <Format F>
class PackedPanel {
public:
    static constexpr Format format = F;

    PackedPanel(const GemmTile& t, int panel) : quants_(t.weight->quants(panel)), scales_(t.weight->scales(panel)) {}
    // Vector v of the group at hand, unsigned: of q4 nibbles, of others raised by raised_by().
    __m256i bytes(int v) const {
        if constexpr (is_q4(F)) return kept<F>(quants_, v);
        else return raised<F>(quants_, v, raise_of(F));
    }
    const uint8_t* quants() const { return quants_; }
    GroupScales scales(int g) const { return load_scales<F>(scales_, g); }
    static constexpr int raised_by() { return raise_of(F); }
    static constexpr int group_bytes() { return quant_bytes(F) + scale_bytes(F); }
    void next() { quants_ += quant_bytes(F); }

private:
    const uint8_t *quants_, *scales_;
};

// A group of a panel, unpacked: bytes as above. 16-bit weights are not unpacked: what they take is loads of activations.
struct alignas(32) UnpackedGroup {
    uint8_t bytes[kGroup / 4][32];
    float scale[kPanel], other[kPanel];
};

// As many of them, kept by each thread.
UnpackedGroup* unpacked_room(int groups) {
    thread_local std::vector<UnpackedGroup> room;
    if (room.size() < size_t(groups)) room.resize(size_t(groups));
    return room.data();
}

template <Format Kind>
class UnpackedPanel {
public:
    static constexpr Format format = Kind;

    UnpackedPanel(const GemmTile& t, int)
        : group_(unpacked_room(0)), raised_by_(raise_of(t.weight->format)), group_bytes_(int(t.weight->panel_stride) / t.weight->groups()) {}
    __m256i bytes(int v) const { return _mm256_load_si256(reinterpret_cast<const __m256i*>(group_->bytes[v])); }
    GroupScales scales(int) const { return {_mm256_load_ps(group_->scale), _mm256_load_ps(group_->other)}; }
    int raised_by() const { return raised_by_; }
    int group_bytes() const { return group_bytes_; }
    void next() { group_++; }

private:
    const UnpackedGroup* group_;
    int raised_by_, group_bytes_;
};

// All groups of a panel, for UnpackedPanel of its kind.
template <Format F>
__attribute__((noinline)) void unpack_panel(const GemmTile& t, int panel) {
    PackedPanel<F> from(t, panel);
    const int groups = t.weight->groups();
    UnpackedGroup* to = unpacked_room(groups);
    for (int g = 0; g < groups; g++, from.next()) {
        const GroupScales s = from.scales(g);
        _mm256_store_ps(to[g].scale, s.scale);
        _mm256_store_ps(to[g].other, s.other);
        LLM_EACH(v, 8) { _mm256_store_si256(reinterpret_cast<__m256i*>(to[g].bytes[v]), from.bytes(v)); }
    }
}

}  // namespace

}  // namespace llm::LLM_NAMESPACE
