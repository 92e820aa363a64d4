// Gradients of attention on compute capability 9.0: backward.cuh with products of warpgroups, tiles that arrive by tensor maps, and masks
// of bands and lengths alone.
//
// The two kernels are the same two, for the same reasons. Neither has anything to hand to another warp: weights and gradients of
// scores leave one product and enter the next in registers, so warpgroups never wait for each other, and while one of them computes
// weights, the tensor cores have the products of another. A single kernel with 5 products instead of 3 + 4 would write gradients of
// scores to shared memory for both warpgroups to multiply with keys, in step with each other, and add tiles of dq to global memory in a
// fixed order, block after block.
//
// A thread of the last warpgroup starts copies: of the two tiles of rows, then of column tiles in turn into a ring of kStages pairs of
// buffers. The others have 64 rows each.
#pragma once

#include "attention/gradients.cuh"
#include "attention/ring.cuh"
#include "attention/warpgroup.cuh"

/// The tiles of a kernel: rows stay, columns stream by.
template <class Type, int kHeadSize, int kWarpgroupCount, int kColumnCount, int kStageCount>
struct GradientShape : WarpgroupShape<Type, kHeadSize, kWarpgroupCount, kColumnCount, kStageCount> {
  using Base = WarpgroupShape<Type, kHeadSize, kWarpgroupCount, kColumnCount, kStageCount>;
  static constexpr int kRows = Base::kQueries;
  static constexpr int kColumns = kColumnCount;
  using RowTile = typename Base::QueryTile;
  using ColumnTile = typename Base::KeyTile;
};

/// Where everything lies in shared memory. x is what makes scores (q and k), y what makes gradients of weights (dout and v).
template <class S>
struct GradientMemory {
  static constexpr int kPair = 2 * S::ColumnTile::kSize;
  static constexpr int kColumnTiles = 2 * S::RowTile::kSize;
  static constexpr int kKnown = kColumnTiles + S::kStages * kPair;
  static constexpr int kKnownBytes = S::kColumns * sizeof(AttentionRow);
  static constexpr int kBarriers = kKnown + S::kStages * kKnownBytes;

  const uint32_t base;

  DEVICE uint32_t x_rows() const { return base; }
  DEVICE uint32_t y_rows() const { return base + S::RowTile::kSize; }
  DEVICE uint32_t x_tile(uint32_t stage) const { return base + kColumnTiles + stage * kPair; }
  DEVICE uint32_t y_tile(uint32_t stage) const { return x_tile(stage) + S::ColumnTile::kSize; }
  /// What is known of the queries, if they are the columns.
  DEVICE uint32_t known(uint32_t stage) const { return base + kKnown + stage * kKnownBytes; }
  /// The bytes of both tiles of rows have arrived; those of x and what is known of its rows; those of y.
  DEVICE uint32_t rows_full() const { return base + kBarriers; }
  DEVICE uint32_t x_full(uint32_t stage) const { return rows_full() + 8 + stage * 24; }
  DEVICE uint32_t y_full(uint32_t stage) const { return x_full(stage) + 8; }
  /// Nobody reads a pair any more.
  DEVICE uint32_t empty(uint32_t stage) const { return x_full(stage) + 16; }
};

/// What the threads of a block do.
template <class S, Part kPart>
class WarpgroupBackward : Gradients<S, kPart, false> {
  using Base = Gradients<S, kPart, false>;
  using typename Base::Gradient;
  using typename Base::Seen;
  using typename Base::Sums;
  using typename Base::T;
  using Base::call, Base::first_row, Base::p, Base::sequence;
  using Base::kOfQueries, Base::kWeights;
  static_assert(Base::kScores);

 public:
  DEVICE WarpgroupBackward(const AttentionBackwardSm90aParams& p, const Sequence& sequence, int32_t first_row, const GradientMemory<S>& memory)
      : Base(p.backward, sequence, sequence.head, first_row), maps(p), memory(memory), seen(this->columns_seen()) {}

  /// How often arrive() is called for a pair by threads that count.
  static constexpr int kArrivals = kOfQueries ? S::kWarpgroups : 4 * S::kWarpgroups;

  DEVICE bool some() const { return seen.begin < seen.end; }

