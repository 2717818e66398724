#include "sample.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "numeric.hpp"

namespace llm {

// The end of a selection in descending order: everything greater is in it, and the first `equals` that are equal.
struct RowSampler::Edge {
    float value;
    int equals;
};

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr int64_t kParallelLogits = 1 << 16;  // fewer are done before other threads have woken up
constexpr float kFarthest = 24.0f;            // exp32(-22.9) and all below round to a weight of 0
constexpr uint64_t kGolden = 0x9E3779B97F4A7C15;

// SplitMix64's output function (Steele, Lea and Flood 2014).
uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
}

double uniform(uint64_t seed, uint64_t position) {
    return double(mix(mix(seed + kGolden) + (position + 1) * kGolden) >> 11) * 0x1p-53;
}

float clean(float x) { return x != x ? -kInfinity : std::min(x, kLargest); }

// `counts` has a place for every id and is 0 before and after.
void penalise(float* x, const SampleRow& row, int32_t* counts) {
    if (row.repetition != 1.0) {
        const float r = float(row.repetition);
        for (const int32_t id : row.ids) {
            if (counts[id]++) continue;
            const float before = clean(x[id]);
            x[id] = clean(before > 0 ? before / r : before * r);
        }
        for (const int32_t id : row.ids) counts[id] = 0;
    }
    if (row.presence == 0.0 && row.frequency == 0.0) return;
    const float presence = float(row.presence), frequency = float(row.frequency);
    for (size_t i = row.prompt_ids; i < row.ids.size(); i++) counts[row.ids[i]]++;
    for (size_t i = row.prompt_ids; i < row.ids.size(); i++) {
        const int32_t id = row.ids[i], count = std::exchange(counts[id], 0);
        if (count) x[id] = clean(clean(x[id]) - (frequency * float(count) + presence));
    }
}

// Keeps what lies before the edge, in order; returns how much that is. Without branches: they cannot be foreseen.
int keep(int32_t* ids, float* keys, int count, double value, int equals) {
    int kept = 0;
    for (int i = 0; i < count; i++) {
        const int32_t id = ids[i];
        const float key = keys[i];
        const bool equal = key == value;
        ids[kept] = id;
        keys[kept] = key;
        kept += (key > value) | (equal & (equals > 0));
        equals -= equal;
    }
    return kept;
}

// Positive weights are 28 bits above those of the least, in the order of the weights; their digits have 10, 9, 9.
constexpr int kDigit = 9;
constexpr uint32_t kLeastWeight = 0x2F800000;  // 2^-32

uint32_t digit_of(float w, int shift) {
    const uint32_t digits = (float_to_bits(w) - kLeastWeight) >> shift;
    return shift == 2 * kDigit ? digits : digits & ((1u << kDigit) - 1);
}

// Where the sum of the greatest weights reaches `target`, which is at most the sum of all: a radix selection by mass.
// The weights are positive, one is 1. `spare` has room for them. Returns the weight and how many of it are needed.
std::pair<float, int> nucleus(const float* w, int count, double target, float* spare) {
    // Each digit's mass in parts: neighbours often share a digit, and would wait for each other's sum.
    std::array<std::array<double, 4>, (2 << kDigit) + 1> parts;
    const auto mass = [&](uint32_t digit) {
        const auto& p = parts[digit];
        return (p[0] + p[1]) + (p[2] + p[3]);
    };
    double above = 0;
    for (int shift = 2 * kDigit; shift >= 0; shift -= kDigit) {
        parts.fill({});
        for (int i = 0; i < count; i++) parts[digit_of(w[i], shift)][i % 4] += double(w[i]);
        uint32_t digit = uint32_t(parts.size()) - 1;
        while (above + mass(digit) < target) above += mass(digit--);
        while (mass(digit) == 0) digit--;  // target 0: the greatest is kept all the same
        int members = 0;
        for (int i = 0; i < count; i++) {
            const float weight = w[i];
            spare[members] = weight;
            members += digit_of(weight, shift) == digit;
        }
        w = spare;
        count = members;
    }
    int equals = 1;
    while ((above += double(w[0])) < target) equals++;
    return {w[0], equals};
}

