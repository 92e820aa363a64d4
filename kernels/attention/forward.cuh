// out = softmax(score(q k^T)) v, and lse = ln(sum(exp(score))), without a matrix of scores in memory.
//
// A block takes a tile of queries of one head and walks over the tiles of keys that any of them sees; a warp has 16 or 32 of
// the queries and all keys of a tile. Key and value tiles arrive by cp.async in two pairs of buffers, so that one pair is filled
// while the other is multiplied. Each is read once per query tile; tiles that no query sees are not read.
//
// Key tiles start at multiples of kKeys from the first key of the sequence, so that the sums of a query do not depend on which
// queries share its tile. Tiles that all queries see whole run without a look at the mask.
//
// Queries are numbered by their position in the sequence; rows of a tile behind the last query are 0 and nobody stores them.
#pragma once

#include "attention/rows.cuh"

template <class S, bool kGeneral>
class Forward {
  using T = typename S::T;
  using Scores = float[S::kRowTiles][S::kKeys / 8][4];
  using Output = float[S::kRowTiles][S::kHead / 8][4];

 public:
  DEVICE Forward(const AttentionForwardParams& p, const Work& work, uint32_t shared)
      : p(p), call(p.call), work(work), sequence(work.sequence), first_query(work.first_query), q_tile(shared), bands(p.call.mask, work.sequence) {}

  /// All threads of the block must call. Contains a barrier per key tile, and one in front of what it writes to shared memory.
  DEVICE void run() {
    const uint32_t key_head = sequence.head / (call.sizes.heads / call.sizes.key_heads);
    const Rows q = rows_of<T>(call.q, sequence, sequence.head, sequence.first_query, call.sizes.head_size);
    const Rows k = rows_of<T>(call.k, sequence, key_head, sequence.first_key, call.sizes.head_size);
    const Rows v = rows_of<T>(call.v, sequence, key_head, sequence.first_key, call.sizes.value_size);

    // The first query sees the first of all keys, the last one the last.
    const int32_t last_query = min(first_query + S::kQueries, sequence.queries) - 1;
    const Interval early = bands.of(first_query), late = bands.of(last_query);
    const int32_t begin = max(early.first / S::kKeys * S::kKeys, work.keys.first);
    const int32_t end = early.first < late.end ? min(late.end, work.keys.end) : 0;
    // Warps without queries only help to load.
    const bool idle = first_query + tile_row(0) - static_cast<int32_t>(threadIdx.x % 32 / 4) >= sequence.queries;

    const auto load_keys = [&](int32_t key, uint32_t buffer) {
      load_tile<T, typename S::KeyTile, S::kKeys, S::kThreads>(k_tile(buffer), k, key, sequence.key_end);
      load_tile<T, typename S::ValueTile, S::kKeys, S::kThreads>(v_tile(buffer), v, key, sequence.key_end);
    };
    TileWalk walk;
    const auto first_shown = [&](int32_t key) {
      if (!kGeneral) return key;
      return walk.next<S::kKeys>(key, end, [&](int32_t at) { return shown<S::kQueries, S::kKeys>(call, sequence, first_query, at); });
    };
    int32_t key = first_shown(begin);
    if (key < end) {
      load_tile<T, typename S::QueryTile, S::kQueries, S::kThreads>(q_tile, q, first_query, sequence.queries);
      load_keys(key, 0);
    }
    copies_commit();

    Output output = {};
    RunningSoftmax<S> softmax;
    uint32_t buffer = 0;
    for (int32_t next; key < end; key = next, buffer ^= 1) {
      // What may be hidden of the tile: by bands, and by bytes and segments.
      const bool cut = key < late.first || key + S::kKeys > early.end, holes = kGeneral && !walk.all;
      const bool mixed = cut || holes || (kGeneral && call.scores.bias.data != nullptr);
      next = first_shown(key + S::kKeys);
      copies_wait<0>();
      // Behind this barrier the tile is complete, and everybody is done with the other buffer.
      bool special = false;
      // Halves of f32 elements turn infinities into NaN, so there they are special everywhere.
      if (mixed || T::kBytes == 4) {
        special = __syncthreads_or(own_not_finite<T, typename S::ValueTile, S::kKeys, S::kThreads>(v_tile(buffer)));
      } else {
        __syncthreads();
      }
      if (next < end) load_keys(next, buffer ^ 1);
      copies_commit();

      // A special tile has further barriers.
      if (idle && !special) continue;
      Scores scores;
      multiply_keys<S>(scores, q_tile, k_tile(buffer));
      if constexpr (kGeneral) {
        const Pairs pairs(call, sequence);
        if (call.scores.change != 0) change_scores(scores, key, pairs);
        if (holes) hide_by_pairs(scores, key, pairs);
      }
      if (cut) hide_by_bands<S>(scores, bands, first_query, key);
      if (mixed) {
        softmax.template add<true>(scores, output, call.scores);
      } else {
        softmax.template add<false>(scores, output, call.scores);
      }
      const Weights<S> weights(scores);
      if (special) {
        add_special<S>(output, weights, v_tile(buffer));
        __syncthreads();
        clear_own_special<T, typename S::ValueTile, S::kKeys, S::kThreads>(v_tile(buffer));
        __syncthreads();
      }
      multiply_values<S>(output, weights, v_tile(buffer));
    }
    if (idle) return;
    if (p.splits > 1) {
      finish_split(output, softmax);
    } else {
      finish<S>(p, sequence, first_query, q_tile, output, softmax);
    }
  }

