// Parameter block of what puts rows of attention where tensor maps can describe them.
#ifndef SUMEXP_PARAMS_ATTENTION_PACK_H
#define SUMEXP_PARAMS_ATTENTION_PACK_H

#include "attention.h"

/// attention_pack_sm90a.
typedef struct {
  /// Rows of 16-bit elements, by batch entries and heads.
  AttentionMatrix from;
  /// Written: the same, contiguous, each row filled up with zeros to a multiple of 8 elements. A multiple of 16 bytes.
  void *to;
  /// Lengths of `from`, at least 1 each.
  uint32_t batch;
  uint32_t heads;
  uint32_t rows;
  uint32_t length;
} AttentionPackParams;

#endif
