// Prints what every kernel computes, for every instruction set of this CPU, as one line a case:
//     instruction set <tab> case <tab> hash of the result's bits
// Inputs are pseudo-random and the same everywhere, so lines of one case must be equal on all CPUs.
// test_kernels_of_other_cpus.py compares them.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "digest_report.hpp"
#include "kernels.hpp"
#include "logit_scans.hpp"
#include "numeric.hpp"
#include "quantize.hpp"
#include "recurrent_digests.hpp"

using namespace llm;

namespace {

const char* name_of(KvFormat format) { return format == KvFormat::q4 ? "q4" : format == KvFormat::q8 ? "q8" : "q16"; }

// A packed matrix and its bytes; prefetching looks past their end and reads nothing.
struct Weights {
    std::vector<uint8_t> bytes;
    PackedMatrix matrix;
};

Weights random_weights(Random& random, const char* kind, const char* wanted, int rows, int cols, float size) {
    const Format format = format_from_name(wanted);
    Weights w{{}, {format, rows, cols, panel_stride(format, cols), nullptr}};
    w.bytes.assign(w.matrix.bytes(), 0);
    std::vector<uint8_t> source(row_bytes(kind_from_name(kind), cols) * size_t(rows));
    if (kind == std::string("F32")) {
        std::vector<float> values = random.reals(size_t(rows) * cols, size);
        for (float& v : values)
            if (random.below(16) == 0) v = v < 0 ? -size : size;  // the greatest quants are not rare
        memcpy(source.data(), values.data(), source.size());
    } else {  // any bits, but scales of a usual size: a byte, or f16 or f32 of which a block begins with one or two, or ends with one
        for (uint8_t& byte : source) byte = uint8_t(random.below(256));
        const size_t block = row_bytes(kind_from_name(kind), shares_factors(format) ? 256 : 32);
        const bool has_floats = format == Format::nf4 || format == Format::nvfp4;
        const size_t first = scales_halves(format) && !has_floats && !has_grid(format) ? block - 2 : 0;
        for (size_t at = first; at < source.size(); at += block)
            if (format == Format::mxfp4) source[at] = 0x60 | (source[at] & 31);
            else if (has_floats) for (size_t i = 3; i < block - 16; i += 4) source[at + i] = 0x3c | (source[at + i] & 0x83);
            else for (int i = 1; i < (shares_two_factors(format) ? 4 : 2); i += 2) source[at + i] = 0x20 | (source[at + i] & 0x83);
    }
    for (int panel = 0; panel < w.matrix.panels(); panel++) {
        const uint8_t* sources[kPanel];
        for (int o = 0; o < kPanel; o++) {
            const int row = panel * kPanel + o;
            sources[o] = row < rows ? source.data() + row_bytes(kind_from_name(kind), cols) * size_t(row) : nullptr;
        }
        pack_panel(kind_from_name(kind), format, sources, cols, w.bytes.data() + size_t(panel) * w.matrix.panel_stride);
    }
    w.matrix.data = w.bytes.data();
    return w;
}

struct QuantizedInput {
    std::vector<NarrowGroup> narrow;
    std::vector<int16_t> wide;
    std::vector<float> wide_scales, values;
    Activations view;

