// Who runs which tile of an operation.
#pragma once
#include <atomic>
#include <memory>

namespace llm {

// Tiles 0 .. count - 1 in as many runs as there are workers. A worker takes its own run in order, and then what is
// left of the others': rows stay in the cache of one core from one operation to the next, and still nobody waits for
// a worker that lost its core.
class Shares {
public:
    explicit Shares(int workers) : workers_(workers), taken_(new Taken[size_t(workers)]) {}

    // A tile that nobody has had, or -1.
    int take(int worker, int count) {
        for (int i = 0; i < workers_; i++) {
            const int owner = (worker + i) % workers_;
            const int begin = begin_of(owner, count), end = begin_of(owner + 1, count);
            // Looking first keeps the counter from growing without end, and its line with its owner.
            std::atomic<int>& taken = taken_[size_t(owner)].count;
            if (begin + taken.load(std::memory_order_relaxed) >= end) continue;
            const int tile = begin + taken.fetch_add(1, std::memory_order_relaxed);
            if (tile < end) return tile;
        }
        return -1;
    }

    // Before the next operation, while nobody takes.
    void restart() {
        for (int i = 0; i < workers_; i++) taken_[size_t(i)].count.store(0, std::memory_order_relaxed);
    }

private:
    struct alignas(64) Taken {
        std::atomic<int> count{0};
    };
    int begin_of(int worker, int count) const { return int(int64_t(worker) * count / workers_); }

    const int workers_;
    const std::unique_ptr<Taken[]> taken_;
};

}  // namespace llm
