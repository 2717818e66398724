// Chat models and encoders take turns on the same cores.
//
// Left to the kernel, workers of two pools displace each other in mid tile, and everybody else of their pool
// waits for that tile. Here one step at a time has all cores: workers of others stop at their next tile.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

namespace llm {

enum class Side : int { chat, encoders };

class Turn;

// A step is present until it has run. It keeps its turn to its end, or for `slice` seconds if it is longer, and hands it to
// the step of the other side that has waited longest, or else of its own: between chat and encoders, then, every chat
// step has its turn. Encoders have `share` times what the chat step before them took. Who is alone never waits.
class Turns {
public:
    Turns(double slice, double share) : slice_(slice), share_(share) {}

private:
    friend class Turn;
    static double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
    void enter(Turn& turn);
    void leave(Turn& turn);
    void wait(Turn& turn);
    void wait_for_turn(std::unique_lock<std::mutex>& lock, Turn& turn);
    void begin(Turn& turn, double length);
    void hand_on();

    const double slice_, share_;
    std::mutex mutex_;  // guards what changes; the atomics are read without it
    std::condition_variable changed_;
    std::vector<Turn*> present_;  // who has waited longest first; the owner is one of them
    double begin_ = 0.0;          // of the turn, on the steady clock, in seconds
    bool is_lent_ = false;        // by a chat step to encoders
    std::atomic<bool> contended_{false};  // more than one is present
    std::atomic<Turn*> owner_{nullptr};
    std::atomic<double> end_{0.0};
};

// A step, as a scope. Its beginning returns when it is the step's turn.
class Turn {
public:
    Turn(Turns& turns, Side side) : side(side), turns_(turns) { turns_.enter(*this); }
    ~Turn() { leave(); }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    // Between two tiles, by every worker: returns at once, or gives the turn away and returns when it has come back.
    void pass() {
        if (!turns_.contended_.load(std::memory_order_relaxed)) return;
        const bool is_mine = turns_.owner_.load(std::memory_order_relaxed) == this;
        if (is_mine && Turns::now() < turns_.end_.load(std::memory_order_relaxed)) return;
        turns_.wait(*this);
    }
    // Twice is once.
    void leave() { turns_.leave(*this); }

    const Side side;

private:
    Turns& turns_;
};

// Called by every thread that runs a side's tiles. Turns say who computes; but encoders also let everybody else have
// their cores at once, such as the event loop and clients, which would else wait for a tick of the kernel's clock.
void take_priority(Side side);

// The turns of all plans in this process.
Turns& process_turns();

}  // namespace llm