    QuantizedInput(Random& random, const Kernels& kernels, int tokens, int cols) {
        const size_t n = size_t(tokens) * cols;
        narrow.resize(size_t(tokens) * Activations::narrow_stride(cols)), wide.resize(n), wide_scales.resize(n / kGroup);
        view = {narrow.data(), wide.data(), wide_scales.data(), nullptr, cols};
        values = random.reals(n, 4.0f);
        for (size_t i = 0; i < n; i += kHalf) {  // what quantising treats apart, and ties
            const int what = random.below(12);
            for (size_t k = i; k < i + kHalf; k++) {
                if (what == 0) values[k] = k % 2 ? 0.0f : -0.0f;
                if (what == 1) values[k] *= 1e-31f;
                if (what == 2) values[k] = float(random.below(255) - 127) + (k % 16 ? 0.5f : 127.0f);
                if (what == 3) values[k] = k % 3 ? 4.0f : -4.0f;
            }
        }
        view.values = values.data();
        for (size_t at = 0; at < n; at += size_t(cols)) {
            kernels.quantize(values.data() + at, cols, view.narrow_row(int(at) / cols));
            kernels.quantize_wide(values.data() + at, cols, wide.data() + at, wide_scales.data() + at / kGroup);
        }
    }
};

void quantisation(const Kernels& kernels, Report& report) {
    Random random{1};
    for (int cols : {32, 96, 576}) {
        const QuantizedInput input(random, kernels, 5, cols);
        report.add(input.narrow);
        report.line("quantize %d", cols);
        report.add(input.wide), report.add(input.wide_scales);
        report.line("quantize_wide %d", cols);
    }
}

void matrices(const Kernels& kernels, Report& report) {
    const struct { const char *kind, *format; } cases[] = {
        {"F32", "q4"}, {"Q4_0", "q4_centred"}, {"Q4_K", "q4_k"}, {"MXFP4", "mxfp4"}, {"IQ4_NL", "iq4_nl"}, {"IQ4_XS", "iq4_xs"},
        {"NF4", "nf4"}, {"E2M1_16", "nvfp4"}, {"IQ2_CODED", "iq2"}, {"IQ3_XXS_CODED", "iq3_xxs"}, {"IQ3_S_CODED", "iq3_s"},
        {"Q3_K", "q3_k"}, {"Q5_0", "q5"}, {"Q5_K", "q5_k"}, {"Q6_K", "q6"}, {"F32", "s8"}, {"F32", "q8"}, {"F32", "q12"}, {"F32", "f32"}};
    for (const auto& c : cases)
        for (int cols : {256, 768})
            for (int rows : {8, 20, 33}) {
                Random random{uint64_t(cols + rows)};
                const Weights w = random_weights(random, c.kind, c.format, rows, cols, 0.25f);
                report.add(w.bytes);
                report.line("pack %s %d x %d", c.format, rows, cols);
                std::vector<float> out(size_t(rows) * cols);
                for (int row = 0; row < rows; row++) kernels.dequantize_row(w.matrix, row, out.data() + size_t(row) * cols);
                report.add(out);
                report.line("dequantize_row %s %d x %d", c.format, rows, cols);
                const std::vector<float> bias = random.reals(size_t(rows), 1.0f);
                for (int tokens : {1, 2, 3, 4, 5, 6, 7, 8, 15, 30}) {
                    const QuantizedInput input(random, kernels, tokens, cols);
                    const size_t stride = size_t(rows) + 3;
                    out = random.reals(stride * size_t(tokens), 1.0f);
                    const float* added = tokens % 3 ? bias.data() : nullptr;
                    const bool accumulate = tokens % 2;
                    const int panels = w.matrix.panels(), cut = panels / 2, row = tokens > 6 ? 1 : 0;
                    kernels.gemm({&w.matrix, &input.view, added, out.data(), stride, accumulate, 0, cut, row, tokens});
                    kernels.gemm({&w.matrix, &input.view, added, out.data(), stride, accumulate, cut, panels, row, tokens});
                    report.add(out);
                    report.line("gemm %s %d x %d, %d tokens", c.format, rows, cols, tokens);
                }
            }
}

void rows(const Kernels& kernels, Report& report) {
    using Gated = void (*)(const float*, const float*, int, float*);
    const struct { const char* name; Gated run; } gated[] = {{"gated_silu", kernels.gated_silu}, {"gated_gelu", kernels.gated_gelu},
                                                             {"gated_gelu_tanh", kernels.gated_gelu_tanh}, {"gated_relu", kernels.gated_relu}};
    for (int cols : {8, 64, 1536})
        for (float size : {1.0f, 9.0f, 200.0f}) {
            Random random{uint64_t(cols)};
            const std::vector<float> x = random.reals(size_t(cols), size), a = random.reals(x.size(), 2.0f), b = random.reals(x.size(), 1.0f);
            std::vector<float> y(x.size());
            const auto say = [&](const char* name) {
                report.add(y);
                report.line("%s %d, up to %g", name, cols, double(size));
            };
            kernels.rms_norm(x.data(), a.data(), 1e-5f, cols, y.data()), say("rms_norm");
            kernels.layer_norm(x.data(), a.data(), b.data(), 1e-12f, cols, y.data()), say("layer_norm");
            kernels.gelu(x.data(), cols, y.data()), say("gelu");
            kernels.gelu_tanh(x.data(), cols, y.data()), say("gelu_tanh");
            kernels.xielu(x.data(), cols, 1.2f, 0.9f, 0.5f, y.data()), say("xielu");
            for (const auto& g : gated) g.run(x.data(), a.data(), cols, y.data()), say(g.name);
            kernels.gated_within(x.data(), a.data(), cols, 1.702f, 1.5f, y.data()), say("gated_within");
            y = x, kernels.soft_cap(y.data(), cols - 3, 5.0f), say("soft_cap");
            y = x;
            kernels.rope(y.data(), a.data(), b.data(), cols), say("rope");
            for (KvFormat format : {KvFormat::q16, KvFormat::q8, KvFormat::q4}) {
                const int head_dim = std::min(cols, kMostHeadDim);
                std::vector<uint8_t> keys(vectors_bytes(format, head_dim)), values(keys.size());
                for (float scale : {1.0f, 1e-6f, 1000.0f, 1e-33f}) {  // the least of them are no integers
                    for (size_t i = 0; i < y.size(); i++) y[i] = x[i] * scale;
                    kernels.store_kv(format, y.data(), y.data(), head_dim, random.below(kBlockTokens), keys.data(), values.data());
                    report.add(keys), report.add(values);
                }
                report.line("store_kv %s %d, up to %g", name_of(format), head_dim, double(size));
            }
        }
}

void cached_attention(const Kernels& kernels, Report& report, KvFormat format) {
    for (int head_dim : {16, 64, 72})
        for (int group : {1, 3, 8})
            for (int first : {0, 15, 250, 530})  // the last two see two and three pieces
                for (int tokens : {1, 5, 12}) {
                    Random random{uint64_t(head_dim + group)};
                    const int blocks = (first + tokens + kBlockTokens - 1) / kBlockTokens;
                    const size_t block = vectors_bytes(format, head_dim), stride = size_t(group) * head_dim + 8;
                    std::vector<uint8_t> keys(block * size_t(blocks)), values(keys.size());
                    for (int slot = 0; slot < blocks * kBlockTokens; slot++) {
                        const std::vector<float> key = random.reals(size_t(head_dim), 2.0f), value = random.reals(key.size(), 1.0f);
                        const size_t at = size_t(slot / kBlockTokens) * block;
                        kernels.store_kv(format, key.data(), value.data(), head_dim, slot % kBlockTokens, keys.data() + at, values.data() + at);
                    }
                    std::vector<int32_t> table;
                    for (int i = 0; i < blocks; i++) table.push_back(blocks - 1 - i);
                    const std::vector<float> query = random.reals(stride * size_t(tokens), 3.0f);
                    std::vector<float> out(query.size()), scratch(attention_scratch(group, head_dim));
                    AttentionTile tile = {query.data(), out.data(), stride, stride, format, keys.data(), values.data(), block * kChunkBlocks,
                                          table.data(), first, tokens, nullptr, group, head_dim, 0.125f, 0, nullptr, 0, nullptr, 0, 0, 0, 0, nullptr, scratch.data()};
                    kernels.attention(tile);
                    report.add(out);
                    tile.piece_stride = size_t(tokens * group * state_floats(head_dim));
                    std::vector<float> states(tile.piece_stride * 3);
                    for (; tile.piece * kPieceTokens < first + tokens; tile.piece += 2) {
                        tile.piece_end = std::min(tile.piece + 2, (first + tokens + kPieceTokens - 1) / kPieceTokens);
                        tile.states = states.data() + size_t(tile.piece) * tile.piece_stride;
                        kernels.attention(tile);
                    }
                    tile.states = states.data();
                    out.assign(out.size(), 0);
                    kernels.merge_attention(tile);
                    report.add(out);
                    const std::vector<float> sinks = random.reals(size_t(group), 4.0f);
                    tile.sinks = sinks.data();
                    kernels.merge_attention(tile);
                    report.add(out);
                    report.line("attention %s %d x %d, %d tokens from %d", name_of(format), group, head_dim, tokens, first);
                    std::vector<int32_t> seen(size_t(tokens), first + tokens);  // all but the first see each other
                    seen[0] = first + 1;
                    tile.seen = seen.data(), tile.states = nullptr;
                    kernels.attention(tile);
                    report.add(out);
                    report.line("attention ahead %s %d x %d, %d tokens from %d", name_of(format), group, head_dim, tokens, first);
                    tile.seen = nullptr;
                    constexpr int window = 40, reach = 600;  // nothing further back is seen
                    std::vector<float> biases(2 * reach);
                    for (int i = 0; i < 2 * reach; i++) biases[size_t(i)] = i > reach - window ? random.real(1.0f) : -1e30f;
                    tile.bias = biases.data() + reach, tile.cap = 1.5f;
                    tile.first_piece = std::max(0, first - window + 1) / kPieceTokens;
                    kernels.attention(tile);
                    report.add(out);
                    report.line("windowed and capped attention with sinks %s %d x %d, %d tokens from %d", name_of(format), group, head_dim, tokens, first);
                }
}

void encoder_attention(const Kernels& kernels, Report& report) {
    for (int tokens : {1, 16, 41, 270})
        for (int group : {1, 4})
            for (bool causal : {false, true})
                for (bool biased : {false, true}) {
                    constexpr int head_dim = 32;
                    Random random{uint64_t(tokens + group)};
                    const size_t stride = size_t(group + 2) * head_dim, out_stride = size_t(group) * head_dim;
                    const size_t bias_stride = 2 * size_t(tokens) + kBlockTokens;
                    const std::vector<float> x = random.reals(stride * size_t(tokens), 2.0f), bias = random.reals(bias_stride * size_t(group), 1.0f);
                    std::vector<float> out(out_stride * size_t(tokens)), scratch(encoder_scratch(tokens, head_dim));
                    const float* key = x.data() + out_stride;
                    kernels.encoder_attention({x.data(), key, key + head_dim, out.data(), stride, out_stride, tokens, 0, tokens, group, head_dim,
                                               causal, 0.2f, biased ? bias.data() + tokens - 1 : nullptr, bias_stride, -1, scratch.data()});
                    report.add(out);
                    report.line("encoder_attention %d x %d, %d tokens%s%s", group, head_dim, tokens, causal ? ", causal" : "", biased ? ", biased" : "");
                }
}

void scans(const LogitScans& scans, Report& report) {
    for (int n : {1, 7, 8, 33, 1000})
        for (float temperature : {0.1f, 1.0f, 3.0f}) {
            Random random{uint64_t(n)};
            std::vector<float> x = random.reals(size_t(n), 12.0f), values(size_t(n) + kScanSlack), w(values.size());
            if (n > 8) x[3] = -bits_to_float(0x7f800000), x[5] = bits_to_float(0x7fc00000);  // -inf, NaN
            std::vector<int32_t> ids(values.size());
            const float greatest = scans.greatest(x.data(), n);
            const int next = scans.next_at_least(x.data(), n / 3, n, greatest - 2.0f);
            const int count = scans.collect(x.data(), n, greatest - 24.0f * temperature, ids.data(), values.data());
            for (int i = count; i < count + kScanSlack; i++) values[size_t(i)] = greatest;
            scans.weigh(values.data(), count, greatest, temperature, w.data());
            ids.resize(size_t(count)), w.resize(size_t(count));
            report.add(std::vector<float>{greatest}), report.add(std::vector<int>{next, count});
            report.add(ids), report.add(w), report.add(std::vector<double>{scans.sum(w.data(), count)});
            report.line("logit scans of %d at %g", n, double(temperature));
        }
}

}  // namespace

int main() {
    for (const std::string& isa : instruction_sets()) {
        const Kernels& kernels = select_kernels(isa.c_str());
        Report report(kernels.name);
        quantisation(kernels, report);
        matrices(kernels, report);
        rows(kernels, report);
        for (KvFormat format : {KvFormat::q16, KvFormat::q8, KvFormat::q4}) cached_attention(kernels, report, format);
        encoder_attention(kernels, report);
        delta_net(kernels, report);
        mamba(kernels, report);
        selective(kernels, report);
        scans(select_logit_scans(isa.c_str()), report);
    }
}
