// Chat and encoders take turns on the same cores.
//
// Left to the kernel, workers of two pools displace each other in mid tile, and everybody else of their pool
// waits at the barrier. Here all workers of a side stop at their next tile, and the other side has all cores.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace llm {

enum class Side : int { chat, encoders };

// A side is present while it has a step to run. A chat step keeps its turn to its end, or for `slice` seconds
// if it is longer; the encoders then have `share` times what it took. Who is alone never waits.
class Turns {
public:
    Turns(double slice, double share) : slice_(slice), share_(share) {}
    // Begins a step: returns when it is the side's turn.
    void enter(Side side);
    void leave(Side side);
    // Between two tiles of a step: returns at once, or gives the turn away and returns when it has come back.
    void pass(Side side) {
        if (!contended_.load(std::memory_order_relaxed)) return;
        if (owner_.load(std::memory_order_relaxed) == side && now() < end_.load(std::memory_order_relaxed)) return;
        wait(side);
    }

private:
    static double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
    void wait(Side side);
    void give(Side side);
    void wait_for_turn(std::unique_lock<std::mutex>& lock, Side side);

    const double slice_, share_;
    std::mutex mutex_;  // guards what changes; the atomics are read without it
    std::condition_variable changed_;
    int present_[2] = {0, 0};  // steps of each side
    double begin_ = 0.0;       // of the turn, on the steady clock, in seconds
    std::atomic<bool> contended_{false};  // both sides are present
    std::atomic<Side> owner_{Side::chat};
    std::atomic<double> end_{0.0};
};

// A step of one side, as a scope.
class Turn {
public:
    Turn(Turns& turns, Side side) : turns_(turns), side_(side) { turns_.enter(side_); }
    ~Turn() { turns_.leave(side_); }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    void pass() { turns_.pass(side_); }

private:
    Turns& turns_;
    const Side side_;
};

// Called by every thread that runs a side's tiles. Turns say who computes; but encoders also let everybody else have
// their cores at once, such as the event loop and clients, which would else wait for a tick of the kernel's clock.
void take_priority(Side side);

// The turns of all plans in this process.
Turns& process_turns();

}  // namespace llm
