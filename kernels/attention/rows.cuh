// What the forward kernels have in common: which queries a block has, where their scores lie, what bands hide of them, and how
// results are stored.
#pragma once

#include "attention/mask.cuh"
#include "attention/softmax.cuh"
#include "attention/store.cuh"

/// A block's work: one query tile.
struct Work {
  Sequence sequence;
  int32_t first_query;
  /// The keys of its split.
  Interval keys;
};

/// The work item of the calling block, and the number of its split. Cheap enough to be asked for twice.
DEVICE uint64_t own_item() { return (uint64_t{blockIdx.z} * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x; }
DEVICE uint32_t own_split(const AttentionForwardParams& p) { return p.splits == 1 ? 0 : static_cast<uint32_t>(own_item() % p.splits); }

/// Work items: the query tiles of every head, those of a head side by side, so that they share keys in the cache.
DEVICE uint64_t work_items(const AttentionForwardParams& p) {
  const uint64_t heads = p.call.query_offsets == nullptr ? uint64_t{p.call.sizes.batch} * p.call.sizes.heads : p.call.sizes.heads;
  return heads * p.query_tiles * p.splits;
}

/// Sets the work item of the block; false if there is nothing to do. Later tiles of a head come first: where later queries see more
/// keys, the long work starts early. All 32 lanes of a warp must call; all threads of the block get the same.
DEVICE bool find_work(const AttentionForwardParams& p, int32_t tile_queries, Work& work) {
  uint64_t item = own_item();
  if (item >= work_items(p)) return false;
  const AttentionCall& call = p.call;
  Sequence& sequence = work.sequence;
  work.keys = {0, static_cast<int32_t>(call.sizes.keys)};
  if (p.splits > 1) {
    item /= p.splits;
    work.keys.first = p.split_from + own_split(p) * ATTENTION_SPLIT_KEYS;
    work.keys.end = work.keys.first + ATTENTION_SPLIT_KEYS;
  }
  const uint64_t of_head = item / p.query_tiles;
  uint32_t tile = p.query_tiles - 1 - static_cast<uint32_t>(item % p.query_tiles);
  sequence.head = static_cast<uint32_t>(of_head % call.sizes.heads);
  if (call.query_offsets == nullptr) {
    sequence.be_whole(call, static_cast<uint32_t>(of_head / call.sizes.heads));
  } else if (!sequence.find(call, call.query_offsets, call.sizes.queries, tile_queries, tile)) {
    return false;
  }
  work.first_query = tile * tile_queries;
  return true;
}

/// Row of the query tile that the lane's row `row` is, as RunningSoftmax counts them.
template <class S>
DEVICE int32_t tile_row(int row) {
  return threadIdx.x / 32 * S::kWarpQueries + row / 2 * 16 + row % 2 * 8 + threadIdx.x % 32 / 4;
}

/// Column of the tile that the lane's column `column` is, of a quarter of them.
DEVICE int32_t lane_column(int column) { return column / 2 * 8 + column % 2 + threadIdx.x % 4 * 2; }

/// Hides the scores of the tile at `key` that no band shows: they become -inf.
template <class S>
DEVICE void hide_by_bands(float (&scores)[S::kRowTiles][S::kKeys / 8][4], const Bands& bands, int32_t first_query, int32_t key) {
#pragma unroll
  for (int row = 0; row < 2 * S::kRowTiles; ++row) {
    const Interval visible = bands.of(first_query + tile_row<S>(row));
    // Relative to the lane's first column, so that every other one is a constant.
    const int32_t first = visible.first - key - lane_column(0), last = visible.end - key - lane_column(0);
#pragma unroll
    for (int column = 0; column < S::kKeys / 4; ++column) {
      const int32_t at = column / 2 * 8 + column % 2;
      float& score = scores[row / 2][column / 2][row % 2 * 2 + column % 2];
      score = at >= first && at < last ? score : -INFINITY;
    }
  }
}

/// Divides by the sums and stores. The query tile becomes the buffer in which rows are put together: each warp reads and writes
/// its own rows of it only, so no barrier is needed but the warp's own.
template <class S>
DEVICE void finish(const AttentionForwardParams& p, const Sequence& sequence, int32_t first_query, uint32_t q_tile,
                   const float (&output)[S::kRowTiles][S::kHead / 8][4], const RunningSoftmax<S>& softmax) {
  using T = typename S::T;
  // Of 16-bit elements a lane writes the words that ldmatrix gave it; of f32 those of other lanes.
  if (T::kBytes == 4) __syncwarp();
  const uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (int row = 0; row < 2 * S::kRowTiles; ++row) {
    const float sum = quad_sum(softmax.sum[row]);
    const bool empty = softmax.max[row] == -INFINITY && sum == 0.0f;
    const float inverse = empty ? 0.0f : quotient(1.0f, sum);
    const int32_t query = first_query + tile_row<S>(row);
    if (lane % 4 == 0 && query < sequence.queries && p.lse != nullptr) {
      // The sum of a row that is not empty holds the weight of its maximum, 1.
      const float lse = empty ? -INFINITY : __fmaf_rn(softmax.max[row], p.call.scores.natural_factor, log1p_accurate(sum - 1.0f));
      p.lse[sequence.batch * p.lse_batch + sequence.head * p.lse_head + (uint64_t{sequence.first_query} + query) * p.lse_row] = lse;
    }
    const int t = row / 2, e = row % 2 * 2;
#pragma unroll
    for (int j = 0; j < S::kHead / 8; ++j) {
      const float low = __fmul_rn(output[t][j][e], inverse), high = __fmul_rn(output[t][j][e + 1], inverse);
      store_pair<T, typename S::QueryTile>(q_tile, tile_row<S>(row), j, low, high);
    }
  }
  __syncwarp();
  const Rows out = rows_of<T>(p.out, sequence, sequence.head, sequence.first_query, p.call.sizes.value_size);
  store_rows<T, typename S::QueryTile, S::kWarpQueries>(q_tile, out, first_query, sequence.queries);
}
