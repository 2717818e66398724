// The table of one ISA; compiled once per instruction set.
#include "elementwise.hpp"

#define LLM_STRING_(a) #a
#define LLM_STRING(a) LLM_STRING_(a)

namespace llm {

#if defined(__AVX512VNNI__) || defined(LLM_NEON)
static constexpr bool kBytesPay = true;
#else
static constexpr bool kBytesPay = false;
#endif

const Kernels& LLM_CONCAT(kernels_, LLM_ISA)() {
    using namespace LLM_NAMESPACE;
    static const Kernels table = {LLM_STRING(LLM_ISA), kBytesPay, true, 2, 1, 192 << 10, 1.5e6, gemm, quantize, quantize_wide, rms_norm, layer_norm, gelu, gelu_tanh, xielu, gated_silu, gated_gelu, gated_gelu_tanh, gated_relu, gated_within,
                                  gated_sigmoid, soft_cap, rope, store_kv, attention, merge_attention, encoder_attention, delta_gates, short_conv, delta_rule, mamba_steps, mamba_scan, selective_scan, dequantize_row};
    return table;
}

}  // namespace llm
