// What this machine can do at most: streaming reads and multiply-adds, measured with nothing else in the way.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "memory.hpp"
#include "threads.hpp"

namespace llm {

// Instructions whose peak can be measured on this CPU, such as "vpmaddubsw" or "sdot".
std::vector<std::string> measurable_instructions();

// Operations per second of one instruction on all threads of the pool, for about `seconds`; a multiply and an add
// are two. Throws std::invalid_argument for an instruction that is not measurable here.
double measure_peak(const std::string& instruction, ThreadPool& pool, double seconds);

// Memory to be read from end to end, in 2 MB pages where the kernel has them; every page is there.
class ReadProbe {
public:
    // Throws std::bad_alloc.
    ReadProbe(size_t bytes, ThreadPool& pool);
    // Bytes per second of one pass over everything by all threads of the pool.
    double measure(ThreadPool& pool) const;

private:
    int tiles() const;
    const char* tile(int index) const;

    Mapping memory_;
};

}  // namespace llm
