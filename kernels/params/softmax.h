// Parameter blocks of the softmax family.
#ifndef SUMEXP_PARAMS_SOFTMAX_H
#define SUMEXP_PARAMS_SOFTMAX_H

#include "common.h"

/// What the forward kernels write. `SOFTMAX_LSE_GRADIENT` is the gradient of logsumexp: softmax times the upstream gradient / tau.
enum {
  SOFTMAX_PROBABILITIES = 0,
  SOFTMAX_LOG_PROBABILITIES = 1,
  SOFTMAX_LSE = 2,
  SOFTMAX_LSE_GRADIENT = 3,
};

/// Forward kernels of the softmax family.
typedef struct {
  Positions positions;
  /// Logits.
  Operand input;
  /// Bytes that keep or hide entries; `data` is null without a mask.
  Operand mask;
  /// f32, one per position: gradient of the lse. Read only for SOFTMAX_LSE_GRADIENT.
  Operand upstream;
  /// Contiguous [outer, length, inner] of the input's type; for SOFTMAX_LSE f32, one per position.
  void *output;
  /// Split rows only: one state per position and slice, 16 bytes each, written by the first kernel and read by the second.
  void *states;
  /// Elements per row; 0 only for SOFTMAX_LSE.
  uint64_t length;
  /// Positions that follow each other in memory between two elements of a row of the output; 1 if the reduced dim is the last.
  uint64_t inner;
  /// Split rows only: chunks of a slice, at least 1, and slices of a row, 1 to 512.
  uint64_t chunks_per_slice;
  uint32_t slices;
  /// One of SOFTMAX_*.
  uint32_t kind;
  /// Row kernels: log2 of the elements that are loaded and stored together, 0 to 3; the largest power of two that divides `length`.
  uint32_t unit_log2;
  /// Whether whole units of the input, the mask and the output are aligned and contiguous (0 or 1 each).
  uint32_t input_units;
  uint32_t mask_units;
  uint32_t output_units;
  /// Xored onto every 32 bits of input: the sign bits for softmin, else 0.
  uint32_t sign_flip;
  /// A mask byte hides its entry if `(byte != 0) == mask_hides`.
  uint32_t mask_hides;
  Temperature temperature;
  /// 1 / tau (negated for softmin) as a product of two factors. Read only for SOFTMAX_LSE_GRADIENT.
  float upstream_scale;
  float upstream_scale_rest;
} SoftmaxForwardParams;

/// Backward kernels of softmax (and softmin) and log-softmax.
typedef struct {
  Positions positions;
  /// Result of the forward operation: probabilities or log-probabilities.
  Operand result;
  /// Gradient of the result.
  Operand upstream;
  /// Contiguous [outer, length, inner]: gradient of the logits.
  void *output;
  /// Split rows only: one partial sum per position and slice, a double, in f32 16 bytes.
  void *sums;
  /// Elements per row, at least 1.
  uint64_t length;
  /// As in SoftmaxForwardParams.
  uint64_t inner;
  /// Split rows only: as in SoftmaxForwardParams.
  uint64_t chunks_per_slice;
  uint32_t slices;
  /// SOFTMAX_PROBABILITIES or SOFTMAX_LOG_PROBABILITIES.
  uint32_t kind;
  /// As in SoftmaxForwardParams.
  uint32_t unit_log2;
  uint32_t result_units;
  uint32_t upstream_units;
  uint32_t output_units;
  /// 1 / tau (negated for softmin) as a product of two factors, so that a subnormal tau does not overflow.
  float scale;
  float scale_rest;
} SoftmaxBackwardParams;

#endif
