#include "turns.hpp"

#include <algorithm>

#if defined(__linux__)
#include <sys/resource.h>
#endif

namespace llm {

namespace {

// The gap between tokens grows to 1.4 times, and the encoders get 2 / 7 of the time.
constexpr double kShare = 0.4;
// Of a long prompt's step: as long as a short text waits behind it.
constexpr double kSlice = 0.01;
constexpr int kEncoderNiceness = 10;

Side other(Side side) { return side == Side::chat ? Side::encoders : Side::chat; }

}  // namespace

void Turns::enter(Side side) {
    std::unique_lock<std::mutex> lock(mutex_);
    present_[int(side)]++;
    if (present_[int(other(side))]) {
        contended_ = true;
        wait_for_turn(lock, side);
    } else if (owner_ != side || present_[int(side)] == 1) {
        owner_ = side;
        begin_ = now();
        end_ = begin_ + (side == Side::chat ? slice_ : 0.0);  // encoders that came first were owed nothing
    }
}

void Turns::leave(Side side) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (--present_[int(side)]) return;
    contended_ = false;
    if (present_[int(other(side))] && owner_ == side) give(other(side));
}

void Turns::wait(Side side) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (contended_ && owner_ == side && now() >= end_) give(other(side));
    wait_for_turn(lock, side);
}

void Turns::wait_for_turn(std::unique_lock<std::mutex>& lock, Side side) {
    while (contended_ && owner_ != side) {
        const double left = end_ - now();
        // Its owner may have lost its core to another process, and nobody waits for that.
        if (left <= 0.0) give(side);
        else changed_.wait_for(lock, std::chrono::duration<double>(left));
    }
}

void Turns::give(Side side) {
    const double begin = begin_;
    begin_ = now();
    end_ = begin_ + (side == Side::chat ? slice_ : share_ * std::min(begin_ - begin, slice_));
    owner_ = side;
    changed_.notify_all();
}

void take_priority(Side side) {
#if defined(__linux__)  // which keeps niceness per thread
    thread_local bool taken = false;
    if (taken || side != Side::encoders) return;
    taken = true;
    setpriority(PRIO_PROCESS, 0, kEncoderNiceness);  // 0: this thread
#else
    (void)side;
#endif
}

Turns& process_turns() {
    static Turns& turns = *new Turns(kSlice, kShare);  // never freed: daemon threads may outlive static objects
    return turns;
}

}  // namespace llm
