// A core for each worker.
#pragma once
#include <array>
#include <vector>

namespace llm {

constexpr int kMostCpus = 4096;
using CpuMask = std::array<unsigned long, kMostCpus / (8 * sizeof(unsigned long))>;

// Where there are as many workers as cores that this process may use, each has its own. The kernel would put two of
// them on one core now and then, as when the event loop has taken the core of one for a moment, and leave them there
// for some time slices, while all others wait: beside a 2 000 token prompt the longest gap of a stream was 28 to 36 ms,
// and is 14 to 19 ms. With fewer workers than cores there is room, and the kernel knows best. Linux only.
class Places {
public:
    explicit Places(int workers);
    // Binds the calling thread for good.
    void settle(int worker) const;

private:
    friend class Visit;
    std::vector<int> cpus_;  // empty: anywhere
};

// Binds the calling thread to the place of worker 0, as a scope: the thread is somebody else's, and so are threads and
// processes that it starts, which inherit what it is bound to.
class Visit {
public:
    explicit Visit(const Places& places);
    ~Visit();
    Visit(const Visit&) = delete;
    Visit& operator=(const Visit&) = delete;

private:
    CpuMask before_;
    bool bound_ = false;
};

}  // namespace llm
