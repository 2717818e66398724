// AMX with bfloat16 (Sapphire Rapids and later), for pictures and long texts: their rows come in hundreds, or at least in dozens.
//
// Other bits than those of all other instruction sets: a tile keeps its sums over all inputs, and so its weights come with
// their scales. Per output and group: even = fma(a, w, even) of the inputs 0, 2, …, 30, odd of the others, both from zero;
// acc = acc + (even + odd). a and w are the activation and the weight rounded to bfloat16, and numbers below 2^-126 are zero.
// Rows do not change each other's bits here either. f32 weights are multiplied as by AVX-512.
#include "outputs_512.hpp"
#include "prefetch.hpp"
#include "tile_weights.hpp"

namespace llm::LLM_NAMESPACE {

namespace {

static_assert(sizeof(NarrowGroup) == kGroup * sizeof(uint16_t));  // a group in bfloat16 lies where bytes and steps would

LLM_INLINE size_t row_stride(const GemmTile& t) { return Activations::narrow_stride(t.input->cols) * sizeof(NarrowGroup); }

// Writes lines [begin, end) of a tile of sums; line 0 is of `row`.
template <int T>
LLM_INLINE void store_sums(const GemmTile& t, int panel, int row, int begin, int end) {
    alignas(64) float sums[kTileLines][kPair];
    store_tile<T>(sums, kLine);
    const int column = panel * kPanel;
    const __mmask16 lanes = first_lanes(outputs_from(t, panel));
    const __m512 bias = t.bias ? _mm512_maskz_loadu_ps(lanes, t.bias + column) : _mm512_set1_ps(-0.0f);  // x + -0 is x
    const bool accumulate = t.accumulate;
    const size_t stride = t.out_stride;
    float* out = t.out + size_t(row + begin) * stride + column;
    for (int r = begin; r < end; r++, out += stride) {
        __m512 y = _mm512_add_ps(_mm512_load_ps(sums[r]), bias);
        if (accumulate) y = _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, out), y);
        _mm512_mask_storeu_ps(out, lanes, y);
    }
}

// P pairs of panels and up to 16 rows, which find each tile of weights once: it is unpacked a little before it is read.
template <Format F, int P>
__attribute__((noinline)) void few_rows(const GemmTile& t, int panel) {
    constexpr int kAheadGroups = 2;
    Tile waiting[2 * kAheadGroups][P];
    const int groups = t.weight->groups();
    const __m512 numbers = numbers_of<F>();
    PackedPair<F> from[P];
    LLM_EACH(p, P) { from[p] = PackedPair<F>(t, panel + 2 * p); }
    const uint8_t* coming = t.weight->quants(panel);
    const NarrowGroup* rows = t.input->narrow_row(t.row_begin);
    unrolled<P>(LLM_WITH(p) { clear_tile<p>(); });
    for (int g = 0; g < groups + kAheadGroups; g++) {
        if (g < groups) {
            prefetch_weights(coming, 2 * P * PackedPair<F>::group_bytes());
            LLM_EACH(p, P) {
                unpack_tile<F>(from[p], g, numbers, waiting[g % (2 * kAheadGroups)][p].lines[0]);
                from[p].next();
            }
        }
        if (g < kAheadGroups) continue;
        load_tile<4>(rows++, row_stride(t));
        unrolled<P>(LLM_WITH(p) {
            load_tile<5 + p % 3>(&waiting[(g - kAheadGroups) % (2 * kAheadGroups)][p], kLine);
            multiply_tiles<p, 4, 5 + p % 3>();
        });
    }
    unrolled<P>(LLM_WITH(p) { store_sums<p>(t, panel + 2 * p, t.row_begin, 0, t.row_end - t.row_begin); });
}

