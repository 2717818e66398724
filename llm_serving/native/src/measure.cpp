#include "measure.hpp"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#if defined(LLM_HAVE_X86)
#include <immintrin.h>

#include "x86_features.hpp"
#elif defined(LLM_HAVE_ARM64)
#include <arm_neon.h>

#include "kernels.hpp"
#endif

namespace llm {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

constexpr int kSums = 12;  // independent: more than latency times units, and they leave registers for the operands
constexpr int kRounds = 4096;  // some ten microseconds between two looks at the clock

struct Instruction {
    const char* name;
    bool available;
    void (*run)();   // kRounds * kSums times
    int operations;  // of one
};

#if defined(LLM_HAVE_X86)
#define LLM_VECTOR "x"  // the constraint of a vector register
#elif defined(LLM_HAVE_ARM64)
#define LLM_VECTOR "w"
#endif

// For the compiler the operands change at every step, or the product would be computed once.
#define LLM_PEAK(function, isa, Vector, step)                                              \
    __attribute__((target(isa))) void function() {                                         \
        Vector sums[kSums] = {}, a, b;                                                     \
        memset(&a, 0x3c, sizeof a);                                                        \
        memset(&b, 0x3c, sizeof b);                                                        \
        for (int i = 0; i < kRounds; i++) {                                                \
            _Pragma("GCC unroll 12") for (int j = 0; j < kSums; j++) {                     \
                asm volatile("" : "+" LLM_VECTOR(a), "+" LLM_VECTOR(b));                   \
                sums[j] = step;                                                            \
            }                                                                              \
        }                                                                                  \
        _Pragma("GCC unroll 12") for (int j = 0; j < kSums; j++) asm volatile("" : : LLM_VECTOR(sums[j])); \
    }

#if defined(LLM_HAVE_X86)

LLM_PEAK(run_maddubs, "avx2", __m256i, _mm256_add_epi16(sums[j], _mm256_maddubs_epi16(a, b)))
LLM_PEAK(run_madd, "avx2", __m256i, _mm256_add_epi32(sums[j], _mm256_madd_epi16(a, b)))
LLM_PEAK(run_vnni, "avx512vl,avx512vnni", __m256i, _mm256_dpbusd_epi32(sums[j], a, b))
LLM_PEAK(run_avx_vnni, "avxvnni", __m256i, _mm256_dpbusd_avx_epi32(sums[j], a, b))
LLM_PEAK(run_wide_vnni, "avx512f,avx512vnni", __m512i, _mm512_dpbusd_epi32(sums[j], a, b))
LLM_PEAK(run_fma, "avx2,fma", __m256, _mm256_fmadd_ps(a, b, sums[j]))

std::vector<Instruction> instructions() {
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2");
    const bool wide_vnni = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni");
    const bool vnni = wide_vnni && __builtin_cpu_supports("avx512vl");
    return {
        {"vpmaddubsw", avx2, run_maddubs, 64},
        {"vpmaddwd", avx2, run_madd, 32},
        {"vpdpbusd", vnni || (avx2 && has_avx_vnni()), vnni ? run_vnni : run_avx_vnni, 64},
        {"vpdpbusd-512", wide_vnni, run_wide_vnni, 128},
        {"vfmadd-f32", avx2 && __builtin_cpu_supports("fma"), run_fma, 16},
    };
}

#elif defined(LLM_HAVE_ARM64)

LLM_PEAK(run_sdot, "arch=armv8.2-a+dotprod", int32x4_t, vdotq_s32(sums[j], vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b)))
LLM_PEAK(run_fmla, "arch=armv8-a", float32x4_t, vfmaq_f32(sums[j], a, b))

std::vector<Instruction> instructions() {
    return {
        {"sdot", instruction_sets().front() == "neon", run_sdot, 32},
        {"fmla-f32", true, run_fmla, 8},
    };
}

#else

std::vector<Instruction> instructions() { return {}; }

#endif

constexpr size_t kTile = size_t(1) << 20;
constexpr size_t kAhead = 4096;  // bytes; hides the memory's latency where the hardware's prefetcher stops at a page

using Wide = uint64_t __attribute__((vector_size(32)));

__attribute__((always_inline)) inline void read_tile(const char* tile) {
    Wide seen[4] = {};
    for (size_t i = 0; i < kTile; i += sizeof seen) {
        __builtin_prefetch(tile + i + kAhead);
        __builtin_prefetch(tile + i + kAhead + 64);
        const Wide* p = reinterpret_cast<const Wide*>(tile + i);
        for (int j = 0; j < 4; j++) seen[j] |= p[j];
    }
    const Wide all = (seen[0] | seen[1]) | (seen[2] | seen[3]);
    asm volatile("" : : "m"(all));  // somebody may have needed it
}

void read_portably(const char* tile) { read_tile(tile); }

#if defined(LLM_HAVE_X86)
__attribute__((target("avx2"))) void read_with_avx2(const char* tile) { read_tile(tile); }

auto* best_read() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") ? read_with_avx2 : read_portably;
}
#else
auto* best_read() { return read_portably; }
#endif

}  // namespace

std::vector<std::string> measurable_instructions() {
    std::vector<std::string> names;
    for (const Instruction& instruction : instructions())
        if (instruction.available) names.push_back(instruction.name);
    return names;
}

double measure_peak(const std::string& name, ThreadPool& pool, double seconds) {
    for (const Instruction& instruction : instructions()) {
        if (!instruction.available || instruction.name != name) continue;
        std::atomic<int64_t> runs{0};
        const auto start = Clock::now();
        pool.run([&](int) {
            do {
                instruction.run();
                runs++;
            } while (seconds_since(start) < seconds);
        });
        return double(runs) * kRounds * kSums * instruction.operations / seconds_since(start);
    }
    throw std::invalid_argument("the peak of '" + name + "' is not measurable on this CPU");
}

ReadProbe::ReadProbe(size_t bytes, ThreadPool& pool) : memory_((bytes + kTile - 1) / kTile * kTile) {
    // Untouched pages would all be the kernel's one page of zeros, in the cache.
    pool.for_each(tiles(), [&](int i) { memset(const_cast<char*>(tile(i)), 1, kTile); });
}

int ReadProbe::tiles() const { return int(memory_.size() / kTile); }

const char* ReadProbe::tile(int index) const { return static_cast<const char*>(memory_.data()) + size_t(index) * kTile; }

double ReadProbe::measure(ThreadPool& pool) const {
    auto* read = best_read();
    const auto start = Clock::now();
    pool.for_each(tiles(), [&](int i) { read(tile(i)); });
    return double(memory_.size()) / seconds_since(start);
}

}  // namespace llm
