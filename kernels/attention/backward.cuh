// Gradients of attention from its operands, dout and, per query, lse and delta; the scores are computed again.
//
//   weight = exp(score - lse)            dscore = weight * (dot(dout, v) - delta) * derivative of the cap
//   dq = scale * dscore k                dk = scale * dscore^T q                dv = weight^T dout
//
// Two kernels. One owns query tiles and walks over the keys that they see: dq. The other owns key tiles and walks over the
// queries that see them, head by head of those that share the keys: dk and dv. Both compute scores and dot(dout, v), so there are
// 3 + 4 products where 5 would do. A single kernel would have to add up dq in memory, over key tiles that run in any order: by
// atomics, whose order and so bits differ from run to run, or block after block, each waiting for those before it, with an f32 copy
// of dq that is read and written once per key tile. Here every sum is in registers, in the order of positions, nobody waits, and
// there is no workspace but 16 bytes per query.
//
// Both are one program. A block owns `rows` (queries or keys), of which a warp has 16 or 32, with two tiles that stay in shared memory:
// q and dout, or k and v. `Columns` (keys or queries) stream by in tiles of the other two. Rows meet columns in two products,
// which make the weights and dscores; these are operands of the products with the columns as they stand in registers.
// Head sizes for whose dk and dv together there are no registers have a kernel for each, one product more.
//
// Column tiles start at multiples of kColumns from the first of the sequence, and one that a row does not see adds zeros to it: bits
// do not depend on what shares a tile. Tiles that nobody sees are not read; those that all see whole run without a look at
// the mask.
#pragma once

#include "attention/mask.cuh"
#include "attention/softmax.cuh"
#include "attention/store.cuh"

/// What a kernel computes.
enum class Part { kQueries, kKeysAndValues, kKeys, kValues };

template <class Type, int kHeadSize, int kWarpCount, int kRowTileCount, int kColumnCount, int kBufferCount>
struct BackwardShape : Shape<Type, kHeadSize, kWarpCount, kRowTileCount, kColumnCount> {
  using Base = Shape<Type, kHeadSize, kWarpCount, kRowTileCount, kColumnCount>;
  static constexpr int kRows = Base::kQueries;
  static constexpr int kColumns = kColumnCount;
  /// Pairs of column tiles: with 2, one is filled while the other is multiplied.
  static constexpr int kBuffers = kBufferCount;
  using RowTile = typename Base::QueryTile;
  using ColumnTile = typename Base::KeyTile;
  // More at once would need more registers than there are.
  static constexpr int kDepthsAtOnce = Base::kRowTiles == 2 ? 2 : Base::kDepthsAtOnce;
  // Columns are an operand by rows, and by columns.
  using ValueTile = ColumnTile;
  /// Behind the tiles: what is known of the queries of each buffer, if they are the columns.
  static constexpr int kShared = 2 * RowTile::kSize + kBuffers * (2 * ColumnTile::kSize + kColumns * sizeof(AttentionRow));
};

/// Work items of a kernel that owns so many tiles of rows per sequence, or of all packed sequences.
DEVICE uint64_t work_items(const AttentionCall& call, uint32_t heads, uint32_t tiles) {
  return (call.query_offsets == nullptr ? uint64_t{call.sizes.batch} : 1) * heads * tiles;
}

template <class S, Part kPart, bool kGeneral>
class Backward {
 protected:
  using T = typename S::T;
  using Sums = float[S::kRowTiles][S::kColumns / 8][4];
  using Gradient = float[S::kRowTiles][S::kHead / 8][4];
  static constexpr bool kOfQueries = kPart == Part::kQueries;
  /// Whether gradients of scores are summed up, and whether weights are.
  static constexpr bool kScores = kPart != Part::kValues;
  static constexpr bool kWeights = kPart == Part::kValues || kPart == Part::kKeysAndValues;

