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

#include "attention/gradients.cuh"

/// Tiles that a warp multiplies by mma.
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

template <class S, Part kPart, bool kGeneral>
class Backward : protected Gradients<S, kPart, kGeneral> {
  using Base = Gradients<S, kPart, kGeneral>;
 protected:
  using typename Base::Gradient;
  using typename Base::Seen;
  using typename Base::Sums;
  using typename Base::T;
  using Base::bands, Base::call, Base::first_row, Base::p, Base::sequence;
  using Base::kOfQueries, Base::kScores, Base::kWeights;

 public:
  DEVICE Backward(const AttentionBackwardParams& p, const Sequence& sequence, uint32_t head, int32_t first_row, uint32_t shared)
      : Base(p, sequence, head, first_row), shared(shared) {}

  /// All threads of the block must call. Contains barriers.
  DEVICE void run() {
    const uint32_t key_head = this->key_head(), first_head = this->first_head();
    const int32_t rows = this->rows();
    const Seen seen = this->columns_seen();
    // Warps without rows only help to load.
    const bool idle = first_row + static_cast<int32_t>(threadIdx.x / 32 * S::kWarpQueries) >= rows;

    sequence.head = first_head;
    if (seen.begin < seen.end) {
      const int32_t loaded = kOfQueries ? rows : sequence.key_end;
      load_tile<T, typename S::RowTile, S::kRows, S::kThreads>(shared, kOfQueries ? this->queries(call.q, call.sizes.head_size) : this->keys(call.k, key_head, call.sizes.head_size), first_row, loaded);
      if (kScores) {
        load_tile<T, typename S::RowTile, S::kRows, S::kThreads>(values_of_rows(), kOfQueries ? this->queries(p.dout, call.sizes.value_size) : this->keys(call.v, key_head, call.sizes.value_size), first_row, loaded);
      }
    }
    // Of queries that are rows.
    AttentionRow own[2 * S::kRowTiles];
    if (kOfQueries) this->load_known(own);

    Gradient of_scores = {}, of_weights = {};
    // Of the lane's own columns, as everything that a row adds up.
    float sums[2 * S::kRowTiles] = {};
    // The heads that share a key head are columns one behind the other. Queries have one head, which is no number to keep count of.
    const uint32_t end_head = seen.begin < seen.end ? first_head + this->heads_of_key() : 0;
    const auto some_left = [&](const Place& place) { return kOfQueries ? place.column < seen.end : place.head < end_head; };
    TileWalk walk;
    // From `place` on, the first tile of which something is shown.
    const auto shown_from = [&](Place place) {
      while (kOfQueries || place.head < end_head) {
        if (kGeneral) {
          if (!kOfQueries) sequence.head = place.head;
          place.column = walk.next<S::kColumns>(place.column, seen.end, [&](int32_t column) { return this->tile_shown(column); });
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
        load_tile<T, typename S::ColumnTile, S::kColumns, S::kThreads>(tile, this->keys(call.k, key_head, call.sizes.head_size), place.column, sequence.key_end);
        load_tile<T, typename S::ColumnTile, S::kColumns, S::kThreads>(tile + S::ColumnTile::kSize, this->keys(call.v, key_head, call.sizes.value_size), place.column, sequence.key_end);
        return;
      }
      sequence.head = place.head;
      load_tile<T, typename S::ColumnTile, S::kColumns, S::kThreads>(tile, this->queries(call.q, call.sizes.head_size), place.column, sequence.queries);
      load_tile<T, typename S::ColumnTile, S::kColumns, S::kThreads>(tile + S::ColumnTile::kSize, this->queries(p.dout, call.sizes.value_size), place.column, sequence.queries);
      const int32_t query = place.column + threadIdx.x;
      static_assert(sizeof(AttentionRow) == 16);
      const char* row = reinterpret_cast<const char*>(this->known_rows() + (query < sequence.queries ? query : 0));
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
          if (call.scores.change != 0) this->change_scores(scores, here.column, pairs);
          if (holes) this->hide_by_pairs(scores, here.column, pairs);
        }
        if (cut) this->hide_by_bands(scores, here.column);
        if (mixed) {
          this->template weigh<true>(scores, dscores, own, sums, row_slots(buffer));
        } else {
          this->template weigh<false>(scores, dscores, own, sums, row_slots(buffer));
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
    this->store(of_scores, of_weights, sums, own, shared, values_of_rows());
  }

 protected:
  /// A column tile of a head of the queries.
  struct Place {
    uint32_t head;
    int32_t column;
  };

  DEVICE uint32_t values_of_rows() const { return shared + S::RowTile::kSize; }
  DEVICE uint32_t column_tile(uint32_t buffer) const { return shared + 2 * S::RowTile::kSize + buffer * 2 * S::ColumnTile::kSize; }
  DEVICE uint32_t row_slots(uint32_t buffer) const { return column_tile(S::kBuffers) + buffer * S::kColumns * sizeof(AttentionRow); }

  const uint32_t shared;
};

template <class S, Part kPart, bool kGeneral>
DEVICE void attention_backward(const AttentionBackwardParams& p) {
  Sequence sequence;
  uint32_t tile;
  if (find_rows<S, kPart>(p, sequence, tile)) Backward<S, kPart, kGeneral>(p, sequence, sequence.head, tile * S::kRows, shared_base()).run();
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
