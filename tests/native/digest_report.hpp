// What digests are made of: numbers that are the same everywhere, and a hash of what was computed from them.
#pragma once
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <vector>

struct Random {
    uint64_t state;

    uint64_t next() {  // SplitMix64 (Steele, Lea and Flood 2014)
        uint64_t z = state += 0x9E3779B97F4A7C15;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return z ^ (z >> 31);
    }
    int below(int n) { return int(next() >> 33) % n; }
    // In [-size, size), a multiple of size / 2^23.
    float real(float size) { return float(int32_t(next() >> 40) - (1 << 23)) * (size / float(1 << 23)); }
    std::vector<float> reals(size_t n, float size) {
        std::vector<float> values(n);
        for (float& v : values) v = real(size);
        return values;
    }
};

class Report {
public:
    explicit Report(const char* isa) : isa_(isa) {}
    template <class T>
    void add(const std::vector<T>& values) {  // FNV-1a
        const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
        for (size_t i = 0; i < values.size() * sizeof(T); i++) hash_ = (hash_ ^ bytes[i]) * 0x100000001b3;
    }
    __attribute__((format(printf, 2, 3))) void line(const char* format, ...) {
        char name[200];
        va_list values;
        va_start(values, format);
        vsnprintf(name, sizeof name, format, values);
        va_end(values);
        printf("%s\t%s\t%016llx\n", isa_, name, static_cast<unsigned long long>(hash_));
        hash_ = kStart;
    }

private:
    static constexpr uint64_t kStart = 0xcbf29ce484222325;
    const char* isa_;
    uint64_t hash_ = kStart;
};