// P pairs of panels, whose tiles are at `weights`, and 16 rows from each of `row` on: two stretches of rows, the second of
// which is stored from line `fresh` on, or one.
template <int P, int R>
__attribute__((noinline)) void blocks_of_rows(const GemmTile& t, int panel, const Tile* weights, const int (&row)[R], int fresh) {
    const int groups = t.weight->groups();
    const size_t stride = row_stride(t);
    const NarrowGroup* rows[R];
    LLM_EACH(r, R) { rows[r] = t.input->narrow_row(row[r]); }
    unrolled<R>(LLM_WITH(r) { unrolled<P>(LLM_WITH(p) { clear_tile<2 * r + p>(); }); });
    for (int g = 0; g < groups; g++) {
        unrolled<P>(LLM_WITH(p) { load_tile<6 + p>(weights++, kLine); });
        unrolled<R>(LLM_WITH(r) {
            load_tile<4 + r>(rows[r]++, stride);
            unrolled<P>(LLM_WITH(p) { multiply_tiles<2 * r + p, 4 + r, 6 + p>(); });
        });
    }
    unrolled<R>(LLM_WITH(r) {
        unrolled<P>(LLM_WITH(p) { store_sums<2 * r + p>(t, panel + 2 * p, row[r], r == R - 1 ? fresh : 0, kTileLines); });
    });
}

// P pairs of panels and 16 rows or more. The last stretch of rows may overlap the one before it: tiles keep one shape.
template <Format F, int P>
__attribute__((noinline)) void many_rows(const GemmTile& t, int panel) {
    const int groups = t.weight->groups();
    const __m512 numbers = numbers_of<F>();
    Tile* tiles = tile_room(size_t(groups) * P);
    PackedPair<F> from[P];
    LLM_EACH(p, P) { from[p] = PackedPair<F>(t, panel + 2 * p); }
    const uint8_t* coming = t.weight->quants(panel);
    for (int g = 0; g < groups; g++) {
        prefetch_weights(coming, 2 * P * PackedPair<F>::group_bytes());
        LLM_EACH(p, P) {
            unpack_tile<F>(from[p], g, numbers, tiles[g * P + p].lines[0]);
            from[p].next();
        }
    }
    const int last = t.row_end - kTileLines;
    int row = t.row_begin;
    for (; row + kTileLines < t.row_end; row += 2 * kTileLines) {
        const int second = row + kTileLines < last ? row + kTileLines : last;
        blocks_of_rows<P, 2>(t, panel, tiles, {row, second}, row + kTileLines - second);
    }
    if (row < t.row_end) {
        const int only = row < last ? row : last;
        blocks_of_rows<P, 1>(t, panel, tiles, {only}, row - only);
    }
}

}  // namespace

void gemm(const GemmTile& t) {
    const int rows = t.row_end - t.row_begin;
    for_format(t.weight->format, [&](auto format) {
        int panel = t.panel_begin;
        if constexpr (format == Format::f32) {
            kernels_avx512().gemm(t);
        } else if (rows < kTileLines) {
            const Tiles tiles(TileShapes(rows, 5));
            for (; panel + 6 < t.panel_end; panel += 8) few_rows<format, 4>(t, panel);
            for (; panel + 2 < t.panel_end; panel += 4) few_rows<format, 2>(t, panel);
            if (panel < t.panel_end) few_rows<format, 1>(t, panel);
        } else {
            const Tiles tiles(TileShapes(kTileLines, 0));
            for (; panel + 2 < t.panel_end; panel += 4) many_rows<format, 2>(t, panel);
            if (panel < t.panel_end) many_rows<format, 1>(t, panel);
        }
    });
}

void quantize(const float* x, int cols, NarrowGroup* groups) {
    for (int g = 0; g < cols / kGroup; g++, x += kGroup)
        _mm512_store_si512(groups + g, __m512i(_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + kHalf), _mm512_loadu_ps(x))));
}

}  // namespace llm::LLM_NAMESPACE

namespace llm {

// All else is that of AVX-512.
const Kernels& kernels_amx() {
    static const Kernels table = [] {
        Kernels kernels = kernels_avx512();
        kernels.name = "amx";
        kernels.has_wide = false;
        kernels.gemm_panels = 4;
        kernels.gemm_rows = LLM_NAMESPACE::kTileLines;
        kernels.gemm_bytes = 512 << 10;
        kernels.gemm_work = 6e6;
        kernels.gemm = LLM_NAMESPACE::gemm;
        kernels.quantize = LLM_NAMESPACE::quantize;
        kernels.encoder_attention = LLM_NAMESPACE::encoder_attention;
        return kernels;
    }();
    return table;
}

}  // namespace llm
