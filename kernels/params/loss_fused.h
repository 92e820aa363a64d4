// Parameter block of cross-entropy and its gradient in one kernel.
#ifndef SUMEXP_PARAMS_LOSS_FUSED_H
#define SUMEXP_PARAMS_LOSS_FUSED_H

#include "loss.h"

/// Cross-entropy of every position and the gradient of its logits, classes along the last dim.
typedef struct {
  /// The logits may be the output: then their rows lie as those of the output do.
  CrossEntropyForwardParams forward;
  /// f32: gradient of the losses. Of one common loss, with strides of 0; of one loss per position. `data` is null for 1.
  Operand upstream;
  /// f32, one number: what every upstream gradient is multiplied by (1 / count for a mean). Null for 1.
  const float *weight;
  /// Contiguous rows of the logits' type.
  void *output;
  /// Pieces of a row that stay in shared memory, 64 KiB each; the last piece stays in registers, and what lies between is read
  /// twice.
  uint32_t stashed;
  /// Whether whole units of the output are aligned (0 or 1).
  uint32_t output_units;
  /// 1 / tau as a product of two factors, so that a subnormal tau does not overflow.
  float scale;
  float scale_rest;
} CrossEntropyFusedParams;

#endif
