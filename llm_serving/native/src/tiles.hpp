// AMX's tiles: eight registers of up to 16 lines of 64 bytes (Intel SDM, "Intel AMX instruction set"). Included only by files
// that are compiled for it. Assembler, because the compilers' own functions do not say that they read memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "lanes.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

constexpr int kTileLines = 16;
constexpr int kLine = 64;  // bytes
constexpr int kTileBytes = kTileLines * kLine;

// What `ldtilecfg` reads: lines of the first `rows_until` tiles, and sixteen of those behind them.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes_of_line[16] = {};
    uint8_t lines[16] = {};

    TileShapes(int rows, int rows_until) {
        for (int tile = 0; tile < 8; tile++) {
            bytes_of_line[tile] = kLine;
            lines[tile] = uint8_t(tile < rows_until ? rows : kTileLines);
        }
    }
};

// Tiles of this thread while there is one of these; the kernel has less to keep of a thread without.
class Tiles {
public:
    explicit Tiles(const TileShapes& shapes) { asm volatile("ldtilecfg %0" ::"m"(shapes)); }
    ~Tiles() { asm volatile("tilerelease"); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
};

template <int T>
LLM_INLINE void clear_tile() { asm volatile("tilezero %%tmm%c0" ::"i"(T)); }

template <int T>
LLM_INLINE void load_tile(const void* lines, size_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(lines), "r"(stride), "i"(T) : "memory");
}

template <int T>
LLM_INLINE void store_tile(void* lines, size_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(lines), "r"(stride), "i"(T) : "memory");
}

// What `load_tile` reads where lines follow each other.
struct alignas(64) Tile {
    uint8_t lines[kTileLines][kLine];
};

// As many tiles, kept by each thread.
LLM_INLINE Tile* tile_room(size_t tiles) {
    thread_local std::vector<Tile> room;
    if (room.size() < tiles) room.resize(tiles);
    return room.data();
}

// Two numbers of each of sixteen columns, as neighbours, in bfloat16.
LLM_INLINE void store_pair(uint8_t* line, __m512 even, __m512 odd) {
    alignas(64) static constexpr int16_t kNeighbours[32] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                                           8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i apart = __m512i(_mm512_cvtne2ps_pbh(odd, even));
    _mm512_store_si512(line, _mm512_permutexvar_epi16(_mm512_load_si512(kNeighbours), apart));
}

// Sums [row][16 outputs] += rows [row][32 inputs] times weights [pair of inputs][16 outputs][2], of bfloat16: for each sum the
// even inputs one after the other, the odd ones too, and both together onto it.
template <int Sums, int Rows, int Weights>
LLM_INLINE void multiply_tiles() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sums), "i"(Rows), "i"(Weights));
}

}  // namespace

}  // namespace llm::LLM_NAMESPACE
