// Parameter blocks of the kernels: one struct per kernel family, passed by value, read by bindgen.
//
// Only <stdint.h>: the Rust side sees exactly these fields. Lengths, sizes and strides count elements, never bytes.
#ifndef SUMEXP_PARAMS_H
#define SUMEXP_PARAMS_H

#include <stdint.h>

/// Most dims that stay when one dim is reduced.
#define SUMEXP_POSITION_RANK 7

/// The rows of a reduction, one per position: row-major over the dims that stay, merged as far as all operands allow.
typedef struct {
  /// Number of positions, the product of `sizes`; at least 1.
  uint64_t count;
  /// Lengths of the dims, slowest first; at least 1. Entries from `rank` on are not read.
  uint64_t sizes[SUMEXP_POSITION_RANK];
  /// Number of dims, 1 to 7.
  uint32_t rank;
  uint32_t reserved;
} Positions;

/// An input. Element k of the row at a position lies at `position offset + k * stride`.
typedef struct {
  /// First element; null for an absent mask or upstream gradient.
  const void *data;
  /// Distance between neighbours along each dim of `Positions`; 0 repeats an element.
  uint64_t strides[SUMEXP_POSITION_RANK];
  /// Distance between neighbours of one row; 0 repeats an element.
  uint64_t stride;
} Operand;

/// The factor log2(e) / tau, cut so that neither a huge nor a subnormal tau overflows or loses digits:
/// `(x * pre - max * pre) * log2 * post` is (x - max) * log2(e) / tau, and `natural` in the place of `log2` gives (x - max) / tau.
typedef struct {
  /// A power of two, 2^-126 to 1: keeps x - max finite when tau is large.
  float pre;
  /// A power of two, 1 to 2^96: what does not fit in the other factors when tau is tiny.
  float post;
  /// log2(e) / (tau * pre * post), rounded, and what rounding lost.
  float log2_high;
  float log2_low;
  /// 1 / (tau * pre * post), rounded, and what rounding lost.
  float natural_high;
  float natural_low;
} Temperature;

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

/// Bad data that a kernel met, see common/record.cuh. All zero if none was.
typedef struct {
  /// Number of the operation that reported; 0 if none did.
  uint32_t op;
  /// Row of the value, counted over the flattened batch.
  uint64_t row;
  /// The value.
  int64_t value;
  /// What the value had to stay below.
  uint64_t limit;
} ErrorRecord;

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

/// What the gradient of a row needs beside its logits, as the forward kernel leaves it.
typedef struct {
  /// The largest logit.
  float max;
  /// The sum of exp((x - max) / tau) over all logits but one largest.
  float others;
} LossState;

/// Cross-entropy of every position.
typedef struct {
  Positions positions;
  Operand logits;
  Targets targets;
  /// f32, one per position.
  float *losses;
  /// f32, one per position: ln(sum(exp(x / tau))).
  float *lse;
  /// LossState, one per position.
  void *states;
  /// log2 of the elements that are loaded together, 0 to 3; the largest power of two that divides the number of classes.
  uint32_t unit_log2;
  /// Whether whole units of the logits are aligned and contiguous (0 or 1).
  uint32_t logit_units;
  Temperature temperature;
} CrossEntropyForwardParams;

/// Gradient of the logits from the saved states.
typedef struct {
  Positions positions;
  Operand logits;
  Targets targets;
  /// LossState, one per position.
  const void *states;
  /// f32: gradient of the losses. Of one common loss, with strides of 0; of one loss per position.
  Operand upstream;
  /// f32, one number: what every upstream gradient is multiplied by (1 / count for a mean, else 1).
  const float *weight;
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
  /// f32, one per position.
  const float *losses;
  /// LossPartial, one per chunk.
  void *partials;
} LossCollectParams;

/// What becomes of the losses of a batch.
enum {
  REDUCTION_NONE = 0,
  REDUCTION_SUM = 1,
  REDUCTION_MEAN = 2,
};

/// Second kernel of two: adds up the chunks in order.
typedef struct {
  /// LossPartial, one per chunk.
  const void *partials;
  /// Number of chunks; 0 if there are no rows.
  uint64_t chunks;
  /// Number of classes, for the report.
  uint64_t classes;
  /// f32, one number: the sum of the losses, or their mean. Null for REDUCTION_NONE.
  float *loss;
  /// i64, one number: how many losses count. Null if nobody asks.
  int64_t *count;
  /// f32, one number: what backward multiplies by. For a mean 1 / count, or 0 if nothing counts; else 1. Null if nobody asks.
  float *weight;
  /// Where the first bad target is reported.
  ErrorRecord *record;
  /// Number of the operation for the report.
  uint32_t op;
  /// One of REDUCTION_*.
  uint32_t reduction;
} LossFinishParams;

/// The elements of an operation on single elements: rows of the longest runs that have one stride in every operand.
typedef struct {
  Positions positions;
  /// Elements per row, at least 1.
  uint64_t length;
} ElementRows;

/// What the sigmoid kernels write.
enum {
  SIGMOID = 0,
  LOG_SIGMOID = 1,
  SIGMOID_GRADIENT = 2,
  LOG_SIGMOID_GRADIENT = 3,
};

/// sigmoid, log-sigmoid and their gradients.
typedef struct {
  ElementRows rows;
  /// The arguments x, also of the gradients.
  Operand input;
  /// Gradient of the result; `data` is null for SIGMOID and LOG_SIGMOID.
  Operand upstream;
  /// Contiguous, of the input's type.
  void *output;
  /// One of SIGMOID*.
  uint32_t kind;
  /// Whether every 16 bytes of the result lie in 16 aligned contiguous bytes of the operand (0 or 1 each).
  uint32_t input_units;
  uint32_t upstream_units;
  uint32_t output_units;
} SigmoidParams;

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
  /// What every upstream gradient is multiplied by: 1 / elements for a mean, else 1.
  float scale;
  uint32_t reserved;
} BinaryBackwardParams;

#endif