 public:
  /// `tile` is the first row of the block's, `head` that of q or, if keys are owned, of k.
  DEVICE Backward(const AttentionBackwardParams& p, const Sequence& sequence, uint32_t head, int32_t first_row, uint32_t shared)
      : p(p), call(p.call), sequence(sequence), head(head), first_row(first_row), shared(shared), bands(p.call.mask, sequence) {}

  /// All threads of the block must call. Contains barriers.
  DEVICE void run() {
    const uint32_t group = call.sizes.heads / call.sizes.key_heads;
    const uint32_t key_head = kOfQueries ? head / group : head, first_head = kOfQueries ? head : head * group;
    const int32_t rows = kOfQueries ? sequence.queries : sequence.keys;
    const Seen seen = columns_seen();
    // Warps without rows only help to load.
    const bool idle = first_row + static_cast<int32_t>(threadIdx.x / 32 * S::kWarpQueries) >= rows;

    sequence.head = first_head;
    if (seen.begin < seen.end) {
      const int32_t loaded = kOfQueries ? rows : sequence.key_end;
      load_tile<T, typename S::RowTile, S::kRows, S::kThreads>(shared, kOfQueries ? queries(call.q, call.sizes.head_size) : keys(call.k, key_head, call.sizes.head_size), first_row, loaded);
      if (kScores) {
        load_tile<T, typename S::RowTile, S::kRows, S::kThreads>(values_of_rows(), kOfQueries ? queries(p.dout, call.sizes.value_size) : keys(call.v, key_head, call.sizes.value_size), first_row, loaded);
      }
    }
    // Of queries that are rows; those behind the last one have no weights.
    AttentionRow own[2 * S::kRowTiles];
    if (kOfQueries) {
#pragma unroll
      for (int row = 0; row < 2 * S::kRowTiles; ++row) {
        const int32_t query = first_row + tile_row(row);
        own[row] = {INFINITY, 0.0f, 1.0f, 0};
        if (query < rows) own[row] = known_rows()[query];
      }
    }

    Gradient of_scores = {}, of_weights = {};
    // Of the lane's own columns, as everything that a row adds up.
    float sums[2 * S::kRowTiles] = {};
    // The heads that share a key head are columns one behind the other. Queries have one head, which is no number to keep count of.
    const uint32_t end_head = seen.begin < seen.end ? first_head + group : 0;
    const auto some_left = [&](const Place& place) { return kOfQueries ? place.column < seen.end : place.head < end_head; };
    TileWalk walk;
    // From `place` on, the first tile of which something is shown.
    const auto shown_from = [&](Place place) {
      while (kOfQueries || place.head < end_head) {
        if (kGeneral) {
          if (!kOfQueries) sequence.head = place.head;
          place.column = walk.next<S::kColumns>(place.column, seen.end, [&](int32_t column) { return tile_shown(column); });
        }
        if (kOfQueries || place.column < seen.end) break;
        place = {place.head + 1, seen.begin};
        walk = TileWalk();
      }
      return place;
    };
    Place here = shown_from({first_head, seen.begin});
    const auto load = [&](const Place& place, uint32_t buffer) {
      const uint32_t tile = column_tile(buffer);
      if (kOfQueries) {
        load_tile<T, typename S::ColumnTile, S::kColumns, S::kThreads>(tile, keys(call.k, key_head, call.sizes.head_size), place.column, sequence.key_end);
        load_tile<T, typename S::ColumnTile, S::kColumns, S::kThreads>(tile + S::ColumnTile::kSize, keys(call.v, key_head, call.sizes.value_size), place.column, sequence.key_end);
        return;
      }
      sequence.head = place.head;
      load_tile<T, typename S::ColumnTile, S::kColumns, S::kThreads>(tile, queries(call.q, call.sizes.head_size), place.column, sequence.queries);
      load_tile<T, typename S::ColumnTile, S::kColumns, S::kThreads>(tile + S::ColumnTile::kSize, queries(p.dout, call.sizes.value_size), place.column, sequence.queries);
      const int32_t query = place.column + threadIdx.x;
      static_assert(sizeof(AttentionRow) == 16);
      const char* row = reinterpret_cast<const char*>(known_rows() + (query < sequence.queries ? query : 0));
      if (threadIdx.x < S::kColumns) copy_async(row_slots(buffer) + threadIdx.x * 16, row, query < sequence.queries ? 16 : 0);
    };
    if (S::kBuffers == 2 && some_left(here)) load(here, 0);
    copies_commit();

    uint32_t buffer = 0;
    while (some_left(here)) {
      // What may be hidden of the tile: by bands and lengths, and by bytes and segments.
      const bool cut = here.column < seen.whole_begin || here.column + S::kColumns > seen.whole_end, holes = kGeneral && !walk.all;
      const bool mixed = cut || holes || (kGeneral && call.scores.bias.data != nullptr);
      const Place next = shown_from({here.head, here.column + S::kColumns});
      if (S::kBuffers == 1) {
        // Everybody is done with the tiles before.
        __syncthreads();
        load(here, 0);
        copies_commit();
      }
      const uint32_t x_tile = column_tile(buffer), y_tile = x_tile + S::ColumnTile::kSize;
      copies_wait<0>();
      // Behind this barrier the tiles are complete, and everybody is done with the other buffer.
      bool special = false;
      // Halves of f32 elements turn infinities into NaN, so there they are special everywhere.
      if (mixed || T::kBytes == 4) {
        bool found = kScores && own_not_finite<T, typename S::ColumnTile, S::kColumns, S::kThreads>(x_tile);
        if (kWeights) found |= own_not_finite<T, typename S::ColumnTile, S::kColumns, S::kThreads>(y_tile);
        special = __syncthreads_or(found);
      } else {
        __syncthreads();
      }
      if (S::kBuffers == 2) {
        if (some_left(next)) load(next, buffer ^ 1);
        copies_commit();
      }

      // A special tile has further barriers.
      if (!idle || special) {
        if (!kOfQueries) sequence.head = here.head;
        Sums scores, dscores;
        multiply_keys<S>(scores, shared, x_tile);
        if (kScores) multiply_keys<S>(dscores, values_of_rows(), y_tile);
        if constexpr (kGeneral) {
          const Pairs pairs(call, sequence);
          if (call.scores.change != 0) change_scores(scores, here.column, pairs);
          if (holes) hide_by_pairs(scores, here.column, pairs);
        }
        if (cut) hide_by_bands(scores, here.column);
        if (mixed) {
          weigh<true>(scores, dscores, own, sums, row_slots(buffer));
        } else {
          weigh<false>(scores, dscores, own, sums, row_slots(buffer));
        }
        if (special) {
          if (kWeights) add_special<S>(of_weights, Weights<S>(scores), y_tile);
          __syncthreads();
          // What of x is not finite makes dscores NaN for all that see it, so nothing is lost with it.
          if (kScores) clear_own_special<T, typename S::ColumnTile, S::kColumns, S::kThreads>(x_tile);
          if (kWeights) clear_own_special<T, typename S::ColumnTile, S::kColumns, S::kThreads>(y_tile);
          __syncthreads();
        }
        if (kWeights) multiply_values<S>(of_weights, Weights<S>(scores), y_tile);
        if (kScores) multiply_values<S>(of_scores, Weights<S>(dscores), x_tile);
      }
      here = next;
      if (S::kBuffers == 2) buffer ^= 1;
    }
    // If bytes and segments show no tile of columns, nobody has waited for the tiles of rows, whose place results pass through.
    if (kGeneral && kScores) {
      copies_wait<0>();
      __syncthreads();
    }
    if (idle) return;
    // Of 16-bit elements a lane overwrites what ldmatrix gave it; of f32 what it gave other lanes.
    if (T::kBytes == 4 && kScores && !kGeneral) __syncwarp();
    using Tile = typename S::RowTile;
    sequence.head = first_head;
    if (kOfQueries) divide_by_sums(of_scores, sums, own);
    if (kScores) {
      const Rows to = kOfQueries ? queries(p.dq, call.sizes.head_size) : keys(p.dk, key_head, call.sizes.head_size);
      store_sums<T, Tile>(of_scores, p.scale, shared, to, first_row, rows);
    }
    if (kWeights) store_sums<T, Tile>(of_weights, 1.0f, values_of_rows(), keys(p.dv, key_head, call.sizes.value_size), first_row, rows);
  }

