// What this CPU has beyond what __builtin_cpu_supports of every compiler knows.
#pragma once
#include <cpuid.h>

namespace llm {

// Of Intel's CPUID leaf 7, part 1. It says nothing of the operating system's support, which AVX2 implies.
inline bool has_avx_vnni() {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4));
}

}  // namespace llm
