#include "cores.hpp"

#if defined(__linux__)
#include <sched.h>
#endif

namespace llm {

Cores::Cores(int workers) : workers_(workers), seats_(new Seat[size_t(workers)]) {}

#if defined(__linux__)

namespace {

struct CpuMask {
    static constexpr int kMost = 4096;  // CPUs
    unsigned long bits[kMost / (8 * sizeof(unsigned long))] = {};
    cpu_set_t* set() { return reinterpret_cast<cpu_set_t*>(bits); }

    int count() { return CPU_COUNT_S(sizeof bits, set()); }
    void remove(int cpu) { CPU_CLR_S(size_t(cpu), sizeof bits, set()); }
    // Both are about the calling thread, which the kernel knows as 0.
    bool read() { return sched_getaffinity(0, sizeof bits, set()) == 0; }
    bool apply() { return sched_setaffinity(0, sizeof bits, set()) == 0; }
};

// Else a worker that the kernel puts back each time would do nothing but move.
constexpr std::chrono::milliseconds kBetweenMoves{1};

}  // namespace

int Cores::take_seat(int worker) {
    std::atomic<int>& seat = seats_[size_t(worker)].core;
    const int core = sched_getcpu();
    if (seat.load(std::memory_order_relaxed) != core) seat.store(core, std::memory_order_relaxed);
    return core;
}

void Cores::leave(int worker) {
    const Clock::time_point now = Clock::now();
    Clock::time_point& moved = seats_[size_t(worker)].moved;
    CpuMask allowed;
    if (now - moved < kBetweenMoves || !allowed.read() || allowed.count() < workers_) return;
    moved = now;
    CpuMask elsewhere = allowed;
    for (int other = 0; other < workers_; other++) {
        const int core = seats_[size_t(other)].core.load(std::memory_order_relaxed);
        if (core >= 0) elsewhere.remove(core);
    }
    if (elsewhere.count() && elsewhere.apply()) allowed.apply();
}

#else

int Cores::take_seat(int) { return -1; }
void Cores::leave(int) {}

#endif

}  // namespace llm
