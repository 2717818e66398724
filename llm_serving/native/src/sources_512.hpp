// Where AVX-512's products take weights from: packed panels, or a pair of panels that was unpacked for many rows.
// Included only by files that are compiled once per instruction set.
#pragma once
#include <vector>

#include "kernels.hpp"
#include "weights_512.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

// A pair of panels as it is stored.
template <Format F>
class PackedPair {
public:
    static constexpr Format format = F;

    PackedPair() = default;
    PackedPair(const GemmTile& t, int panel) {
        const int partner = panel + 1 < t.panel_end ? panel + 1 : panel;
        quants_ = {t.weight->quants(panel), t.weight->quants(partner)};
        scales_ = {t.weight->scales(panel), t.weight->scales(partner)};
    }
    // Vector v of the group at hand, unsigned: of q4 nibbles, of others raised by 128.
    __m512i bytes(int v) const {
        if constexpr (is_q4(F)) return kept<F>(quants_, v);
        else return raised<F>(quants_, v);
    }
    Pair quants() const { return quants_; }
    GroupScales scales(int g) const { return load_scales<F>(scales_, g); }
    static constexpr int group_bytes() { return quant_bytes(F) + scale_bytes(F); }  // of each of both panels
    void next() { quants_ = {quants_.low + quant_bytes(F), quants_.high + quant_bytes(F)}; }

private:
    Pair quants_, scales_;
};

// A group of a pair of panels, unpacked: bytes as above, or sixteen pairs of 16-bit weights, each for sixteen outputs.
struct alignas(64) UnpackedBytes {
    uint8_t bytes[kGroup / 4][64];
    float scale[kPair], other[kPair];
};
struct alignas(64) UnpackedTwos {
    int16_t twos[kGroup / 2][2 * kPair];
    float scale[kPair];
};

// As many groups, kept by each thread.
template <class Group>
Group* unpacked_room(int groups) {
    thread_local std::vector<Group> room;
    if (room.size() < size_t(groups)) room.resize(size_t(groups));
    return room.data();
}

// Once unpacked, formats of a kind differ no more: they share kernels under the name of one of them.
constexpr Format kind_of(Format f) {
    if (is_q4(f)) return Format::q4;
    if (reads_wide(f)) return Format::q12;
    if (f == Format::q5_k) return f;
    return scales_halves(f) ? Format::q6 : Format::s8;
}

template <Format Kind>
class UnpackedPair {
public:
    static constexpr Format format = Kind;
    using Group = std::conditional_t<reads_wide(Kind), UnpackedTwos, UnpackedBytes>;

    UnpackedPair() = default;
    UnpackedPair(const GemmTile& t, int) : group_(unpacked_room<Group>(0)), group_bytes_(int(t.weight->panel_stride) / t.weight->groups()) {}
    __m512i bytes(int v) const { return _mm512_load_si512(group_->bytes[v]); }
    __m512i twos(int k) const { return _mm512_load_si512(group_->twos[k]); }
    GroupScales scales(int) const {
        if constexpr (reads_wide(Kind)) return {_mm512_load_ps(group_->scale), _mm512_setzero_ps()};
        else return {_mm512_load_ps(group_->scale), _mm512_load_ps(group_->other)};
    }
    int group_bytes() const { return group_bytes_; }
    void next() { group_++; }

private:
    const Group* group_;
    int group_bytes_;
};

// Vector v of a group, four inputs of each output, as two vectors of two.
template <Format F>
LLM_INLINE void unpack_four(Pair quants, int v, __m512i& first, __m512i& second) {
    if constexpr (F == Format::q12) {
        const __m512i low = _mm512_loadu_si512(quants.low + 64 * v), high = _mm512_loadu_si512(quants.high + 64 * v);
        const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        first = _mm512_permutex2var_epi32(low, even, high);
        second = _mm512_permutex2var_epi32(low, _mm512_add_epi32(even, _mm512_set1_epi32(1)), high);
    } else {
        // Each byte twice, the upper one of a number with its sign.
        const __m512i fours = load_pair(quants, 32 * v);
        const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 1, 1, 4, 4, 5, 5, 8, 8, 9, 9, 12, 12, 13, 13));
        first = _mm512_srai_epi16(_mm512_shuffle_epi8(fours, order), 8);
        second = _mm512_srai_epi16(_mm512_shuffle_epi8(fours, _mm512_add_epi8(order, _mm512_set1_epi8(2))), 8);
    }
}

// All groups of the pair from `panel` on, for UnpackedPair of its kind.
template <Format F>
__attribute__((noinline)) void unpack_pair(const GemmTile& t, int panel) {
    PackedPair<F> from(t, panel);
    const int groups = t.weight->groups();
    auto* to = unpacked_room<typename UnpackedPair<kind_of(F)>::Group>(groups);
    for (int g = 0; g < groups; g++, from.next()) {
        const GroupScales s = from.scales(g);
        _mm512_store_ps(to[g].scale, s.scale);
        if constexpr (reads_wide(F)) {
            LLM_EACH(v, 8) {
                __m512i first, second;
                unpack_four<F>(from.quants(), v, first, second);
                _mm512_store_si512(to[g].twos[2 * v], first);
                _mm512_store_si512(to[g].twos[2 * v + 1], second);
            }
        } else {
            _mm512_store_ps(to[g].other, s.other);
            LLM_EACH(v, 8) { _mm512_store_si512(to[g].bytes[v], from.bytes(v)); }
        }
    }
}

}  // namespace

}  // namespace llm::LLM_NAMESPACE