// Step 8, over positive weights. Keeps what is near enough to the entropy, in order; returns how much that is.
int keep_typical(const float* x, float greatest, float temperature, double mass, int32_t* ids, float* w, int count) {
    const auto surprise = [&](int i) { return -double((x[ids[i]] - greatest) / temperature); };
    double total = 0, mean = 0;
    for (int i = 0; i < count; i++) {
        total += double(w[i]);
        mean += (double(w[i]) * surprise(i) + 0x1p20) - 0x1p20;  // near 2^20 a double is a multiple of 2^-32
    }
    mean /= total;
    using Far = std::pair<double, int>;  // no two are equal
    const auto far = [&](int i) { return Far{std::abs(surprise(i) - mean), i}; };
    std::vector<Far> all(static_cast<size_t>(count));
    for (int i = 0; i < count; i++) all[size_t(i)] = far(i);
    // What is before `first` is kept; the last that is kept lies in [first, last).
    auto first = all.begin(), last = all.end();
    double before = 0;
    while (last - first > 1) {
        const auto middle = first + (last - first) / 2;
        std::nth_element(first, middle, last);
        double sum = before;
        for (auto it = first; it != middle; ++it) sum += double(w[it->second]);
        if (sum >= mass * total) {
            last = middle;
        } else {
            before = sum;
            first = middle;
        }
    }
    const Far edge = *first;
    int kept = 0;
    for (int i = 0; i < count; i++) {
        if (edge < far(i)) continue;
        ids[kept] = ids[i];
        w[kept++] = w[i];
    }
    return kept;
}

}  // namespace

RowSampler::RowSampler(int threads, const std::string& isa)
    : scans_(select_logit_scans(isa.c_str())), pool_(std::max(threads, 1)), scratch_(size_t(std::max(threads, 1))) {}

void RowSampler::Scratch::fit(size_t vocab) {
    if (counts.size() >= vocab) return;
    counts.assign(vocab, 0);
    ids.resize(vocab + kScanSlack);
    for (auto* floats : {&values, &weights, &spare}) floats->resize(vocab + kScanSlack);
}

template <class Body>
void RowSampler::for_each_row(size_t rows, int vocab, Body body) {
    if (rows < 2 || int64_t(rows) * vocab < kParallelLogits) {
        scratch_[0].fit(size_t(vocab));
        for (size_t i = 0; i < rows; i++) body(i, scratch_[0]);
        return;
    }
    for (auto& scratch : scratch_) scratch.fit(size_t(vocab));
    std::atomic<size_t> next{0};
    pool_.run([&](int worker) {
        for (size_t i = next.fetch_add(1); i < rows; i = next.fetch_add(1)) body(i, scratch_[size_t(worker)]);
    });
}

std::vector<int> RowSampler::sample(float* logits, int vocab, const std::vector<SampleRow>& rows) {
    std::vector<int> tokens(rows.size());
    for_each_row(rows.size(), vocab, [&](size_t i, Scratch& scratch) {
        tokens[i] = choose(logits + i * size_t(vocab), vocab, rows[i], scratch);
    });
    return tokens;
}

std::vector<Likeliest> RowSampler::likeliest(float* logits, int vocab, const std::vector<int>& tokens,
                                             const std::vector<int>& counts) {
    std::vector<Likeliest> all(tokens.size());
    for_each_row(tokens.size(), vocab, [&](size_t i, Scratch& scratch) {
        all[i] = look(logits + i * size_t(vocab), vocab, tokens[i], counts[i], scratch);
    });
    return all;
}

