// Rows of 8-bit activations as a kernel reads them. Included only by files that are compiled once per instruction set.
#pragma once
#include "lanes.hpp"

namespace llm::LLM_NAMESPACE {

// Group after group of up to eight consecutive rows. A pointer for each would not fit the registers beside what else
// the kernels need: here x86 addresses four rows by one pointer and a stride, taken once, twice or three times.
class NarrowRows {
public:
    NarrowRows(const Activations& a, int row)
        : low_(reinterpret_cast<const uint8_t*>(a.narrow_row(row))),
          stride_(Activations::narrow_stride(a.cols) * sizeof(NarrowGroup)),
          three_(3 * stride_),
          high_(low_ + 4 * stride_) {}

    const NarrowGroup& operator[](int r) const {
        const size_t from = r % 4 == 3 ? three_ : size_t(r % 4) * stride_;
        return *reinterpret_cast<const NarrowGroup*>((r < 4 ? low_ : high_) + from);
    }
    void next() {
        low_ += sizeof(NarrowGroup);
        high_ += sizeof(NarrowGroup);
        asm("" : "+r"(low_), "+r"(high_), "+r"(stride_), "+r"(three_));  // else GCC makes eight pointers of them again
    }

private:
    const uint8_t* low_;
    size_t stride_, three_;
    const uint8_t* high_;
};

}  // namespace llm::LLM_NAMESPACE
