// One persistent pool of workers; the calling thread is worker 0.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "cores.hpp"
#include "first_exception.hpp"

namespace llm {

// Sleeps in the kernel after a short spin, so idle workers cost nothing and a busy neighbour is not fought. Whoever changes
// the value does so by an exchange or an addition and not by a plain store, which a processor may let wait behind the load by which
// `notify_all` looks for sleepers: who falls asleep between the two is never woken.
void wait_for_change(std::atomic<uint32_t>& value, uint32_t old);

class ThreadPool {
public:
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    // Called by a task's worker where it may be moved to another core.
    void check_core(int worker) { cores_.check(worker); }
    int size() const { return int(workers_.size()) + 1; }
    // Runs task(worker) on the calling thread and on every worker that comes in time, and returns when those have finished.
    // Throws the first exception of any of them. No worker may throw that others wait for within the task.
    void run(const std::function<void(int)>& task);
    // Runs body(i) for i in [0, count), handed out one at a time. Throws as `run` does, and then some i were left out.
    void for_each(int count, const std::function<void(int)>& body);

private:
    static constexpr uint32_t kClosed = 1u << 31;
    void work(int worker);
    bool enter();
    void attempt(int worker) noexcept;

    Cores cores_;
    std::vector<std::thread> workers_;
    std::atomic<uint32_t> generation_{0};
    std::atomic<uint32_t> inside_{kClosed};  // workers that run the task, and whether no more may begin
    std::atomic<bool> stop_{false};
    const std::function<void(int)>* task_ = nullptr;
    FirstException failure_;
};

}  // namespace llm
