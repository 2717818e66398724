// Who runs which tile of which operation, one operation after another.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "threads.hpp"

namespace llm {

// A round has tiles 0 .. count - 1 in as many runs as there are workers. A worker takes its own run in order, and then what
// is left of the others': rows stay in the cache of one core from one operation to the next. A round is over with its
// last tile, not with its last worker: nobody waits for one that has lost its core unless it has a tile, and it goes on
// where the others are when it comes back.
class Rounds {
public:
    // `count` tells the tiles of a round when all before it are done.
    template <class Count>
    Rounds(int workers, int rounds, Count count) : workers_(workers), counts_(size_t(rounds)), taken_(new Taken[size_t(workers)]) {
        begin(0, count);
    }

    int size() const { return int(counts_.size()); }
    // The round at hand; size() when all are over.
    int current() const { return int(current_.load(std::memory_order_acquire)); }
    // Waits for the end of a round that has nothing more to take.
    int after(int round) {
        wait_for_change(current_, uint32_t(round));
        return current();
    }

    // A tile of the round that nobody has had, or -1, also where the round is over.
    int take(int worker, int round) {
        const int count = counts_[size_t(round)];
        for (int i = 0; i < workers_; i++) {
            const int owner = (worker + i) % workers_;
            const int begin = begin_of(owner, count), tiles = begin_of(owner + 1, count) - begin;
            std::atomic<uint64_t>& taken = taken_[size_t(owner)].tiles;
            uint64_t now = taken.load(std::memory_order_relaxed);
            // Not by an addition, which would take from a later round if this one ended meanwhile.
            while (now >> 32 == uint64_t(round) && int(uint32_t(now)) < tiles)
                if (taken.compare_exchange_weak(now, now + 1, std::memory_order_relaxed)) return begin + int(uint32_t(now));
        }
        return -1;
    }

    // So many tiles that were taken are done. With the last of a round the next one begins.
    template <class Count>
    void finish(int round, int tiles, Count count) {
        if (left_.fetch_sub(tiles, std::memory_order_acq_rel) == tiles) begin(round + 1, count);
    }

private:
    struct alignas(64) Taken {
        std::atomic<uint64_t> tiles{0};  // of a run; the round in the upper half
    };
    int begin_of(int worker, int count) const { return int(int64_t(worker) * count / workers_); }

    // While nobody has a tile.
    template <class Count>
    void begin(int round, Count count) {
        int tiles = 0;
        while (round < size() && !(tiles = counts_[size_t(round)] = count(round))) round++;
        left_.store(tiles, std::memory_order_relaxed);
        for (int i = 0; i < workers_; i++) taken_[size_t(i)].tiles.store(uint64_t(round) << 32, std::memory_order_relaxed);
        // Tells all of the above. No plain store, see `wait_for_change`.
        current_.exchange(uint32_t(round), std::memory_order_seq_cst);
        if (workers_ > 1) current_.notify_all();
    }

    const int workers_;
    std::vector<int> counts_;  // each written before its round is the current one, and never again
    const std::unique_ptr<Taken[]> taken_;
    std::atomic<int> left_{0};  // tiles of the current round that are not done
    std::atomic<uint32_t> current_{0};
};

}  // namespace llm