 protected:
  /// Columns that some row sees, and among them those that all rows see.
  struct Seen {
    int32_t begin, end, whole_begin, whole_end;
  };
  /// A column tile of a head of the queries.
  struct Place {
    uint32_t head;
    int32_t column;
  };

  DEVICE Seen columns_seen() const {
    // The first row sees the first of all columns, the last one the last. Where none is seen, none is left behind `begin`.
    const auto from = [](const Interval& early, const Interval& late) {
      return early.first < late.end ? early.first / S::kColumns * S::kColumns : late.end;
    };
    if (kOfQueries) {
      const Interval early = bands.of(first_row), late = bands.of(min(first_row + S::kRows, sequence.queries) - 1);
      return {from(early, late), late.end, late.first, early.end};
    }
    const Interval early = queries_of(first_row), late = queries_of(min(first_row + S::kRows, bands.key_end) - 1);
    const bool none = first_row >= bands.key_end || first_row + S::kRows <= bands.key_first;
    const bool whole = first_row >= bands.key_first && first_row + S::kRows <= bands.key_end;
    return {from(early, late), none ? 0 : late.end, late.first, whole ? early.end : 0};
  }

  /// What bytes and segments show of the tile at `column` to the head of `sequence`, or of one that it is a part of.
  DEVICE Shown tile_shown(int32_t column) const {
    if constexpr (kOfQueries) {
      return shown<S::kRows, S::kColumns>(call, sequence, first_row, column);
    } else {
      constexpr int kQueries = S::kColumns < ATTENTION_CELL_QUERIES ? ATTENTION_CELL_QUERIES : S::kColumns;
      return shown<kQueries, S::kRows>(call, sequence, column / kQueries * kQueries, first_row);
    }
  }

