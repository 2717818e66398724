// Checkpoint blocks to packed panels. Q4_0, Q4_1, Q4_K, IQ4_NL, IQ4_XS, MXFP4 in four bits are exact, and Q5_0, Q8_0, IQ4_NL
// and nearly always MXFP4 in q8.
#pragma once
#include <cstdint>
#include <string>

#include "blocks.hpp"

namespace llm {

// "auto": the exact format where there is one, else q8.
Format format_for(Kind kind, const std::string& wanted);

// What a packed format is called where it is stored, and back. Throws std::invalid_argument for an unknown name.
const char* format_name(Format format);
Format format_from_name(const std::string& name);

// Packs one panel; `sources` are its eight rows in the file, null for rows past the end.
void pack_panel(Kind kind, Format format, const uint8_t* const (&sources)[kPanel], int cols, uint8_t* panel);

}  // namespace llm
