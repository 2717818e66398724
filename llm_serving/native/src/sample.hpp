// Logits to tokens. The arithmetic is that of engine/sampler.py, and equal to it bit for bit.
#pragma once
#include <stdint.h>

#include <string>
#include <utility>
#include <vector>

#include "logit_scans.hpp"
#include "threads.hpp"

namespace llm {

constexpr int kMostIds = 1 << 21;  // sums of as many weights are exact

struct SampleRow {
    double temperature, top_p, min_p, typical_p;
    int64_t top_k;
    uint64_t seed, position;
    double repetition, presence, frequency;
    std::vector<int32_t> ids;  // prompt, then output; only as far as the penalties need them
    size_t prompt_ids;         // how many of `ids` are the prompt's
    std::vector<std::pair<int32_t, float>> biases;  // by id
};

// What log-probabilities are made of: that of a logit is logit - greatest - log(total).
struct Likeliest {
    float chosen, greatest;
    double total;  // of all weights; 1 where there are none
    std::vector<int32_t> ids;  // the greatest logits first, of equals the lower ids
    std::vector<float> logits;
};

// Chooses one token a row. Each row is one worker's, so threads change nothing but the time.
class RowSampler {
public:
    // Throws std::invalid_argument for an unknown ISA.
    RowSampler(int threads, const std::string& isa);
    // `logits` is [rows.size()][vocab] and is overwritten; ids of rows must be in [0, vocab), vocab in [1, kMostIds].
    std::vector<int> sample(float* logits, int vocab, const std::vector<SampleRow>& rows);
    // Of each row the logit of its token and the counts[i] greatest; as above, `tokens` in [0, vocab).
    std::vector<Likeliest> likeliest(float* logits, int vocab, const std::vector<int>& tokens, const std::vector<int>& counts);

private:
    struct Scratch {
        std::vector<int32_t> ids, counts;            // counts are 0 between rows
        std::vector<float> values, weights, spare;
        void fit(size_t vocab);
    };
    struct Edge;

    // Calls body(row, scratch) for every row, on several threads if that pays.
    template <class Body>
    void for_each_row(size_t rows, int vocab, Body body);
    Likeliest look(float* x, int vocab, int token, int count, Scratch& scratch) const;
    int choose(float* x, int vocab, const SampleRow& row, Scratch& scratch) const;
    int draw(const float* x, int vocab, float greatest, const SampleRow& row, Scratch& scratch) const;
    Edge greatest_edge(const float* values, int count, int k, float* spare) const;

    const LogitScans& scans_;
    ThreadPool pool_;
    std::vector<Scratch> scratch_;  // one a worker
};

}  // namespace llm