  /// The queries that see a key by the bands, if it is there.
  DEVICE Interval queries_of(int32_t key) const {
    return {clamped(int64_t{key} - bands.last, 0, sequence.queries), clamped(int64_t{key} - bands.first + 1, 0, sequence.queries)};
  }

  DEVICE Rows queries(const AttentionMatrix& matrix, uint32_t length) const {
    return rows_of<T>(matrix, sequence, sequence.head, sequence.first_query, length);
  }
  DEVICE Rows keys(const AttentionMatrix& matrix, uint32_t key_head, uint32_t length) const {
    return rows_of<T>(matrix, sequence, key_head, sequence.first_key, length);
  }
  /// Of the sequence's queries.
  DEVICE AttentionRow* known_rows() const {
    const uint64_t batch = call.query_offsets == nullptr ? sequence.batch : 0;
    return p.rows + (batch * call.sizes.heads + sequence.head) * call.sizes.queries + sequence.first_query;
  }

  DEVICE uint32_t values_of_rows() const { return shared + S::RowTile::kSize; }
  DEVICE uint32_t column_tile(uint32_t buffer) const { return shared + 2 * S::RowTile::kSize + buffer * 2 * S::ColumnTile::kSize; }
  DEVICE uint32_t row_slots(uint32_t buffer) const { return column_tile(S::kBuffers) + buffer * S::kColumns * sizeof(AttentionRow); }

