// Large, aligned, lazily touched memory: weights and the KV pool live in 2 MB pages where the kernel has them.
#pragma once
#include <cstddef>
#include <vector>

namespace llm {

// One zeroed mapping. Throws std::bad_alloc.
class Mapping {
public:
    explicit Mapping(size_t bytes);
    ~Mapping();
    Mapping(Mapping&& other) noexcept;
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    void* data() const { return data_; }
    size_t size() const { return size_; }

private:
    void* base_;
    void* data_;
    size_t size_, mapped_;
};

// Bump allocator for the weights of one model; freed as a whole.
class Arena {
public:
    void* allocate(size_t bytes);

private:
    std::vector<Mapping> slabs_;
    size_t offset_ = 0;
};

}  // namespace llm
