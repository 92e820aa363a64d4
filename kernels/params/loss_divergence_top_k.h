// Parameter blocks of a divergence over some of the classes.
#ifndef SUMEXP_PARAMS_LOSS_DIVERGENCE_TOP_K_H
#define SUMEXP_PARAMS_LOSS_DIVERGENCE_TOP_K_H

#include "common.h"

/// What the student says of the classes that were chosen.
typedef struct {
  Positions positions;
  Operand student;
  /// i64, contiguous [outer, k, inner]: classes, below `length`.
  const int64_t *indices;
  /// As the indices, of the logits' type.
  void *chosen;
  /// Elements of a row of the student, at least `k`.
  uint64_t length;
  /// Classes chosen per row, at least 1.
  uint64_t k;
  /// Positions that follow each other in memory between two chosen classes; 1 if the class dim is the last.
  uint64_t inner;
} DivergencePickParams;

/// Puts the gradients of the chosen classes where they belong.
typedef struct {
  /// i64, contiguous [outer, k, inner]: classes, below `length`.
  const int64_t *indices;
  /// As the indices, of the logits' type.
  const void *chosen;
  /// Contiguous [outer, length, inner], all zeros.
  void *output;
  /// Number of indices.
  uint64_t count;
  /// As in DivergencePickParams.
  uint64_t length;
  uint64_t k;
  uint64_t inner;
} DivergencePlaceParams;

#endif