  /// Starts all copies of a block. One thread must call.
  DEVICE void copy_tiles() {
    const uint32_t key_head = this->key_head();
    const auto of_queries = [&](auto tile, uint32_t to, bool y, uint32_t head, int32_t row, uint32_t full) {
      copy_tile<decltype(tile)>(to, y ? maps.dout_map : maps.q_map, y ? p.dout : call.q, sequence, head, sequence.first_query + row, full);
    };
    const auto of_keys = [&](auto tile, uint32_t to, bool y, int32_t row, uint32_t full) {
      copy_tile<decltype(tile)>(to, y ? maps.v_map : maps.k_map, y ? call.v : call.k, sequence, key_head, sequence.first_key + row, full);
    };
    barrier_expect(memory.rows_full(), 2 * S::RowTile::kSize);
#pragma unroll
    for (int y = 0; y < 2; ++y) {
      const uint32_t to = y ? memory.y_rows() : memory.x_rows();
      if (kOfQueries) {
        of_queries(typename S::RowTile(), to, y, this->first_head(), first_row, memory.rows_full());
      } else {
        of_keys(typename S::RowTile(), to, y, first_row, memory.rows_full());
      }
    }
    Turn<S::kStages> turn;
#pragma unroll 1
    for (Place place = first(); left(place); place = after(place), turn.advance()) {
      const uint32_t stage = turn.stage;
      barrier_wait(memory.empty(stage), turn.parity ^ 1);
      if (kOfQueries) {
        barrier_expect(memory.x_full(stage), S::ColumnTile::kSize);
        of_keys(typename S::ColumnTile(), memory.x_tile(stage), false, place.column, memory.x_full(stage));
        barrier_expect(memory.y_full(stage), S::ColumnTile::kSize);
        of_keys(typename S::ColumnTile(), memory.y_tile(stage), true, place.column, memory.y_full(stage));
      } else {
        sequence.head = this->first_head() + this->heads_of_key() - place.heads;
        static_assert(sizeof(AttentionRow) == 16);
        const uint32_t known = min(S::kColumns, sequence.queries - place.column) * sizeof(AttentionRow);
        barrier_expect(memory.x_full(stage), S::ColumnTile::kSize + known);
        of_queries(typename S::ColumnTile(), memory.x_tile(stage), false, sequence.head, place.column, memory.x_full(stage));
        copy_bytes(memory.known(stage), this->known_rows() + place.column, known, memory.x_full(stage));
        barrier_expect(memory.y_full(stage), S::ColumnTile::kSize);
        of_queries(typename S::ColumnTile(), memory.y_tile(stage), true, sequence.head, place.column, memory.y_full(stage));
      }
    }
  }

  /// All threads that multiply must call.
  DEVICE void multiply() {
    AttentionRow own[2];
    if (kOfQueries) this->load_known(own);
    Gradient of_scores = {}, of_weights = {};
    float sums[2] = {};
    if (some()) walk(of_scores, of_weights, sums, own);
    this->store(of_scores, of_weights, sums, own, memory.x_rows(), memory.y_rows());
  }

 private:
  /// A column tile, and how many heads of the queries are left, with its own. Those that share a key head are columns one behind the
  /// other; queries have one head.
  struct Place {
    uint32_t heads;
    int32_t column;
  };
  DEVICE Place first() const { return {kOfQueries ? 1 : this->heads_of_key(), seen.begin}; }
  static DEVICE bool left(const Place& place) { return place.heads > 0; }
  DEVICE Place after(const Place& place) const {
    const int32_t column = place.column + S::kColumns;
    return column < seen.end ? Place{place.heads, column} : Place{place.heads - 1, seen.begin};
  }

