// Workers keep off each other's cores.
#pragma once
#include <atomic>
#include <chrono>
#include <memory>

namespace llm {

// The kernel puts two workers on one core now and then, as when the event loop has taken the core of one for a moment,
// and leaves them there for some time slices, while all others wait: of a stream beside a 2 000 token prompt, one step
// in a hundred took 20 to 38 ms instead of 9. So a worker that finds itself on the core of another one moves, between
// two operations, and may run anywhere again at once: bound to a core it would have to wait there for whoever is on it,
// which cost 8 clients on two cores a tenth of their rate. Linux only; does nothing where cores are too few.
class Cores {
public:
    explicit Cores(int workers);
    // Called by each worker between operations.
    void check(int worker) {
        const int core = take_seat(worker);
        for (int other = 0; other < worker; other++)
            if (seats_[size_t(other)].core.load(std::memory_order_relaxed) == core) return leave(worker);
    }
    // Says where this worker runs. For worker 0 before the others begin, lest they look at where it was.
    int take_seat(int worker);

private:
    using Clock = std::chrono::steady_clock;
    struct alignas(64) Seat {
        std::atomic<int> core{-1};
        Clock::time_point moved;  // its worker's own
    };
    void leave(int worker);

    [[maybe_unused]] const int workers_;  // used where threads can be moved
    const std::unique_ptr<Seat[]> seats_;
};

}  // namespace llm