Likeliest RowSampler::look(float* x, int vocab, int token, int count, Scratch& scratch) const {
    for (int i = 0; i < vocab; i++) x[i] = clean(x[i]);
    Likeliest row{x[token], scans_.greatest(x, vocab), 1.0, {}, {}};
    float *values = scratch.values.data(), *w = scratch.weights.data();
    if (row.greatest > -kInfinity) {
        const int near = scans_.collect(x, vocab, row.greatest - kFarthest, scratch.ids.data(), values);
        std::fill_n(values + near, kScanSlack, row.greatest);  // `weigh` looks at them
        scans_.weigh(values, near, row.greatest, 1.0f, w);
        row.total = scans_.sum(w, near);
    }
    if (count <= 0) return row;
    const Edge edge = greatest_edge(x, vocab, std::min(count, vocab), scratch.spare.data());
    int equals = edge.equals;
    for (int i = scans_.next_at_least(x, 0, vocab, edge.value); i < vocab; i = scans_.next_at_least(x, i + 1, vocab, edge.value))
        if (x[i] > edge.value || equals-- > 0) row.ids.push_back(i);
    std::stable_sort(row.ids.begin(), row.ids.end(), [x](int32_t a, int32_t b) { return x[a] > x[b]; });
    for (const int32_t id : row.ids) row.logits.push_back(x[id]);
    return row;
}

// Steps 1 to 3 of engine/sampler.py. What is NaN stays so: it loses every comparison, as -inf would.
int RowSampler::choose(float* x, int vocab, const SampleRow& row, Scratch& scratch) const {
    for (const auto& [id, bias] : row.biases) x[id] = clean(clean(x[id]) + bias);
    if (!row.ids.empty()) penalise(x, row, scratch.counts.data());
    float greatest = scans_.greatest(x, vocab);
    if (greatest == kInfinity) {
        for (int i = 0; i < vocab; i++) x[i] = clean(x[i]);
        greatest = kLargest;
    }
    if (greatest == -kInfinity) return 0;
    if (row.temperature == 0) return scans_.next_at_least(x, 0, vocab, greatest);
    return draw(x, vocab, greatest, row, scratch);
}

// Steps 4 to 9, over those ids only whose weight is not 0: the others change no sum and are never drawn.
int RowSampler::draw(const float* x, int vocab, float greatest, const SampleRow& row, Scratch& scratch) const {
    const float temperature = std::max(float(row.temperature), 1e-6f);
    int32_t* ids = scratch.ids.data();
    float *values = scratch.values.data(), *w = scratch.weights.data(), *spare = scratch.spare.data();
    int count = scans_.collect(x, vocab, greatest - kFarthest * temperature, ids, values);
    if (row.top_k > 0 && row.top_k < count) {
        const Edge edge = greatest_edge(values, count, int(row.top_k), spare);
        count = keep(ids, values, count, double(edge.value), edge.equals);
    }
    std::fill_n(values + count, kScanSlack, greatest);  // `weigh` looks at them
    scans_.weigh(values, count, greatest, temperature, w);
    count = keep(ids, w, count, 0.0, 0);
    double total = scans_.sum(w, count);
    if (row.top_p < 1.0) {
        const auto [value, equals] = nucleus(w, count, row.top_p * total, spare);
        count = keep(ids, w, count, double(value), equals);
    }
    if (row.min_p > 0.0) count = keep(ids, w, count, row.min_p, count);  // the greatest weight is 1
    if (row.typical_p < 1.0) count = keep_typical(x, greatest, temperature, row.typical_p, ids, w, count);
    total = scans_.sum(w, count);
    const double target = uniform(row.seed, row.position) * total;
    constexpr int kBlock = 256;
    double before = 0;
    int i = 0;
    for (; i + kBlock < count; i += kBlock) {
        const double block = scans_.sum(w + i, kBlock);
        if (before + block > target) break;
        before += block;
    }
    while (i + 1 < count && (before += double(w[i])) <= target) i++;
    return ids[i];
}

// Of the k < count greatest values. Most values are passed over eight at a time: a bound rises as greater ones come.
RowSampler::Edge RowSampler::greatest_edge(const float* values, int count, int k, float* spare) const {
    const int room = std::min(count, std::max(2 * k, k + 256));
    int held = 0;
    const auto keep_k = [&] {
        std::nth_element(spare, spare + k - 1, spare + held, std::greater<float>());
        held = k;
        return spare[k - 1];
    };
    float bound = -kInfinity;
    for (int i = scans_.next_at_least(values, 0, count, bound); i < count;
         i = scans_.next_at_least(values, i + 1, count, bound)) {
        spare[held++] = values[i];
        if (held == room) bound = std::nextafter(keep_k(), kInfinity);
    }
    const float least = keep_k();
    return {least, int(std::count(spare, spare + k, least))};
}

}  // namespace llm
