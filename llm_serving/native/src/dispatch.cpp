#include <stdexcept>

#include "kernels.hpp"
#include "logit_scans.hpp"

#if defined(LLM_HAVE_X86)
#include "x86_features.hpp"
#elif defined(LLM_HAVE_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace llm {

namespace {

struct InstructionSet {
    const char* name;
    bool available;
    const Kernels& (*kernels)();
    const LogitScans& (*logit_scans)();
};

// The best first.
std::vector<InstructionSet> known_sets() {
    std::vector<InstructionSet> sets;
#if defined(LLM_HAVE_X86)
    __builtin_cpu_init();
    // F16C came with Ivy Bridge: every CPU with AVX2 has it.
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512vnni");
#if defined(LLM_VNNI_OF_AVX512)
    const bool avx_vnni = avx512;
#else
    const bool avx_vnni = avx2 && has_avx_vnni();
#endif
    sets.push_back({"avx512", avx512, kernels_avx512, logit_scans_avx512});
    sets.push_back({"avxvnni", avx_vnni, kernels_avxvnni, logit_scans_avx2});
    sets.push_back({"avx2", avx2, kernels_avx2, logit_scans_avx2});
#elif defined(LLM_HAVE_ARM64)
#if defined(__linux__)
    const bool dot_product = getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#else
    const bool dot_product = true;  // every Mac with an ARM CPU
#endif
    sets.push_back({"neon", dot_product, kernels_neon, logit_scans_neon});
#endif
    sets.push_back({"scalar", true, kernels_scalar, logit_scans_scalar});
    return sets;
}

#if defined(LLM_HAVE_AMX)
bool has_amx() {
    static const bool has = known_sets().front().available && may_use_tiles();
    return has;
}
#endif

InstructionSet select(const std::string& isa) {
#if defined(LLM_HAVE_AMX)
    if (isa == "amx" && has_amx()) return {"amx", true, kernels_amx, logit_scans_avx512};
#endif
    for (const InstructionSet& set : known_sets())
        if (set.available && (isa == "auto" || isa == set.name)) return set;
    throw std::invalid_argument("the instruction set '" + isa + "' is not available here; use 'auto' or 'scalar'");
}

}  // namespace

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const InstructionSet& set : known_sets())
        if (set.available) names.push_back(set.name);
    return names;
}

std::string tile_set() {
#if defined(LLM_HAVE_AMX)
    if (has_amx()) return "amx";
#endif
    return "";
}

const Kernels& select_kernels(const char* isa) { return select(isa).kernels(); }

const LogitScans& select_logit_scans(const char* isa) { return select(isa).logit_scans(); }

}  // namespace llm