  /// Row of the block's that the lane's row `row` is: 2 t + h is row 16 t + l / 4 + 8 h of the warp's.
  static DEVICE int32_t tile_row(int row) {
    return threadIdx.x / 32 * S::kWarpQueries + row / 2 * 16 + row % 2 * 8 + threadIdx.x % 32 / 4;
  }
  /// Column of the tile that the lane's column `column` is.
  static DEVICE int32_t tile_column(int column) { return column / 2 * 8 + threadIdx.x % 4 * 2 + column % 2; }

  /// Calls `visit(score, query, key)` for every score of the lane in the tile at `first_column`.
  template <class Visit>
  DEVICE void for_each_score(Sums& scores, int32_t first_column, Visit visit) const {
#pragma unroll
    for (int row = 0; row < 2 * S::kRowTiles; ++row) {
      const int32_t at = first_row + tile_row(row);
#pragma unroll
      for (int column = 0; column < S::kColumns / 4; ++column) {
        const int32_t other = first_column + tile_column(column);
        visit(scores[row / 2][column / 2][row % 2 * 2 + column % 2], kOfQueries ? at : other, kOfQueries ? other : at);
      }
    }
  }

  /// Hides the scores that the bands and the lengths do not show.
  DEVICE void hide_by_bands(Sums& scores, int32_t first_column) const {
#pragma unroll
    for (int row = 0; row < 2 * S::kRowTiles; ++row) {
      const int32_t at = first_row + tile_row(row);
      Interval seen;
      if (kOfQueries) {
        seen = bands.of(at);
      } else {
        seen = queries_of(at);
        if (at < bands.key_first || at >= bands.key_end) seen.end = 0;
      }
#pragma unroll
      for (int column = 0; column < S::kColumns / 4; ++column) {
        const int32_t other = first_column + tile_column(column);
        float& score = scores[row / 2][column / 2][row % 2 * 2 + column % 2];
        if (other < seen.first || other >= seen.end) score = -INFINITY;
      }
    }
  }

