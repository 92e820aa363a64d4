// Parameter blocks of the divergence of two rows of logits.
#ifndef SUMEXP_PARAMS_LOSS_DIVERGENCE_H
#define SUMEXP_PARAMS_LOSS_DIVERGENCE_H

#include "common.h"

/// Which divergence. The gradient is that by the student.
enum {
  /// Forward: KL(first || second). Backward: of KL(teacher || student).
  DIVERGENCE_FORWARD = 0,
  /// Backward only, of KL(student || teacher); forward swaps the operands.
  DIVERGENCE_REVERSE = 1,
  /// beta KL(first || m) + (1 - beta) KL(second || m) with m = beta first + (1 - beta) second; the first is the teacher.
  DIVERGENCE_JENSEN_SHANNON = 2,
};

/// Divergence of every position.
typedef struct {
  Positions positions;
  Operand first;
  Operand second;
  /// f32, one per position.
  float *losses;
  /// What every divergence is multiplied by: 1, or tau^2.
  double factor;
  /// Elements of a row, at least 1.
  uint64_t length;
  /// log2 of the elements that are loaded together, 0 to 3; the largest power of two that divides the length of a row.
  uint32_t unit_log2;
  /// Whether whole units of the operands are aligned and contiguous (0 or 1).
  uint32_t first_units;
  uint32_t second_units;
  /// One of DIVERGENCE_*, but not DIVERGENCE_REVERSE.
  uint32_t kind;
  Temperature temperature;
  /// Of DIVERGENCE_JENSEN_SHANNON: between 0 and 1, both excluded; and 1 - beta.
  float beta;
  float one_minus_beta;
} DivergenceForwardParams;

/// Gradient of the student's logits, from the logits again.
typedef struct {
  Positions positions;
  Operand student;
  Operand teacher;
  /// f32: gradient of the losses. Of one common loss, with strides of 0; of one loss per position.
  Operand upstream;
  /// f32, one number: what every upstream gradient is divided by; of 0, gradients are 0. Null: 1.
  const float *divisor;
  /// Contiguous [outer, length, inner] of the logits' type.
  void *output;
  /// Positions that follow each other in memory between two elements of a row of the output; 1 if rows are contiguous.
  uint64_t inner;
  /// As in DivergenceForwardParams.
  uint64_t length;
  uint32_t unit_log2;
  uint32_t student_units;
  uint32_t teacher_units;
  /// Whether whole units of the output are aligned and contiguous (0 or 1).
  uint32_t output_units;
  /// One of DIVERGENCE_*.
  uint32_t kind;
  /// As in DivergenceForwardParams.
  float beta;
  float one_minus_beta;
  Temperature temperature;
  /// What the gradient by the scaled logits is multiplied by (1 / tau, tau or 1 / (rows * tau) and the like), as a product of two
  /// factors, so that a subnormal tau does not overflow.
  float scale;
  float scale_rest;
} DivergenceBackwardParams;

#endif
