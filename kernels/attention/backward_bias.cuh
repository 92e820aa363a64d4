// Gradient of the bias of attention: dbias = dscore, summed over the dims along which the bias repeats.
//
// Nothing larger than the bias is in memory. A block owns a tile of the gradient, or all of it along the dims of length 1, and walks over
// everything that adds to it: batch entries, heads, and tiles of queries and of keys, always in this order. Every thread adds up its own
// places of the tile in registers; at the end those that stand for one number are added up in shared memory, in the order of
// positions. So bits do not depend on the schedule, and there are no atomics.
//
// Scores and weights are those of the kernel that owns queries, which comes before and leaves the share of every query. Tiles that nobody
// sees are not read.
#pragma once

#include "attention/backward.cuh"

/// Shared memory does not hold two pairs of column tiles beside the rows: the next one is loaded when the last one is used up.
template <class Type, int kHeadSize, int kWarpCount, int kColumnCount>
using BiasShape = BackwardShape<Type, kHeadSize, kWarpCount, 1, kColumnCount, 1>;

/// The queries of a block against the keys of a head.
template <class S>
class BiasTile : Backward<S, Part::kQueries, true> {
  using Base = Backward<S, Part::kQueries, true>;
  using typename Base::Seen;
  using typename Base::Sums;
  using typename Base::T;
  using Base::bands, Base::call, Base::first_row, Base::p, Base::sequence, Base::shared;

 public:
  using Total = Sums;
  using Base::Base;

  /// Adds the gradients of scores of the keys from `first` on, up to `end`, to `total`: those of a key tile that begins at a multiple of
  /// S::kColumns are added to those of the others. All threads of the block must call. Contains barriers.
  DEVICE void add(int32_t first, int32_t end, Sums& total) {
    const uint32_t key_head = sequence.head / (call.sizes.heads / call.sizes.key_heads);
    const Seen seen = this->columns_seen();
    AttentionRow own[2];
    bool loaded = false;
    for (int32_t column = max(seen.begin, first); column < min(seen.end, end); column += S::kColumns) {
      if (!this->tile_shown(column).some) continue;
      // Everybody is done with the tiles before.
      __syncthreads();
      const uint32_t k_tile = this->column_tile(0), v_tile = k_tile + S::ColumnTile::kSize;
      if (!loaded) {
        load_tile<T, typename S::RowTile, S::kRows, S::kThreads>(shared, this->queries(call.q, call.sizes.head_size), first_row, sequence.queries);
        load_tile<T, typename S::RowTile, S::kRows, S::kThreads>(this->values_of_rows(), this->queries(p.dout, call.sizes.value_size), first_row, sequence.queries);
        // Rows behind the last query have no weights.
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          const int32_t query = first_row + this->tile_row(row);
          own[row] = {INFINITY, 0.0f, 0.0f, 0};
          if (query < sequence.queries) own[row] = this->known_rows()[query];
        }
        loaded = true;
      }
      load_tile<T, typename S::ColumnTile, S::kColumns, S::kThreads>(k_tile, this->keys(call.k, key_head, call.sizes.head_size), column, sequence.key_end);
      load_tile<T, typename S::ColumnTile, S::kColumns, S::kThreads>(v_tile, this->keys(call.v, key_head, call.sizes.value_size), column, sequence.key_end);
      copies_commit();
      copies_wait<0>();
      __syncthreads();

      // Warps without rows only help to load.
      if (first_row + static_cast<int32_t>(threadIdx.x / 32 * S::kWarpQueries) >= sequence.queries) continue;
      Sums scores, dscores;
      multiply_keys<S>(scores, shared, k_tile);
      multiply_keys<S>(dscores, this->values_of_rows(), v_tile);
      const Pairs pairs(call, sequence);
      this->change_scores(scores, column, pairs);
      if (pairs.masked()) this->hide_by_pairs(scores, column, pairs);
      this->hide_by_bands(scores, column);
      float sums[2];
      this->template weigh<true>(scores, dscores, own, sums, 0);
#pragma unroll
      for (int j = 0; j < S::kColumns / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          // Products with rows that are not there are NaN where keys are infinite.
          if (first_row + this->tile_row(e / 2) < sequence.queries) total[0][j][e] = __fmaf_rn(dscores[0][j][e], own[e / 2].share, total[0][j][e]);
        }
      }
    }
  }

  /// Puts the thread's places of the tile into shared memory, by rows of S::kColumns numbers. All threads of the block must call.
  /// Contains barriers.
  static DEVICE void spread(const Sums& total, float* tile) {
    static_assert(4 * S::kRows * S::kColumns <= S::kShared);
    __syncthreads();
#pragma unroll
    for (int j = 0; j < S::kColumns / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) tile[Base::tile_row(e / 2) * S::kColumns + Base::tile_column(2 * j + e % 2)] = total[0][j][e];
    }
    __syncthreads();
  }
};