  /// Hides the scores that bytes and segments do not show.
  DEVICE void hide_by_pairs(Sums& scores, int32_t first_column, const Pairs& pairs) const {
    static_assert(!kGeneral || S::kRowTiles == 1);
    const uint32_t quad = threadIdx.x % 32 / 4;
    if (pairs.by_bytes()) {
      if (kOfQueries) {
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          uint32_t words[(S::kColumns + 31) / 32];
          pairs.template load_bits<S::kColumns>(words, first_row + tile_row(row), first_column);
#pragma unroll
          for (uint32_t& word : words) word >>= tile_column(0);
#pragma unroll
          for (int column = 0; column < S::kColumns / 4; ++column) {
            const int at = column / 2 * 8 + column % 2;
            float& score = scores[0][column / 2][row * 2 + column % 2];
            score = words[at / 32] >> at % 32 & 1 ? score : -INFINITY;
          }
        }
      } else {
        // A word has the 16 keys of the warp.
#pragma unroll
        for (int column = 0; column < S::kColumns / 4; ++column) {
          uint32_t word[1];
          pairs.template load_bits<16>(word, first_column + tile_column(column), first_row + tile_row(0) - quad);
#pragma unroll
          for (int row = 0; row < 2; ++row) {
            float& score = scores[0][column / 2][row * 2 + column % 2];
            score = word[0] >> (quad + 8 * row) & 1 ? score : -INFINITY;
          }
        }
      }
    }
    if (pairs.by_segments()) {
      const auto segment = [&](int32_t at, bool of_query) { return of_query ? pairs.query_segment(at) : pairs.key_segment(at); };
      Pairs::Segment of_rows[2];
#pragma unroll
      for (int row = 0; row < 2; ++row) of_rows[row] = segment(first_row + tile_row(row), kOfQueries);
#pragma unroll
      for (int column = 0; column < S::kColumns / 4; ++column) {
        const Pairs::Segment of_column = segment(first_column + tile_column(column), !kOfQueries);
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          float& score = scores[0][column / 2][row * 2 + column % 2];
          const bool same = of_column.there && of_rows[row].there && of_column.number == of_rows[row].number;
          score = same ? score : -INFINITY;
        }
      }
    }
  }

  /// Products become scores: bias, slopes and cap. A bias of -inf hides, whatever it is added to.
  DEVICE void change_scores(Sums& scores, int32_t first_column, const Pairs& pairs) const {
    const AttentionScores& options = call.scores;
    for_each_score(scores, first_column, [&](float& score, int32_t, int32_t) { score = __fmul_rn(score, options.factor); });
    if (options.bias.data != nullptr) {
      for_each_score(scores, first_column, [&](float& score, int32_t query, int32_t key) {
        const float bias = query < sequence.queries && key < sequence.key_end ? pairs.bias(query, key) : -INFINITY;
        // A cap makes a number of every other -inf.
        const float sum = __fadd_rn(score, bias), least = options.cap > 0.0f ? -0x1.fffffep127f : -INFINITY;
        score = bias == -INFINITY ? bias : sum == -INFINITY ? least : sum;
      });
    }
    if (options.slopes != nullptr) {
      const float slope = pairs.slope();
      for_each_score(scores, first_column, [&](float& score, int32_t query, int32_t key) {
        score = score == -INFINITY ? score : __fmaf_rn(-slope, pairs.distance(query, key), score);
      });
    }
    if (options.cap > 0.0f) {
      for_each_score(scores, first_column, [&](float& score, int32_t, int32_t) {
        if (score != -INFINITY || options.bias.data == nullptr) score = capped(score, options.cap);
      });
    }
  }

  /// Scores become weights, and products of dout and v gradients of the products that scores are made of. Where `kMixed`, hidden
  /// scores are -inf; their weights are kHiddenWeight and their gradients 0, whatever the products are. `row_slots` knows the queries if
  /// they are the columns, else `own` does.
  template <bool kMixed>
  DEVICE void weigh(Sums& scores, Sums& dscores, const AttentionRow (&own)[2 * S::kRowTiles], float (&sums)[2 * S::kRowTiles], uint32_t row_slots) const {
    const float inverse_cap = kGeneral && call.scores.cap > 0.0f ? __frcp_rn(call.scores.cap) : 0.0f;
#pragma unroll
    for (int j = 0; j < S::kColumns / 8; ++j) {
      AttentionRow of_columns[2];
      if (!kOfQueries) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint4 words = load_shared(row_slots + (8 * j + threadIdx.x % 4 * 2 + i) * sizeof(AttentionRow));
          of_columns[i] = {__uint_as_float(words.x), __uint_as_float(words.y), __uint_as_float(words.z), 0};
        }
      }
