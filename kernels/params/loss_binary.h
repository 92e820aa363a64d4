// Parameter blocks of binary cross-entropy.
#ifndef SUMEXP_PARAMS_LOSS_BINARY_H
#define SUMEXP_PARAMS_LOSS_BINARY_H

#include "loss.h"

/// Elements that one thread of the binary cross-entropy kernels holds at a time; blocks walk through SUMEXP_LOSS_CHUNK elements.
#define SUMEXP_BINARY_UNIT 4

/// Binary cross-entropy of every element.
typedef struct {
  ElementRows rows;
  Operand logits;
  /// Probabilities that the event happens, of the logits' type.
  Operand targets;
  /// f32: what the loss of an element is multiplied by, and the part of it in which the event happens. Null: 1.
  Operand weight;
  Operand pos_weight;
  /// f32, contiguous, one per element; null if they are only added up.
  float *losses;
  /// LossPartial, one per chunk of elements; null if they stay apart.
  void *partials;
  /// Whether every unit lies in aligned contiguous memory (0 or 1 each).
  uint32_t logit_units;
  uint32_t target_units;
  uint32_t loss_units;
  uint32_t reserved;
} BinaryForwardParams;

/// Gradient of the logits.
typedef struct {
  ElementRows rows;
  Operand logits;
  Operand targets;
  Operand weight;
  Operand pos_weight;
  /// f32: gradient of the losses; of one common loss, with strides of 0.
  Operand upstream;
  /// Contiguous, of the logits' type.
  void *output;
  /// As in BinaryForwardParams.
  uint32_t logit_units;
  uint32_t target_units;
  uint32_t upstream_units;
  uint32_t output_units;
  /// f32, one number: what every upstream gradient is divided by; of 0, gradients are 0. Null: 1.
  const float *divisor;
  /// What every upstream gradient is multiplied by: 1 / elements for a mean over them, else 1.
  float scale;
  uint32_t reserved;
} BinaryBackwardParams;

#endif