 private:
  DEVICE uint32_t k_tile(uint32_t buffer) const {
    return q_tile + S::QueryTile::kSize + buffer * (S::KeyTile::kSize + S::ValueTile::kSize);
  }
  DEVICE uint32_t v_tile(uint32_t buffer) const { return k_tile(buffer) + S::KeyTile::kSize; }
  static DEVICE int32_t tile_row(int row) { return ::tile_row<S>(row); }

  /// Calls `visit(score, row, query, key)` for every score of the lane in the tile at `key`.
  template <class Visit>
  DEVICE void for_each_score(Scores& scores, int32_t key, Visit visit) const {
#pragma unroll
    for (int row = 0; row < 2 * S::kRowTiles; ++row) {
      const int32_t query = first_query + tile_row(row);
#pragma unroll
      for (int column = 0; column < S::kKeys / 4; ++column) {
        visit(scores[row / 2][column / 2][row % 2 * 2 + column % 2], row, query, key + lane_column(column));
      }
    }
  }

  /// Hides the scores that bytes and segments do not show.
  DEVICE void hide_by_pairs(Scores& scores, int32_t key, const Pairs& pairs) const {
    if (pairs.by_bytes()) {
#pragma unroll
      for (int row = 0; row < 2 * S::kRowTiles; ++row) {
        uint32_t words[(S::kKeys + 31) / 32];
        pairs.template load_bits<S::kKeys>(words, first_query + tile_row(row), key);
#pragma unroll
        for (uint32_t& word : words) word >>= lane_column(0);
#pragma unroll
        for (int column = 0; column < S::kKeys / 4; ++column) {
          const int at = column / 2 * 8 + column % 2;
          float& score = scores[row / 2][column / 2][row % 2 * 2 + column % 2];
          score = words[at / 32] >> at % 32 & 1 ? score : -INFINITY;
        }
      }
    }
    if (pairs.by_segments()) {
      Pairs::Segment of_rows[2 * S::kRowTiles];
#pragma unroll
      for (int row = 0; row < 2 * S::kRowTiles; ++row) of_rows[row] = pairs.query_segment(first_query + tile_row(row));
#pragma unroll
      for (int column = 0; column < S::kKeys / 4; ++column) {
        const Pairs::Segment of_key = pairs.key_segment(key + lane_column(column));
#pragma unroll
        for (int row = 0; row < 2 * S::kRowTiles; ++row) {
          float& score = scores[row / 2][column / 2][row % 2 * 2 + column % 2];
          const bool same = of_key.there && of_rows[row].there && of_key.number == of_rows[row].number;
          score = same ? score : -INFINITY;
        }
      }
    }
  }

