// Where the queries and keys of a sequence lie: those of a batch entry, or of one of many packed sequences.
#pragma once

#include "attention/copy.cuh"
#include "params/attention.h"

/// Positions from `first` to `end`, without `end`; none if it is not above `first`.
struct Interval {
  int32_t first, end;
};

/// Within what fits, `value`.
DEVICE int32_t clamped(int64_t value, int32_t low, int32_t high) {
  return static_cast<int32_t>(value < low ? low : value > high ? high : value);
}

/// What one work item works on: a head of a batch entry, or of a packed sequence.
struct Sequence {
  uint32_t batch, head;
  /// Queries and keys of the sequence, and where they start in packed data, else 0.
  int32_t queries, keys;
  uint32_t first_query, first_key;
  /// Keys from this one on are hidden for all queries; at most `keys`.
  int32_t key_end;

  /// Becomes batch entry `number`.
  DEVICE void be_whole(const AttentionCall& call, uint32_t number) {
    batch = number;
    queries = call.sizes.queries;
    keys = call.sizes.keys;
    first_query = first_key = 0;
    hide_keys(call);
  }

  /// Becomes packed sequence `number`. Offsets out of order or out of bounds are cut off.
  DEVICE void be_packed(const AttentionCall& call, uint32_t number) {
    batch = number;
    const Interval of_queries = part(call.query_offsets, batch, call.sizes.queries);
    const Interval of_keys = part(call.key_offsets, batch, call.sizes.keys);
    queries = of_queries.end - of_queries.first;
    keys = of_keys.end - of_keys.first;
    first_query = of_queries.first;
    first_key = of_keys.first;
    hide_keys(call);
  }

  /// Becomes the packed sequence that tile number `tile` of all belongs to, and `tile` the number inside of it. False if there are
  /// fewer tiles. Tiles are `tile_rows` rows of what `offsets` cut up, of which there are `rows`: the queries or the keys of the call. All 32 lanes must call; all get the same.
  DEVICE bool find(const AttentionCall& call, const int32_t* offsets, uint32_t rows, int32_t tile_rows, uint32_t& tile) {
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t first = 0; first < call.sizes.batch; first += 32) {
      const uint32_t number = min(first + lane, call.sizes.batch - 1);
      const Interval own = part(offsets, number, rows);
      const uint32_t tiles = first + lane < call.sizes.batch ? (own.end - own.first + tile_rows - 1) / tile_rows : 0;
      uint32_t up_to_here = tiles;
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const uint32_t before = __shfl_up_sync(0xffffffffu, up_to_here, distance);
        if (lane >= distance) up_to_here += before;
      }
      const uint32_t holders = __ballot_sync(0xffffffffu, tile < up_to_here);
      if (holders != 0) {
        const int holder = __ffs(holders) - 1;
        tile -= __shfl_sync(0xffffffffu, up_to_here - tiles, holder);
        be_packed(call, first + holder);
        return true;
      }
      tile -= __shfl_sync(0xffffffffu, up_to_here, 31);
    }
    return false;
  }

 private:
  /// What `offsets` say of a sequence, within `rows` rows.
  static DEVICE Interval part(const int32_t* offsets, uint32_t number, uint32_t rows) {
    const int32_t first = clamped(__ldg(offsets + number), 0, rows);
    return {first, clamped(__ldg(offsets + number + 1), first, rows)};
  }
  DEVICE void hide_keys(const AttentionCall& call) {
    const int32_t* lengths = call.mask.key_lengths;
    key_end = lengths == nullptr ? keys : clamped(__ldg(lengths + batch * call.mask.key_lengths_stride), 0, keys);
  }
};

/// The rows of a head, of `length` elements each. `first_row` is where the sequence starts.
template <class T>
DEVICE Rows rows_of(const AttentionMatrix& matrix, const Sequence& sequence, uint32_t head, uint32_t first_row, uint32_t length) {
  const uint64_t offset = sequence.batch * matrix.batch + head * matrix.head + first_row * matrix.row;
  return {static_cast<const char*>(matrix.data) + offset * T::kBytes, matrix.row * T::kBytes, length * T::kBytes, matrix.vectors != 0};
}
