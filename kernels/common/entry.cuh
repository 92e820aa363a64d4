// Entry points. One list of element types; the grid folded into x.
#pragma once

#include "common/dtype.cuh"

/// Expands M(name, type, ...) for every element type.
#define FOR_EACH_DTYPE(M, ...)    \
  M(f32, F32, __VA_ARGS__)        \
  M(f16, F16, __VA_ARGS__)        \
  M(bf16, BF16, __VA_ARGS__)
