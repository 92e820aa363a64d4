// From a position to an offset in memory. 64-bit from the first multiplication on.
#pragma once

#include "common/dtype.cuh"
#include "params/common.h"

/// Offset of a position's first element in an operand with these strides, in elements.
DEVICE uint64_t position_offset(const Positions& positions, const uint64_t (&strides)[SUMEXP_POSITION_RANK], uint64_t position) {
  uint64_t offset = 0;
#pragma unroll 1
  for (uint32_t dim = positions.rank - 1; dim > 0; --dim) {
    const uint64_t size = positions.sizes[dim];
    uint64_t quotient;
    // A 64-bit division costs about four times a 32-bit one, and few tensors need it.
    if ((position | size) >> 32 == 0) {
      quotient = static_cast<uint32_t>(position) / static_cast<uint32_t>(size);
    } else {
      quotient = position / size;
    }
    offset += (position - quotient * size) * strides[dim];
    position = quotient;
  }
  return offset + position * strides[0];
}
