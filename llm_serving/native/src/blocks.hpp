// Blocks of weights as GGUF files have them; those from nf4 on are our own, see llm_serving/checkpoints/kinds.py.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "packed.hpp"

namespace llm {

enum class Kind : uint8_t {
    f32, f16, bf16, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0, iq4_nl, iq4_xs, mxfp4,
    nf4, e2m1_16, iq2_coded, iq3_xxs_coded, iq3_s_coded
};

// Throws std::invalid_argument for an unknown name.
Kind kind_from_name(const std::string& name);
size_t row_bytes(Kind kind, int cols);

// 32 weights as the file means them: w = scale * q + minimum, or plain values where `linear` is false. Q3_K and Q6_K have those,
// and what they are made of: w = factor * step of the half * q. Those from nf4 on have them, too, and what their packed
// format stores.
struct Group {
    bool linear;
    float scale, minimum;
    uint16_t factors[2];  // f16, of scale and minimum, and what they are multiplied with: Q4_K, Q5_K and, signed, IQ4_XS
    uint8_t steps[2];     // the first is MXFP4's exponent; of Q3_K and Q6_K one is for each half, signed
    int16_t q[kGroup];
    uint8_t codes[kGroup];  // of `q`, where a format has a table of them
    float values[kGroup];
};

// Group `g` of a row.
void decode(Kind kind, const uint8_t* row, int g, Group& out);

}  // namespace llm
