// Parameter blocks of what is read off logits without a gradient.
#ifndef SUMEXP_PARAMS_INFERENCE_H
#define SUMEXP_PARAMS_INFERENCE_H

#include "common.h"

/// The index of the largest element of every row.
typedef struct {
  Positions positions;
  Operand input;
  /// i64, one per position.
  int64_t *indices;
  /// Elements per row, at least 1.
  uint64_t length;
  /// Row kernels: log2 of the elements that are loaded together, 0 to 3; the largest power of two that divides `length`.
  uint32_t unit_log2;
  /// Row kernels: whether whole units of the input are aligned and contiguous (0 or 1).
  uint32_t input_units;
} ArgmaxParams;

/// How sure the softmax of every row is.
typedef struct {
  Positions positions;
  Operand input;
  /// f32, one per position each: the largest probability, what it is ahead of the second, and the entropy in nats.
  float *confidence;
  float *margin;
  float *entropy;
  /// Elements per row, at least 1.
  uint64_t length;
  /// As in ArgmaxParams.
  uint32_t unit_log2;
  uint32_t input_units;
  Temperature temperature;
} ConfidenceParams;

/// Most elements that are asked of a row.
#define SUMEXP_TOP_K_MOST 1024

/// The largest elements of every row, in order.
typedef struct {
  Positions positions;
  Operand input;
  /// Contiguous [outer, k, inner] of the input's type.
  void *values;
  /// i64, contiguous [outer, k, inner].
  int64_t *indices;
  /// Elements per row, at least `k` and less than 2^32.
  uint64_t length;
  /// Positions that follow each other in memory between two results of a row; 1 if the dim is the last.
  uint64_t inner;
  /// Results per row, 1 to SUMEXP_TOP_K_MOST.
  uint32_t k;
  /// Bytes that hold any index of the row, 1 to 4.
  uint32_t index_bytes;
  /// As in ArgmaxParams.
  uint32_t unit_log2;
  uint32_t input_units;
} TopKParams;

#endif
