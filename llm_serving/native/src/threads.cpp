#include "threads.hpp"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <pthread.h>
#endif

namespace llm {

namespace {

void pause() {
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("isb");  // waits for some ten nanoseconds; `yield` is over at once
#endif
}

// Some fifty microseconds: shorter than a time slice by far, and longer than what others need for a tile. Who
// sleeps on a busy core is woken one time slice late: beside one busy process per core, 16 sequences got 11 % of
// their rate with a spin of three microseconds, and 45 % with this one.
constexpr int kSpins = 4096;

}  // namespace

void wait_for_change(std::atomic<uint32_t>& value, uint32_t old) {
    for (int i = 0; i < kSpins; i++) {
        if (value.load(std::memory_order_acquire) != old) return;
        pause();
    }
    while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

ThreadPool::ThreadPool(int threads) : cores_(threads) {
    for (int worker = 1; worker < threads; worker++) workers_.emplace_back([this, worker] { work(worker); });
}

ThreadPool::~ThreadPool() {
    stop_.store(true, std::memory_order_release);
    generation_.fetch_add(1, std::memory_order_seq_cst);
    generation_.notify_all();
    for (auto& worker : workers_) worker.join();
}

void ThreadPool::run(const std::function<void(int)>& task) {
    cores_.take_seat(0);
    task_ = &task;
    inside_.store(0, std::memory_order_release);
    generation_.fetch_add(1, std::memory_order_seq_cst);
    generation_.notify_all();
    attempt(0);
    for (uint32_t inside = inside_.fetch_or(kClosed, std::memory_order_acq_rel) | kClosed; inside != kClosed;
         inside = inside_.load(std::memory_order_acquire))
        wait_for_change(inside_, inside);
    failure_.rethrow();
}

bool ThreadPool::enter() {
    uint32_t inside = inside_.load(std::memory_order_acquire);
    while (!(inside & kClosed))
        if (inside_.compare_exchange_weak(inside, inside + 1, std::memory_order_acq_rel)) return true;
    return false;
}

void ThreadPool::attempt(int worker) noexcept {
    try {
        (*task_)(worker);
    } catch (...) {
        failure_.keep();
    }
}

void ThreadPool::work(int worker) {
#if defined(__linux__)
    pthread_setname_np(pthread_self(), "llm-kernels");  // what `top -H` shows
#endif
    uint32_t seen = 0;
    for (;;) {
        wait_for_change(generation_, seen);
        seen = generation_.load(std::memory_order_acquire);  // there may have been more than one meanwhile
        if (stop_.load(std::memory_order_acquire)) return;
        if (!enter()) {
            cores_.check(worker);  // it may come too late because it is where another one is
            continue;
        }
        attempt(worker);
        inside_.fetch_sub(1, std::memory_order_seq_cst);
        inside_.notify_one();
    }
}

void ThreadPool::for_each(int count, const std::function<void(int)>& body) {
    std::atomic<int> next{0};
    run([&](int) {
        for (int i = next.fetch_add(1); i < count; i = next.fetch_add(1)) body(i);
    });
}

}  // namespace llm
