// Logits to tokens. The arithmetic is that of engine/sampler.py, and equal to it bit for bit.
#pragma once
#include <stdint.h>

#include <string>
#include <vector>

#include "logit_scans.hpp"
#include "threads.hpp"

namespace llm {

constexpr int kMostIds = 1 << 21;  // sums of as many weights are exact

struct SampleRow {
    double temperature, top_p, min_p;
    int64_t top_k;
    uint64_t seed, position;
    double repetition, presence, frequency;
    std::vector<int32_t> ids;  // prompt, then output; only as far as the penalties need them
    size_t prompt_ids;         // how many of `ids` are the prompt's
};

// Chooses one token a row. Each row is one worker's, so threads change nothing but the time.
class RowSampler {
public:
    // Throws std::invalid_argument for an unknown ISA.
    RowSampler(int threads, const std::string& isa);
    // `logits` is [rows.size()][vocab] and is overwritten; ids of rows must be in [0, vocab), vocab in [1, kMostIds].
    std::vector<int> sample(float* logits, int vocab, const std::vector<SampleRow>& rows);

private:
    struct Scratch {
        std::vector<int32_t> ids, counts;            // counts are 0 between rows
        std::vector<float> values, weights, spare;
        void fit(size_t vocab);
    };
    struct Edge;

    int choose(float* x, int vocab, const SampleRow& row, Scratch& scratch) const;
    int draw(const float* x, int vocab, float greatest, const SampleRow& row, Scratch& scratch) const;
    Edge greatest_edge(const float* values, int count, int k, float* spare) const;

    const LogitScans& scans_;
    ThreadPool pool_;
    std::vector<Scratch> scratch_;  // one a worker
};

}  // namespace llm
