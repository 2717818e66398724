// What this CPU has beyond what __builtin_cpu_supports of every compiler knows.
#pragma once
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace llm {

// Of Intel's CPUID leaf 7, part 1. It says nothing of the operating system's support, which AVX2 implies.
inline bool has_avx_vnni() {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4));
}

#if defined(__linux__)
// Tiles of AMX, their products of bfloat16, and AVX-512's conversions to it. Linux keeps them from a process that has not asked: a thread's registers take
// 8 KiB more then, and where a signal's stack has no room for them, the answer is no (ARCH_REQ_XCOMP_PERM, Linux 5.16).
inline bool may_use_tiles() {
    unsigned a, b, c, d;
    constexpr unsigned kProducts = 1u << 22, kTiles = 1u << 24, kConversions = 1u << 5;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (kProducts | kTiles)) != (kProducts | kTiles)) return false;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & kConversions)) return false;
    constexpr int kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#else
inline bool may_use_tiles() { return false; }
#endif

}  // namespace llm
