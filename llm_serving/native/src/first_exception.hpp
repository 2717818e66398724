// What went wrong on threads that nobody listens to.
#pragma once
#include <atomic>
#include <exception>
#include <utility>

namespace llm {

// Threads keep what they caught, and whoever waits for them all throws the first of it again.
class FirstException {
public:
    // In a catch block.
    void keep() noexcept {
        if (!kept_.exchange(true, std::memory_order_relaxed)) error_ = std::current_exception();
    }
    bool is_kept() const { return kept_.load(std::memory_order_relaxed); }
    // By one who has waited for all that may keep something; forgets it.
    void rethrow() {
        if (!is_kept()) return;
        kept_.store(false, std::memory_order_relaxed);
        std::rethrow_exception(std::exchange(error_, nullptr));
    }

private:
    std::atomic<bool> kept_{false};
    std::exception_ptr error_;
};

}  // namespace llm
