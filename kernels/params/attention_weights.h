// Parameter block of the exact weights of attention.
#ifndef SUMEXP_PARAMS_ATTENTION_WEIGHTS_H
#define SUMEXP_PARAMS_ATTENTION_WEIGHTS_H

#include "attention.h"

/// Key tiles of a block.
enum { ATTENTION_WEIGHTS_TILES = 16 };

/// v is not read, and nothing is packed.
typedef struct {
  AttentionCall call;
  /// Written: [queries, keys] per batch entry and head.
  AttentionMatrix out;
  /// Natural logarithm of the sum of exp(score), for all queries of the call.
  const float *lse;
  uint64_t lse_batch;
  uint64_t lse_head;
  uint64_t lse_row;
  /// The queries whose weights are wanted: so many from this one on. At least 1.
  uint32_t first_query;
  uint32_t queries;
  /// Query tiles of a head, and blocks that share the keys of one of them.
  uint32_t query_tiles;
  uint32_t key_spans;
} AttentionWeightsParams;

#endif
