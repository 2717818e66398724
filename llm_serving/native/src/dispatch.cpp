#include <stdexcept>
#include <string>

#include "kernels.hpp"

namespace llm {

const Kernels& select_kernels(const char* isa) {
    const std::string name = isa;
#if defined(LLM_HAVE_AVX2)
    // F16C came with Ivy Bridge: every CPU with AVX2 has it.
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && (name == "auto" || name == "avx2")) return kernels_avx2();
#endif
    if (name == "auto" || name == "scalar") return kernels_scalar();
    throw std::invalid_argument("the instruction set '" + name + "' is not available here; use 'auto' or 'scalar'");
}

}  // namespace llm