#pragma unroll
      for (int t = 0; t < S::kRowTiles; ++t) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const AttentionRow row = kOfQueries ? own[2 * t + e / 2] : of_columns[e % 2];
          const float score = scores[t][j][e];
          const bool hidden = kMixed && score == -INFINITY;
          // The difference first, in one rounding: scores of any size lose nothing.
          float weight = weight_of<T, true>(__fsub_rn(score, row.origin), call.scores);
          if (!kOfQueries) weight = __fmul_rn(weight, row.share);
          scores[t][j][e] = hidden ? kHiddenWeight : weight;
          if (kOfQueries) sums[2 * t + e / 2] = __fadd_rn(sums[2 * t + e / 2], scores[t][j][e]);
          if (kScores) {
            float dscore = __fmul_rn(weight, __fsub_rn(dscores[t][j][e], row.delta));
            if (kGeneral && inverse_cap > 0.0f) {
              const float tanh = __fmul_rn(score, inverse_cap);
              dscore = __fmul_rn(dscore, __fmaf_rn(-tanh, tanh, 1.0f));
            }
            dscores[t][j][e] = hidden ? 0.0f : dscore;
          }
        }
      }
    }
  }

  /// The weights of a query add up to 1. What theirs add up to instead, if it is no more than roundings of the lse explain, is divided
  /// out of its gradient, and left in its row for the kernels that own keys. Another sum is not theirs to change: the caller's lse counts.
  DEVICE void divide_by_sums(Gradient& of_scores, const float (&sums)[2 * S::kRowTiles], const AttentionRow (&own)[2 * S::kRowTiles]) const {
#pragma unroll
    for (int row = 0; row < 2 * S::kRowTiles; ++row) {
      const int32_t query = first_row + tile_row(row);
      const float sum = quad_sum(sums[row]), size = fabsf(__fmul_rn(own[row].origin, call.scores.natural_factor));
      const bool rounded = sum > 0x1p-60f && sum < 0x1p60f && fabsf(log_accurate({sum, 0.0f}, 0.0f)) <= 0x1p-22f * (size + 4.0f);
      float share = 1.0f;
      if (rounded) {
        share = quotient(1.0f, sum);
      } else if (query < sequence.queries) {
        share = known_rows()[query].share;
      }
      // The lanes of a row agree on `rounded`, so nobody reads what is written here.
      if (rounded && threadIdx.x % 4 == 0 && query < sequence.queries) known_rows()[query].share = share;
#pragma unroll
      for (int j = 0; j < S::kHead / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) of_scores[row / 2][j][row % 2 * 2 + i] = __fmul_rn(of_scores[row / 2][j][row % 2 * 2 + i], share);
      }
    }
  }

  const AttentionBackwardParams& p;
  const AttentionCall& call;
  Sequence sequence;
  const uint32_t head;
  const int32_t first_row;
  const uint32_t shared;
  const Bands bands;
};

/// One work item per block, so that a block that is done makes room for the next one.
template <class S, Part kPart, bool kGeneral>
DEVICE void attention_backward(const AttentionBackwardParams& p) {
  constexpr bool kOfQueries = kPart == Part::kQueries;
  const AttentionCall& call = p.call;
  const uint32_t heads = kOfQueries ? call.sizes.heads : call.sizes.key_heads, tiles = kOfQueries ? p.query_tiles : p.key_tiles;
  const uint64_t item = (uint64_t{blockIdx.z} * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  if (item >= work_items(call, heads, tiles)) return;
  // Where later queries see more keys, late queries and early keys are the long work: they start first.
  uint32_t tile = static_cast<uint32_t>(item % tiles);
  if (kOfQueries) tile = tiles - 1 - tile;
  const uint64_t of_head = item / tiles;
  Sequence sequence;
  sequence.head = static_cast<uint32_t>(of_head % heads);
  if (call.query_offsets == nullptr) {
    sequence.be_whole(call, static_cast<uint32_t>(of_head / heads));
  } else {
    const int32_t* offsets = kOfQueries ? call.query_offsets : call.key_offsets;
    if (!sequence.find(call, offsets, kOfQueries ? call.sizes.queries : call.sizes.keys, S::kRows, tile)) return;
  }
  Backward<S, kPart, kGeneral>(p, sequence, sequence.head, tile * S::kRows, shared_base()).run();
}

/// Two kernels for rows of up to `head` elements: one for bands and lengths of keys, and one for whatever else masks or changes scores,
/// which gives a warp 16 rows so that there are registers for that.
#define ATTENTION_BACKWARD(part, Part, name, T, head, warps, row_tiles, columns, buffers)                                     \
  extern "C" __global__ void __launch_bounds__(32 * warps, 1)                                                                  \
      attention_backward_##part##_##name##_##head(const __grid_constant__ AttentionBackwardParams p) {                        \
    attention_backward<BackwardShape<T, head, warps, row_tiles, columns, buffers>, Part, false>(p);                           \
  }                                                                                                                           \
  extern "C" __global__ void __launch_bounds__(32 * warps * row_tiles, 1)                                                      \
      attention_backward_##part##_##name##_##head##_general(const __grid_constant__ AttentionBackwardParams p) {              \
    attention_backward<BackwardShape<T, head, warps * row_tiles, 1, columns, buffers>, Part, true>(p);                        \
  }
