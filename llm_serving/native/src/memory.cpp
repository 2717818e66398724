#include "memory.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <new>
#include <utility>

namespace llm {

namespace {
constexpr size_t kHugePage = size_t(2) << 20;
constexpr size_t kSlab = size_t(32) << 20;
constexpr size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }
}  // namespace

Mapping::Mapping(size_t bytes) : size_(bytes), mapped_(round_up(bytes, kHugePage) + kHugePage) {
    base_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base_ == MAP_FAILED) throw std::bad_alloc();
    data_ = reinterpret_cast<void*>(round_up(reinterpret_cast<uintptr_t>(base_), kHugePage));
#ifdef MADV_HUGEPAGE
    madvise(data_, round_up(bytes, kHugePage), MADV_HUGEPAGE);
#endif
}

Mapping::Mapping(Mapping&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)), data_(other.data_), size_(other.size_), mapped_(other.mapped_) {}

Mapping::~Mapping() {
    if (base_) munmap(base_, mapped_);
}

void* Arena::allocate(size_t bytes) {
    bytes = round_up(bytes, 64);
    if (slabs_.empty() || offset_ + bytes > slabs_.back().size()) {
        slabs_.emplace_back(bytes > kSlab ? bytes : kSlab);
        offset_ = 0;
    }
    void* result = static_cast<char*>(slabs_.back().data()) + offset_;
    offset_ += bytes;
    return result;
}

}  // namespace llm
