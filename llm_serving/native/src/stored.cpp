// Packed panels that come from a file instead of from packing.
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "plan.hpp"
#include "quantize.hpp"

namespace llm {

namespace {

constexpr size_t kChunk = size_t(1) << 20;  // bytes a thread copies or sums at a time
constexpr uint64_t kFactor = 0x9e3779b97f4a7c15;  // odd: multiplying loses nothing

uint64_t mix(uint64_t sum, uint64_t word) {
    sum = (sum ^ word) * kFactor;
    return sum ^ sum >> 29;
}

// Four sums side by side, because one would wait for its own multiplications.
uint64_t sum_of(const uint8_t* data, size_t bytes) {
    uint64_t sums[4] = {1, 2, 3, 4};
    size_t at = 0;
    for (; at + 32 <= bytes; at += 32)
        for (int i = 0; i < 4; i++) {
            uint64_t word;
            memcpy(&word, data + at + 8 * i, 8);
            sums[i] = mix(sums[i], word);
        }
    uint64_t sum = bytes;
    for (; at < bytes; at++) sum = mix(sum, data[at]);
    for (uint64_t lane : sums) sum = mix(sum, lane);
    return sum;
}

}  // namespace

int Plan::adopt(const std::string& name, const uint8_t* data, size_t bytes, int rows, int cols, bool copy) {
    const Format format = format_from_name(name);
    if (!model.matrices.empty() && model.exact != (format == Format::f32))
        throw std::invalid_argument("f32 matrices do not mix with packed ones");
    if (rows <= 0 || cols <= 0 || cols % kGroup)
        throw std::invalid_argument("a packed matrix needs rows, and columns in multiples of 32");
    if (shares_factors(format) && cols % (kGroup * kSharing))
        throw std::invalid_argument("a " + name + " matrix needs columns in multiples of 256");
    PackedMatrix matrix{format, rows, cols, panel_stride(format, cols), data};
    if (bytes != matrix.bytes() || reinterpret_cast<uintptr_t>(data) % 64)
        throw std::invalid_argument("packed panels do not have the size and alignment of their shape");
    if (copy) {
        auto* target = static_cast<uint8_t*>(arena_.allocate(bytes));
        pool_.for_each(int((bytes + kChunk - 1) / kChunk), [&](int chunk) {
            const size_t at = kChunk * size_t(chunk);
            memcpy(target + at, data + at, std::min(kChunk, bytes - at));
        });
        matrix.data = target;
    }
    model.exact = format == Format::f32;
    model.matrices.push_back(matrix);
    return int(model.matrices.size()) - 1;
}

uint64_t Plan::checksum(const uint8_t* data, size_t bytes) {
    const size_t chunks = (bytes + kChunk - 1) / kChunk;
    std::vector<uint64_t> sums(chunks);
    pool_.for_each(int(chunks), [&](int chunk) {
        const size_t at = kChunk * size_t(chunk);
        sums[size_t(chunk)] = sum_of(data + at, std::min(kChunk, bytes - at));
    });
    uint64_t sum = bytes;
    for (uint64_t part : sums) sum = mix(sum, part);
    return sum;
}

size_t Plan::weight_bytes() const {
    size_t bytes = 0;
    for (const PackedMatrix& matrix : model.matrices) bytes += matrix.bytes();
    for (const PackedMatrix& matrix : model.low_ranks) bytes += matrix.bytes();
    return bytes;
}

}  // namespace llm
