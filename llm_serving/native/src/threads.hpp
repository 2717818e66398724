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

// Sleeps in the kernel after a short spin, so idle workers cost nothing and a busy neighbour is not fought.
class Barrier {
public:
    explicit Barrier(int parties) : parties_(parties) {}
    // The last to arrive runs `then` before anybody goes on.
    template <class Then>
    void arrive(Then then) {
        if (parties_ == 1) return then();
        const uint32_t generation = generation_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) == parties_ - 1) {
            arrived_.store(0, std::memory_order_relaxed);
            then();
            // Not a plain store, which a processor may let wait behind the load by which `notify_all` looks for sleepers:
            // who falls asleep between the two is never woken.
            generation_.fetch_add(1, std::memory_order_seq_cst);
            generation_.notify_all();
            return;
        }
        wait_for_change(generation_, generation);
    }
    static void wait_for_change(std::atomic<uint32_t>& value, uint32_t old);

private:
    const int parties_;
    std::atomic<int> arrived_{0};
    std::atomic<uint32_t> generation_{0};
};

class ThreadPool {
public:
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    // Called by a task's worker where it may be moved to another core.
    void check_core(int worker) { cores_.check(worker); }
    int size() const { return int(workers_.size()) + 1; }
    // Runs task(worker) on every worker, and returns when all have finished. Throws the first exception of any of them.
    // No worker may throw that others wait for within the task.
    void run(const std::function<void(int)>& task);
    // Runs body(i) for i in [0, count), handed out one at a time. Throws as `run` does, and then some i were left out.
    void for_each(int count, const std::function<void(int)>& body);

private:
    void work(int worker);
    void attempt(int worker) noexcept;

    Cores cores_;
    std::vector<std::thread> workers_;
    std::atomic<uint32_t> generation_{0};
    std::atomic<uint32_t> finished_{0};
    std::atomic<bool> stop_{false};
    const std::function<void(int)>* task_ = nullptr;
    FirstException failure_;
};

}  // namespace llm
