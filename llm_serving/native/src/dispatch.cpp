#include <stdexcept>

#include "kernels.hpp"

namespace llm {

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
#if defined(LLM_HAVE_X86)
    __builtin_cpu_init();
    // F16C came with Ivy Bridge: every CPU with AVX2 has it.
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512vnni");
    if (avx512) names.push_back("avx512");
    if (avx2) names.push_back("avx2");
#endif
    names.push_back("scalar");
    return names;
}

const Kernels& select_kernels(const char* isa) {
    const std::vector<std::string> names = instruction_sets();
    const std::string wanted = isa == std::string("auto") ? names.front() : isa;
    for (const std::string& name : names) {
        if (name != wanted) continue;
#if defined(LLM_HAVE_X86)
        if (name == "avx512") return kernels_avx512();
        if (name == "avx2") return kernels_avx2();
#endif
        return kernels_scalar();
    }
    throw std::invalid_argument("the instruction set '" + wanted + "' is not available here; use 'auto' or 'scalar'");
}

}  // namespace llm
