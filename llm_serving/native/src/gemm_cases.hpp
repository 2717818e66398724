// From a tile's format and number of rows, known at run time, to kernels that are compiled for one of each.
// Included only by files that are compiled once per instruction set.
#pragma once
#include "lanes.hpp"

namespace llm::LLM_NAMESPACE {

// Weights for more rows are unpacked once and then read by all; for as many that costs what it saves.
constexpr int kPackedRows = 16;

// body(format), as a constant.
template <class Body>
LLM_INLINE void for_format(Format format, Body body) {
    switch (format) {
        case Format::q4: return body(std::integral_constant<Format, Format::q4>{});
        case Format::q4_centred: return body(std::integral_constant<Format, Format::q4_centred>{});
        case Format::q4_k: return body(std::integral_constant<Format, Format::q4_k>{});
        case Format::mxfp4: return body(std::integral_constant<Format, Format::mxfp4>{});
        case Format::nvfp4: return body(std::integral_constant<Format, Format::nvfp4>{});
        case Format::iq4_nl: return body(std::integral_constant<Format, Format::iq4_nl>{});
        case Format::iq4_xs: return body(std::integral_constant<Format, Format::iq4_xs>{});
        case Format::nf4: return body(std::integral_constant<Format, Format::nf4>{});
        case Format::iq2: return body(std::integral_constant<Format, Format::iq2>{});
        case Format::iq3_xxs: return body(std::integral_constant<Format, Format::iq3_xxs>{});
        case Format::iq3_s: return body(std::integral_constant<Format, Format::iq3_s>{});
        case Format::q3_k: return body(std::integral_constant<Format, Format::q3_k>{});
        case Format::q5: return body(std::integral_constant<Format, Format::q5>{});
        case Format::q5_k: return body(std::integral_constant<Format, Format::q5_k>{});
        case Format::q6: return body(std::integral_constant<Format, Format::q6>{});
        case Format::s8: return body(std::integral_constant<Format, Format::s8>{});
        case Format::q8: return body(std::integral_constant<Format, Format::q8>{});
        case Format::q12: return body(std::integral_constant<Format, Format::q12>{});
        case Format::f32: return body(std::integral_constant<Format, Format::f32>{});
    }
}

// body(count, row), the count as a constant: `Most` rows at a time, and then what is left.
template <int Most, class Body>
LLM_INLINE void for_rows_of(const GemmTile& t, Body body) {
    int row = t.row_begin;
    for (; row + Most <= t.row_end; row += Most) body(std::integral_constant<int, Most>{}, row);
    unrolled<Most - 1>(LLM_WITH(i) {
        if (t.row_end - row == i + 1) body(std::integral_constant<int, i + 1>{}, row);
    });
}

}  // namespace llm::LLM_NAMESPACE