/// Tiles of a dim of the gradient; one for all if there is one number for all.
DEVICE uint32_t tiles_of(uint32_t length, uint32_t tile) { return length == 1 ? 1 : (length + tile - 1) / tile; }

DEVICE void store_bias(const AttentionBackwardParams& p, uint64_t at, float value) {
  void* to = const_cast<void*>(p.dbias.data);
  if (p.call.scores.bias_type == ATTENTION_F32) {
    static_cast<float*>(to)[at] = value;
  } else {
    const uint32_t word = p.call.scores.bias_type == ATTENTION_F16 ? F16::pack(value, value) : BF16::pack(value, value);
    static_cast<uint16_t*>(to)[at] = static_cast<uint16_t>(word);
  }
}

/// One tile of the gradient per block.
template <class S>
DEVICE void attention_backward_bias(const AttentionBackwardParams& p) {
  const AttentionCall& call = p.call;
  const AttentionPairs& dbias = p.dbias;
  const uint32_t row_tiles = tiles_of(dbias.queries, S::kRows), column_tiles = tiles_of(dbias.keys, S::kColumns);
  uint64_t item = (uint64_t{blockIdx.z} * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const uint32_t column_tile = item % column_tiles;
  item /= column_tiles;
  const uint32_t row_tile = item % row_tiles;
  item /= row_tiles;
  const uint32_t own_head = item % p.dbias_heads;
  item /= p.dbias_heads;
  if (item >= p.dbias_batch) return;
  const uint32_t own_batch = static_cast<uint32_t>(item);

  const auto range = [](int32_t own, uint32_t length, int32_t all) { return length == 1 ? Interval{0, all} : Interval{own, own + 1}; };
  const Interval batches = range(own_batch, p.dbias_batch, call.sizes.batch), heads = range(own_head, p.dbias_heads, call.sizes.heads);
  const int32_t first_row = row_tile * S::kRows, first_column = column_tile * S::kColumns;
  typename BiasTile<S>::Total total = {};
  for (int32_t batch = batches.first; batch < batches.end; ++batch) {
    Sequence sequence;
    if (call.query_offsets == nullptr) {
      sequence.be_whole(call, batch);
    } else {
      sequence.be_packed(call, batch);
    }
    const int32_t row_end = dbias.queries == 1 ? sequence.queries : min(first_row + S::kRows, sequence.queries);
    const int32_t column_end = dbias.keys == 1 ? sequence.keys : min(first_column + S::kColumns, sequence.keys);
    for (int32_t head = heads.first; head < heads.end; ++head) {
      sequence.head = head;
      for (int32_t row = first_row; row < row_end; row += S::kRows) {
        BiasTile<S>(p, sequence, head, row, shared_base()).add(first_column, column_end, total);
      }
    }
  }

  extern __shared__ __align__(128) unsigned char shared[];
  float* tile = reinterpret_cast<float*>(shared);
  BiasTile<S>::spread(total, tile);
  // Of a dim whose places stand for one number, the first one adds up the others.
  const uint32_t row_sum = dbias.queries == 1 ? S::kRows : 1, column_sum = dbias.keys == 1 ? S::kColumns : 1;
  for (uint32_t place = threadIdx.x; place < S::kRows / row_sum * (S::kColumns / column_sum); place += S::kThreads) {
    const uint32_t row = place / (S::kColumns / column_sum), column = place % (S::kColumns / column_sum);
    const uint32_t query = first_row + row, key = first_column + column;
    if (query >= dbias.queries || key >= dbias.keys) continue;
    float sum = 0.0f;
    for (uint32_t i = 0; i < row_sum; ++i) {
      for (uint32_t j = 0; j < column_sum; ++j) sum = __fadd_rn(sum, tile[(row + i) * S::kColumns + column + j]);
    }
    store_bias(p, own_batch * dbias.batch + own_head * dbias.head + query * dbias.query + key * dbias.key, sum);
  }
}

#define ATTENTION_BACKWARD_BIAS(name, T, head, warps, columns)                                                                 \
  extern "C" __global__ void __launch_bounds__(32 * warps, 1)                                                                  \
      attention_backward_bias_##name##_##head##_general(const __grid_constant__ AttentionBackwardParams p) {                  \
    attention_backward_bias<BiasShape<T, head, warps, columns>>(p);                                                           \
  }
