#include "turns.hpp"

#include <algorithm>

#if defined(__linux__)
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace llm {

namespace {

// The gap between tokens grows to 1.4 times, and the encoders get 2 / 7 of the time.
constexpr double kShare = 0.4;
// Of a long prompt's step: as long as a short text waits behind it.
constexpr double kSlice = 0.01;
[[maybe_unused]] constexpr int kEncoderNiceness = 3;  // with 10, a busy process per core left them 8 % of their rate, with this one 25

}  // namespace

void Turns::enter(Turn& turn) {
    std::unique_lock<std::mutex> lock(mutex_);
    present_.push_back(&turn);
    if (present_.size() == 1) return begin(turn, slice_);
    contended_ = true;
    Turn* const owner = owner_;
    if (turn.side == Side::chat && owner->side == Side::encoders && !is_lent_) end_ = now();  // it is owed nothing
    wait_for_turn(lock, turn);
}

void Turns::leave(Turn& turn) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto place = std::find(present_.begin(), present_.end(), &turn);
    if (place == present_.end()) return;
    if (owner_ == &turn && present_.size() > 1) hand_on();
    present_.erase(std::find(present_.begin(), present_.end(), &turn));
    contended_ = present_.size() > 1;
}

void Turns::wait(Turn& turn) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (contended_ && owner_ == &turn && now() >= end_) hand_on();
    wait_for_turn(lock, turn);
}

void Turns::wait_for_turn(std::unique_lock<std::mutex>& lock, Turn& turn) {
    while (owner_ != &turn) {
        const double left = end_ - now();
        // Its owner may have lost its core to another process, and nobody waits for that.
        if (left <= 0.0) hand_on();
        else changed_.wait_for(lock, std::chrono::duration<double>(left));
    }
}

// The owner waits behind all others from here on.
void Turns::hand_on() {
    Turn* const before = owner_;
    const auto place = std::find(present_.begin(), present_.end(), before);
    std::rotate(place, place + 1, present_.end());
    const auto of_other = [&](const Turn* turn) { return turn->side != before->side; };
    const auto found = std::find_if(present_.begin(), present_.end(), of_other);
    Turn& next = found == present_.end() ? *present_.front() : **found;
    const bool is_lent = before->side == Side::chat && next.side == Side::encoders;
    begin(next, is_lent ? share_ * std::min(now() - begin_, slice_) : slice_);
    is_lent_ = is_lent;
    changed_.notify_all();
}

void Turns::begin(Turn& turn, double length) {
    is_lent_ = false;
    begin_ = now();
    end_ = begin_ + length;
    owner_ = &turn;
}

void take_priority(Side side) {
#if defined(__linux__)  // which keeps niceness per thread
    thread_local bool taken = false;
    if (taken || side != Side::encoders) return;
    taken = true;
    if (syscall(SYS_gettid) == getpid()) return;  // the main thread: all that the program starts later would inherit it
    // 0: this thread, which may be nicer already, as all of a server that was started so.
    if (getpriority(PRIO_PROCESS, 0) < kEncoderNiceness) setpriority(PRIO_PROCESS, 0, kEncoderNiceness);
#else
    (void)side;
#endif
}

Turns& process_turns() {
    static Turns& turns = *new Turns(kSlice, kShare);  // never freed: daemon threads may outlive static objects
    return turns;
}

}  // namespace llm
