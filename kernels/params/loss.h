// Parameter blocks of the losses.
#ifndef SUMEXP_PARAMS_LOSS_H
#define SUMEXP_PARAMS_LOSS_H

#include "common.h"

/// Types of class targets.
enum {
  TARGETS_I64 = 0,
  TARGETS_I32 = 1,
  TARGETS_U32 = 2,
};

/// Class targets, one per position.
typedef struct {
  /// The targets; `stride` is not read.
  Operand operand;
  /// Number of classes, at least 1.
  uint64_t classes;
  /// Positions with this target do not count. Read only if `has_ignore_index`.
  int64_t ignore_index;
  uint32_t has_ignore_index;
  /// One of TARGETS_*.
  uint32_t type;
} Targets;

/// What the loss of a row is made of beside its logits.
typedef struct {
  /// f32: what the loss of a row is multiplied by, one number per class. Null: 1.
  const float *class_weights;
  /// Distance between two of them.
  uint64_t class_weight_stride;
  /// What the square of lse is multiplied by and added to the loss; 0 or above, finite.
  float z_loss;
  uint32_t reserved;
  Temperature temperature;
} LossTerms;

/// Numbers per position that the forward kernels leave for the gradient, each in a plane of its own: the planes of all positions
/// follow each other, and behind them lies the one number that LossFinishParams calls `weight`.
///
/// max: the largest logit. others: the sum of exp((x - max) / tau) over all logits but one largest.
/// on_target: what the logarithm of the target's probability is multiplied by in the loss.
/// spread: what the other terms of the loss add to the slope along lse.
#define SUMEXP_LOSS_STATE 4

/// Cross-entropy of every position.
typedef struct {
  Positions positions;
  Operand logits;
  Targets targets;
  LossTerms terms;
  /// f32, one per position.
  float *losses;
  /// f32, one per position: ln(sum(exp(x / tau))).
  float *lse;
  /// f32, SUMEXP_LOSS_STATE planes of one per position.
  float *states;
  /// log2 of the elements that are loaded together, 0 to 3; the largest power of two that divides the number of classes.
  uint32_t unit_log2;
  /// Whether whole units of the logits are aligned and contiguous (0 or 1).
  uint32_t logit_units;
} CrossEntropyForwardParams;

/// Gradient of the logits from the saved states.
typedef struct {
  Positions positions;
  Operand logits;
  Targets targets;
  /// f32, SUMEXP_LOSS_STATE planes of one per position, and one number: what every upstream gradient is multiplied by (1 / count
  /// for a mean, else 1).
  const float *states;
  /// f32: gradient of the losses. Of one common loss, with strides of 0; of one loss per position. `data` is null for 1.
  Operand upstream;
  /// Contiguous [outer, classes, inner] of the logits' type.
  void *output;
  /// Positions that follow each other in memory between two classes of the output; 1 if the class dim is the last.
  uint64_t inner;
  /// Pieces that a row is cut into, at least 1.
  uint64_t pieces;
  /// As in CrossEntropyForwardParams.
  uint32_t unit_log2;
  uint32_t logit_units;
  /// Whether whole units of the output are aligned (0 or 1).
  uint32_t output_units;
  uint32_t reserved;
  Temperature temperature;
  /// 1 / tau as a product of two factors, so that a subnormal tau does not overflow.
  float scale;
  float scale_rest;
} CrossEntropyBackwardParams;

/// Classes that one thread of the column kernel walks through.
#define SUMEXP_LOSS_COLUMN_PIECE 16

/// Positions that one block of the collecting kernel adds up.
#define SUMEXP_LOSS_CHUNK 4096

/// Threads of a block of the kernels that add losses up.
#define SUMEXP_LOSS_THREADS 256

/// What one block of the collecting kernel found.
typedef struct {
  /// Sum of the losses, +inf or NaN included: every sum of so many f32 is within 2^-40 of the exact one.
  double sum;
  /// What a mean divides by: how many losses count, or the sum of their class weights.
  double weight;
  /// Targets that are not ignored.
  uint64_t count;
  /// The first position with a bad target, or 2^64 - 1.
  uint64_t bad_position;
  /// Its target.
  int64_t bad_value;
} LossPartial;

/// First kernel of two: adds up chunks of positions.
typedef struct {
  Positions positions;
  Targets targets;
  /// f32, one per position. Null if only the targets are counted.
  const float *losses;
  /// f32: what a mean counts a loss as, one number per class. Null: 1.
  const float *class_weights;
  /// Distance between two of them.
  uint64_t class_weight_stride;
  /// LossPartial, one per chunk.
  void *partials;
} LossCollectParams;

/// What becomes of the losses of a batch.
enum {
  REDUCTION_NONE = 0,
  REDUCTION_SUM = 1,
  REDUCTION_MEAN = 2,
  REDUCTION_MEAN_OVER = 3,
};

/// Second kernel of two: adds up the chunks in order.
typedef struct {
  /// LossPartial, one per chunk.
  const void *partials;
  /// Number of chunks; 0 if there are no rows.
  uint64_t chunks;
  /// Number of classes, for the report.
  uint64_t classes;
  /// f32, one number: what the sum is divided by. Null unless REDUCTION_MEAN_OVER.
  const float *divisor;
  /// f32, one number: the sum of the losses, or their mean. Null for REDUCTION_NONE, or if nobody asks.
  float *loss;
  /// i64, one number: how many losses count. Null if nobody asks.
  int64_t *count;
  /// f32, one number: what backward multiplies by. For a mean 1 / divisor, or 0 if that is 0; else 1. Null if nobody asks.
  float *weight;
  /// Where the first bad target is reported.
  ErrorRecord *record;
  /// Number of the operation for the report.
  uint32_t op;
  /// One of REDUCTION_*.
  uint32_t reduction;
} LossFinishParams;

#endif
