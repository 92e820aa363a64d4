// What parameter blocks of all kernels are made of.
#ifndef SUMEXP_PARAMS_COMMON_H
#define SUMEXP_PARAMS_COMMON_H

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

/// The elements of an operation on single elements: rows of the longest runs that have one stride in every operand.
typedef struct {
  Positions positions;
  /// Elements per row, at least 1.
  uint64_t length;
} ElementRows;

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

#endif
