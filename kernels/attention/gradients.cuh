// What the backward kernels know of the pairs of a block: who sees whom, scores, weights and gradients of scores; however the tiles
// arrive and are multiplied.
//
//   weight = exp(score - lse)            dscore = weight * (dot(dout, v) - delta) * derivative of the cap
//
// A block owns `rows` (queries or keys) of one head; `columns` are those of the other kind, which stream by in tiles. Sums lie as in
// product.cuh: a lane has rows of its own, and a share of the columns.
//
// Column tiles start at multiples of kColumns from the first of the sequence, and one that a row does not see adds zeros to it: bits
// do not depend on what shares a tile.
#pragma once

#include "attention/mask.cuh"
#include "attention/softmax.cuh"
#include "attention/store.cuh"

/// What a kernel computes.
enum class Part { kQueries, kKeysAndValues, kKeys, kValues };

/// Work items of a kernel that owns so many tiles of rows per sequence, or of all packed sequences.
DEVICE uint64_t work_items(const AttentionCall& call, uint32_t heads, uint32_t tiles) {
  return (call.query_offsets == nullptr ? uint64_t{call.sizes.batch} : 1) * heads * tiles;
}

/// Sets the sequence, with its head, and the tile of rows that the calling block owns; false if there is nothing to do. One work item per
/// block, so that a block that is done makes room for the next one. All 32 lanes of a warp must call.
template <class S, Part kPart>
DEVICE bool find_rows(const AttentionBackwardParams& p, Sequence& sequence, uint32_t& tile) {
  constexpr bool kOfQueries = kPart == Part::kQueries;
  const AttentionCall& call = p.call;
  const uint32_t heads = kOfQueries ? call.sizes.heads : call.sizes.key_heads, tiles = kOfQueries ? p.query_tiles : p.key_tiles;
  const uint64_t item = (uint64_t{blockIdx.z} * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  if (item >= work_items(call, heads, tiles)) return false;
  // Where later queries see more keys, late queries and early keys are the long work: they start first.
  tile = static_cast<uint32_t>(item % tiles);
  if (kOfQueries) tile = tiles - 1 - tile;
  const uint64_t of_head = item / tiles;
  sequence.head = static_cast<uint32_t>(of_head % heads);
  if (call.query_offsets == nullptr) {
    sequence.be_whole(call, static_cast<uint32_t>(of_head / heads));
    return true;
  }
  const int32_t* offsets = kOfQueries ? call.query_offsets : call.key_offsets;
  return sequence.find(call, offsets, kOfQueries ? call.sizes.queries : call.sizes.keys, S::kRows, tile);
}

template <class S, Part kPart, bool kGeneral>
class Gradients {
 protected:
  using T = typename S::T;
  using Sums = float[S::kRowTiles][S::kColumns / 8][4];
  using Gradient = float[S::kRowTiles][S::kHead / 8][4];
  static constexpr bool kOfQueries = kPart == Part::kQueries;
  /// Whether gradients of scores are summed up, and whether weights are.
  static constexpr bool kScores = kPart != Part::kValues;
  static constexpr bool kWeights = kPart == Part::kValues || kPart == Part::kKeysAndValues;

 public:
  /// `first_row` is the first row of the block's, `head` that of q or, if keys are owned, of k.
  DEVICE Gradients(const AttentionBackwardParams& p, const Sequence& sequence, uint32_t head, int32_t first_row)
      : p(p), call(p.call), sequence(sequence), head(head), first_row(first_row), bands(p.call.mask, sequence) {}

 protected:
  /// Columns that some row sees, and among them those that all rows see.
  struct Seen {
    int32_t begin, end, whole_begin, whole_end;
  };

  /// The head of the rows' keys, and of the queries that share it the first and how many: those of the columns, one behind the other.
  DEVICE uint32_t heads_of_key() const { return call.sizes.heads / call.sizes.key_heads; }
  DEVICE uint32_t key_head() const { return kOfQueries ? head / heads_of_key() : head; }
  DEVICE uint32_t first_head() const { return kOfQueries ? head : head * heads_of_key(); }
  DEVICE int32_t rows() const { return kOfQueries ? sequence.queries : sequence.keys; }

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

  /// What is known of the queries that are the lane's rows; those behind the last one have no weights.
  DEVICE void load_known(AttentionRow (&own)[2 * S::kRowTiles]) const {
#pragma unroll
    for (int row = 0; row < 2 * S::kRowTiles; ++row) {
      const int32_t query = first_row + tile_row(row);
      own[row] = {INFINITY, 0.0f, 1.0f, 0};
      if (query < sequence.queries) own[row] = known_rows()[query];
    }
  }

  /// Stores what a warp has added up. Its rows of two tiles, which it reads no more, become buffers.
  DEVICE void store(Gradient& of_scores, const Gradient& of_weights, const float (&sums)[2 * S::kRowTiles], const AttentionRow (&own)[2 * S::kRowTiles],
                    uint32_t x_tile, uint32_t y_tile) {
    using Tile = typename S::RowTile;
    sequence.head = first_head();
    if (kOfQueries) divide_by_sums(of_scores, sums, own);
    if (kScores) {
      const Rows to = kOfQueries ? queries(p.dq, call.sizes.head_size) : keys(p.dk, key_head(), call.sizes.head_size);
      store_sums<T, Tile>(of_scores, p.scale, x_tile, to, first_row, rows());
    }
    if (kWeights) store_sums<T, Tile>(of_weights, 1.0f, y_tile, keys(p.dv, key_head(), call.sizes.value_size), first_row, rows());
  }

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
  const Bands bands;
};
