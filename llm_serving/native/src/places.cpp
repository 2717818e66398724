#include "places.hpp"

#if defined(__linux__)
#include <sched.h>
#endif

namespace llm {

#if defined(__linux__)

namespace {

cpu_set_t* set_of(CpuMask& mask) { return reinterpret_cast<cpu_set_t*>(mask.data()); }

// Of the calling thread, which both calls name as 0.
bool read_mask(CpuMask& mask) { return sched_getaffinity(0, sizeof mask, set_of(mask)) == 0; }

// Fails where an administrator has taken the core away meanwhile: then the kernel decides, as without a place.
void bind(CpuMask& mask) { (void)sched_setaffinity(0, sizeof mask, set_of(mask)); }

void bind_to(int cpu) {
    CpuMask mask{};
    CPU_SET_S(size_t(cpu), sizeof mask, set_of(mask));
    bind(mask);
}

}  // namespace

Places::Places(int workers) {
    CpuMask mask{};
    if (workers < 2 || !read_mask(mask) || CPU_COUNT_S(sizeof mask, set_of(mask)) != workers) return;
    for (int cpu = 0; cpu < kMostCpus; cpu++)
        if (CPU_ISSET_S(size_t(cpu), sizeof mask, set_of(mask))) cpus_.push_back(cpu);
}

void Places::settle(int worker) const {
    if (!cpus_.empty()) bind_to(cpus_[size_t(worker)]);
}

Visit::Visit(const Places& places) {
    if (places.cpus_.empty() || !read_mask(before_)) return;
    bound_ = true;
    bind_to(places.cpus_[0]);
}

Visit::~Visit() {
    if (bound_) bind(before_);
}

#else

Places::Places(int) {}
void Places::settle(int) const {}
Visit::Visit(const Places&) {}
Visit::~Visit() = default;

#endif

}  // namespace llm
