// Parameter blocks of the loss of log-probabilities.
#ifndef SUMEXP_PARAMS_LOSS_NLL_H
#define SUMEXP_PARAMS_LOSS_NLL_H

#include "loss.h"

/// Loss of every position.
typedef struct {
  Positions positions;
  Operand log_probabilities;
  Targets targets;
  /// f32: what the loss of a row is multiplied by, one number per class. Null: 1.
  const float *class_weights;
  /// Distance between two of them.
  uint64_t class_weight_stride;
  /// f32, one per position.
  float *losses;
} NllForwardParams;

/// Zeros in all of the gradient.
typedef struct {
  /// Aligned to 2 bytes.
  void *output;
  /// An even number.
  uint64_t bytes;
} NllZerosParams;

/// The gradient at the target of every position.
typedef struct {
  Positions positions;
  Targets targets;
  const float *class_weights;
  uint64_t class_weight_stride;
  /// f32: gradient of the losses. Of one common loss, with strides of 0; of one loss per position.
  Operand upstream;
  /// f32, one number: what every upstream gradient is multiplied by. Null: 1.
  const float *weight;
  /// Contiguous [outer, classes, inner] of the log-probabilities' type, all zeros.
  void *output;
  /// Positions that follow each other in memory between two classes of the output; 1 if the class dim is the last.
  uint64_t inner;
} NllBackwardParams;

#endif
