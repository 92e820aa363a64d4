// Parameter blocks of what is drawn at random from logits.
#ifndef SUMEXP_PARAMS_INFERENCE_SAMPLE_H
#define SUMEXP_PARAMS_INFERENCE_SAMPLE_H

#include "common.h"

/// Where the random bits of a call come from. At most one of `call` and `seeds` has data.
typedef struct {
  /// u64: the seed and, `stride` further, the offset, in the place of those below. No strides along positions.
  Operand call;
  /// u64: one seed per position, in the place of the one below; the rows' numbers then do not count.
  Operand seeds;
  /// Any.
  uint64_t seed;
  /// Any.
  uint64_t offset;
} RandomSource;

/// One index per row, drawn with the probabilities of a softmax from which unlikely entries may have been cut.
typedef struct {
  Positions positions;
  Operand input;
  RandomSource random;
  Temperature tau;
  /// i64: what was drawn, one per position, as are the three below.
  int64_t *ids;
  /// Natural logarithms of the probabilities of what was drawn, after the cuts; null if nobody asks.
  float *log_probabilities;
  /// The part of the whole softmax that the cuts left, 0 to 1; null if nobody asks.
  float *kept_masses;
  /// 1 if something was drawn, else 0.
  uint8_t *valid;
  /// tau * ln(min_p), at most 0: an entry stays if x - max is not below it. -inf for no cut.
  double min_p_margin;
  /// top_p * 2^64, rounded down; 0 for no cut.
  uint64_t top_p_share;
  /// Entries that stay, and their equals; 0 for no cut, else 1 to `length`.
  uint32_t top_k;
  /// Elements per row, 1 to 2^31.
  uint32_t length;
  /// Units of mass that the largest entry weighs, 2^30 to 2^61: a power of two, so that `length` times as many are less than 2^62.
  float one;
  /// log2 of `one`.
  uint32_t one_log2;
  /// The temperature once more, as a guess of how far apart logits lie: it decides how fast cuts are found, never where.
  float spread;
  /// log2 of the elements that are loaded together, 0 to 3; the largest power of two that divides `length`.
  uint32_t unit_log2;
  /// Whether whole units of the input are aligned and contiguous (0 or 1).
  uint32_t input_units;
  uint32_t reserved;
} SampleParams;

#endif