  DEVICE void walk(Gradient& of_scores, Gradient& of_weights, float (&sums)[2], const AttentionRow (&own)[2]) {
    const uint32_t own_rows = threadIdx.x / 128 * (64 * S::RowTile::kRowBytes);
    const uint32_t x_rows = memory.x_rows() + own_rows, y_rows = memory.y_rows() + own_rows;
    Turn<S::kStages> turn;
    barrier_wait(memory.rows_full(), 0);
#pragma unroll 1
    for (Place place = first(); left(place); place = after(place), turn.advance()) {
      const uint32_t x_tile = memory.x_tile(turn.stage), y_tile = memory.y_tile(turn.stage);
      const bool cut = place.column < seen.whole_begin || place.column + S::kColumns > seen.whole_end;
      Sums scores, dscores;
      barrier_wait(memory.x_full(turn.stage), turn.parity);
      barrier_wait(memory.y_full(turn.stage), turn.parity);
      keep_all(scores[0]);
      keep_all(dscores[0]);
      products_begin();
      start_scores<S>(scores, x_rows, x_tile);
      start_scores<S>(dscores, y_rows, y_tile);
      products_commit();
      products_wait<0>();
      keep_all(scores[0]);
      keep_all(dscores[0]);
      if (cut) this->hide_by_bands(scores, place.column);
      // Two copies of this take more registers than there are beside two sums; products take longer than even the slower one.
      if (cut || kWeights) {
        this->template weigh<true>(scores, dscores, own, sums, memory.known(turn.stage));
      } else {
        this->template weigh<false>(scores, dscores, own, sums, memory.known(turn.stage));
      }
      Weights<S> weights(scores), dweights(dscores);
      if (cut) clear_special(of_weights, weights, x_tile, y_tile);
      if (kWeights) {
        keep_all(weights);
        keep_all(of_weights[0]);
      }
      keep_all(dweights);
      keep_all(of_scores[0]);
      products_begin();
      if (kWeights) start_output<S>(of_weights, weights, y_tile);
      start_output<S>(of_scores, dweights, x_tile);
      products_commit();
      products_wait<0>();
      if (kWeights) keep_all(of_weights[0]);
      keep_all(of_scores[0]);
      arrive(memory.empty(turn.stage));
    }
  }

  /// A pair is read no more: by products, which are those of whole warpgroups, and by lanes that look up queries.
  static DEVICE void arrive(uint32_t empty) {
    if (kOfQueries) return warpgroup_arrive(empty);
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(empty);
  }

  /// Takes infinite and NaN elements out of tiles of which something is hidden. What those of y do to the weighted sums of rows that see
  /// them is added; those of x have made NaN of the gradients of all scores that see them already. All warpgroups come here for the same
  /// tiles.
  DEVICE void clear_special(Gradient& of_weights, const Weights<S>& weights, uint32_t x_tile, uint32_t y_tile) const {
    using Tile = typename S::ColumnTile;
    bool found = own_not_finite<T, Tile, S::kColumns, S::kThreads>(x_tile);
    if (kWeights) found |= own_not_finite<T, Tile, S::kColumns, S::kThreads>(y_tile);
    if (!meet_or<1, S::kThreads>(found)) return;
    if (kWeights) {
      add_special<S>(of_weights, weights, y_tile);
      meet<1, S::kThreads>();
      clear_own_special<T, Tile, S::kColumns, S::kThreads>(y_tile);
    }
    clear_own_special<T, Tile, S::kColumns, S::kThreads>(x_tile);
    writes_visible();
    meet<1, S::kThreads>();
  }

  const AttentionBackwardSm90aParams& maps;
  const GradientMemory<S>& memory;
  const Seen seen;
};

/// One work item per block.
template <class S, Part kPart, int kCopierRegisters, int kMultiplierRegisters>
DEVICE void attention_backward_sm90a(const AttentionBackwardSm90aParams& p) {
  extern __shared__ __align__(1024) unsigned char tiles_and_barriers[];
  const GradientMemory<S> memory = {static_cast<uint32_t>(__cvta_generic_to_shared(tiles_and_barriers))};
  Sequence sequence;
  uint32_t tile;
  if (!find_rows<S, kPart>(p.backward, sequence, tile)) return;
  if (threadIdx.x == 0) {
    barrier_init(memory.rows_full(), 1);
    for (uint32_t stage = 0; stage < S::kStages; ++stage) {
      barrier_init(memory.x_full(stage), 1);
      barrier_init(memory.y_full(stage), 1);
      barrier_init(memory.empty(stage), WarpgroupBackward<S, kPart>::kArrivals);
    }
    barriers_visible();
  }
  __syncthreads();
  WarpgroupBackward<S, kPart> block(p, sequence, tile * S::kRows, memory);
  if (threadIdx.x >= S::kThreads) {
    give_registers<kCopierRegisters>();
    if (block.some() && threadIdx.x < S::kThreads + 32 && elected()) block.copy_tiles();
  } else {
    take_registers<kMultiplierRegisters>();
    block.multiply();
  }
}

/// A kernel for rows of up to `head` elements.
#define ATTENTION_BACKWARD_SM90A(part, Part, name, T, head, warpgroups, columns, stages, copier, multiplier)          \
  extern "C" __global__ void __launch_bounds__(128 * (warpgroups + 1), 1)                                             \
      attention_backward_##part##_##name##_##head##_sm90a(const __grid_constant__ AttentionBackwardSm90aParams p) {   \
    attention_backward_sm90a<GradientShape<T, head, warpgroups, columns, stages>, Part, copier, multiplier>(p);       \
  }