  /// Products become scores: bias, slopes and cap. A bias of -inf hides, whatever it is added to.
  DEVICE void change_scores(Scores& scores, int32_t key, const Pairs& pairs) const {
    for_each_score(scores, key, [&](float& score, int, int32_t, int32_t) { score = __fmul_rn(score, call.scores.factor); });
    if (call.scores.bias.data != nullptr) {
      for_each_score(scores, key, [&](float& score, int, int32_t query, int32_t at) {
        const float bias = query < sequence.queries && at < sequence.key_end ? pairs.bias(query, at) : -INFINITY;
        // A cap makes a number of every other -inf.
        const float sum = __fadd_rn(score, bias), least = call.scores.cap > 0.0f ? -0x1.fffffep127f : -INFINITY;
        score = bias == -INFINITY ? bias : sum == -INFINITY ? least : sum;
      });
    }
    if (call.scores.slopes != nullptr) {
      const float slope = pairs.slope();
      for_each_score(scores, key, [&](float& score, int, int32_t query, int32_t at) {
        score = score == -INFINITY ? score : __fmaf_rn(-slope, pairs.distance(query, at), score);
      });
    }
    if (call.scores.cap > 0.0f) {
      for_each_score(scores, key, [&](float& score, int, int32_t, int32_t) {
        if (score != -INFINITY || call.scores.bias.data == nullptr) score = capped(score, call.scores.cap);
      });
    }
  }

  /// Stores the sums as they are, for the merge kernel. A query that saw none of the keys has nothing but its state.
  DEVICE void finish_split(const Output& output, const RunningSoftmax<S>& softmax) const {
    const uint64_t of_head = (uint64_t{own_split(p)} * call.sizes.batch + sequence.batch) * call.sizes.heads + sequence.head;
#pragma unroll
    for (int row = 0; row < 2 * S::kRowTiles; ++row) {
      const float sum = quad_sum(softmax.sum[row]);
      const int32_t query = first_query + tile_row(row);
      if (query >= sequence.queries) continue;
      const uint64_t at = of_head * call.sizes.queries + static_cast<uint32_t>(query);
      if (threadIdx.x % 4 == 0) p.split_states[at] = {softmax.max[row], sum};
      if (softmax.max[row] == -INFINITY && sum == 0.0f) continue;
      float* to = p.split_outputs + at * call.sizes.value_size;
#pragma unroll
      for (int j = 0; j < S::kHead / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint32_t column = 8 * j + threadIdx.x % 4 * 2 + i;
          if (column < call.sizes.value_size) to[column] = output[row / 2][j][row % 2 * 2 + i];
        }
      }
    }
  }

  const AttentionForwardParams& p;
  const AttentionCall& call;
  const Work& work;
  const Sequence& sequence;
  const int32_t first_query;
  const uint32_t q_tile;
  const Bands bands;
};

/// One work item per block, so that a block that is done makes room for the next one.
template <class S, bool kGeneral>
DEVICE void attention_forward(const AttentionForwardParams& p) {
  Work work;
  if (find_work(p, S::kQueries, work)) Forward<S, kGeneral>(p, work, shared_base()).run();
}

/// Two kernels for rows of up to `head` elements: one for bands and lengths of keys, and one for whatever else masks or changes scores,
/// which gives a warp 16 queries so that there are registers for that.
#define ATTENTION_FORWARD(name, T, head, warps, row_tiles, keys)                                                  \
  extern "C" __global__ void __launch_bounds__(32 * warps)                                                        \
      attention_forward_##name##_##head(const __grid_constant__ AttentionForwardParams p) {                       \
    attention_forward<Shape<T, head, warps, row_tiles, keys>, false>(p);                                          \
  }                                                                                                               \
  extern "C" __global__ void __launch_bounds__(32 * warps * row_tiles)                                            \
      attention_forward_##name##_##head##_general(const __grid_constant__ AttentionForwardParams p) {             \
    attention_forward<Shape<T, head, warps * row_tiles, 1, keys>, true>(p);                                       \
  }
