// Parameter blocks of merging attentions over different keys.
#ifndef SUMEXP_PARAMS_ATTENTION_PARTIAL_H
#define SUMEXP_PARAMS_ATTENTION_PARTIAL_H

#include "common.h"

/// Two attentions of the same queries, one query per position.
typedef struct {
  Positions positions;
  /// Rows of `size` elements each, and the one f32 that belongs to each row (whose `stride` is not used).
  Operand a_out;
  Operand a_lse;
  Operand b_out;
  Operand b_lse;
  /// Elements per row.
  uint64_t size;
} AttentionParts;

/// The attention over the keys of both.
typedef struct {
  AttentionParts parts;
  /// Written: contiguous rows, and one f32 per row, or null if nobody wants it.
  void *out;
  float *lse;
} AttentionPartialParams;

/// The gradients of both for those of the merged one.
typedef struct {
  AttentionParts parts;
  /// Of the merged rows, and of their lse, whose data is null if it has none.
  Operand dout;
  Operand dlse;
  /// Written, as above.
  void *a_dout;
  float *a_dlse;
  void *b_dout;
  float *b_dlse;
} AttentionPartialBackwardParams;

#endif
