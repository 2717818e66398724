// Checkpoint blocks to packed panels. Exact are formats that have a kind's own bits, and q8 and s8 for Q5_0, Q8_0, IQ4_NL and
// nearly always MXFP4.
#pragma once
#include <cstdint>
#include <string>

#include "blocks.hpp"

namespace llm {

// "auto": the file's own bits for 8-bit activations, and q8 where there is no such format, or where it would be s8 and bytes do
// not pay. "careful": the same four bits, and else q8, since that has 16-bit activations.
Format format_for(Kind kind, const std::string& wanted, bool bytes_pay);

// What a packed format is called where it is stored, and back. Throws std::invalid_argument for an unknown name.
const char* format_name(Format format);
Format format_from_name(const std::string& name);

// Packs one panel; `sources` are its eight rows in the file, null for rows past the end.
void pack_panel(Kind kind, Format format, const uint8_t* const (&sources)[kPanel], int cols, uint8_t* panel);

}  // namespace llm
