// out = softmax(score(q k^T)) v, and lse = ln(sum(exp(score))), on compute capability 9.0: forward.cuh with products of warpgroups, tiles
// that arrive by tensor maps, and masks of bands and lengths alone.
//
// A block takes a tile of queries of one head. A thread of its last warpgroup starts copies: of the queries, and then of tiles of keys
// and values in turn into a ring of kStages pairs of buffers. The others have 64 queries each and all keys of a tile. They start the products of the next
// tile's scores before those of this tile's values, so that tensor cores work while weights are computed.
//
// A buffer is full when its bytes are there, and empty when every warpgroup is done with its products. Rows of a tile behind the
// last key hold what lies there: maps know the end of the tensor, not of the sequence. Such keys are hidden as others are.
#pragma once

#include "attention/ring.cuh"
#include "attention/rows.cuh"
#include "attention/warpgroup.cuh"

/// Where everything lies in shared memory.
template <class S>
struct WarpgroupMemory {
  static constexpr int kKeys = S::QueryTile::kSize;
  static constexpr int kPair = S::KeyTile::kSize + S::ValueTile::kSize;
  static constexpr int kBarriers = kKeys + S::kStages * kPair;
  static constexpr int kBytes = kBarriers + (1 + 4 * S::kStages) * 8;

  const uint32_t base;

  DEVICE uint32_t q_tile() const { return base; }
  DEVICE uint32_t k_tile(uint32_t stage) const { return base + kKeys + stage * kPair; }
  DEVICE uint32_t v_tile(uint32_t stage) const { return k_tile(stage) + S::KeyTile::kSize; }
  /// The bytes of a tile have arrived.
  DEVICE uint32_t q_full() const { return base + kBarriers; }
  DEVICE uint32_t k_full(uint32_t stage) const { return q_full() + 8 + stage * 32; }
  DEVICE uint32_t v_full(uint32_t stage) const { return k_full(stage) + 8; }
  /// Nobody reads a tile any more.
  DEVICE uint32_t k_empty(uint32_t stage) const { return k_full(stage) + 16; }
  DEVICE uint32_t v_empty(uint32_t stage) const { return k_full(stage) + 24; }
};

/// The key tiles of a block's work, from `begin` to `end`, and which of them have a pair that is hidden.
template <class S>
struct KeyTiles {
  int32_t begin, end, whole_from, whole_to;

  DEVICE KeyTiles(const Work& work, const Bands& bands) {
    // The first query sees the first of all keys, the last one the last.
    const int32_t last_query = min(work.first_query + S::kQueries, work.sequence.queries) - 1;
    const Interval early = bands.of(work.first_query), late = bands.of(last_query);
    begin = max(early.first / S::kKeys * S::kKeys, work.keys.first);
    end = early.first < late.end ? min(late.end, work.keys.end) : 0;
    whole_from = late.first;
    whole_to = early.end - S::kKeys;
  }
  DEVICE bool cut(int32_t key) const { return key < whole_from || key > whole_to; }
};

/// Starts all copies of a block. One thread must call.
template <class S>
DEVICE void copy_tiles(const AttentionForwardSm90aParams& p, const Work& work, const KeyTiles<S>& tiles, const WarpgroupMemory<S>& memory) {
  const AttentionCall& call = p.forward.call;
  const Sequence& sequence = work.sequence;
  const auto copy = [&](auto tile, uint32_t to, const AttentionMap& map, const AttentionMatrix& matrix, uint32_t head, int32_t row, uint32_t full) {
    barrier_expect(full, decltype(tile)::kSize);
    copy_tile<decltype(tile)>(to, map, matrix, sequence, head, row, full);
  };
  copy(typename S::QueryTile(), memory.q_tile(), p.q_map, call.q, sequence.head, sequence.first_query + work.first_query, memory.q_full());
  const uint32_t key_head = sequence.head / (call.sizes.heads / call.sizes.key_heads);
  Turn<S::kStages> turn;
#pragma unroll 1
  for (int32_t key = tiles.begin; key < tiles.end; key += S::kKeys) {
    const int32_t row = sequence.first_key + key;
    barrier_wait(memory.k_empty(turn.stage), turn.parity ^ 1);
    copy(typename S::KeyTile(), memory.k_tile(turn.stage), p.k_map, call.k, key_head, row, memory.k_full(turn.stage));
    barrier_wait(memory.v_empty(turn.stage), turn.parity ^ 1);
    copy(typename S::ValueTile(), memory.v_tile(turn.stage), p.v_map, call.v, key_head, row, memory.v_full(turn.stage));
    turn.advance();
  }
}

/// A warpgroup that multiplies.
template <class S>
class Multiplier {
  using T = typename S::T;
  using Scores = float[1][S::kKeys / 8][4];
  using Output = float[1][S::kHead / 8][4];

 public:
  DEVICE Multiplier(const AttentionForwardParams& p, const Work& work, const Bands& bands, const KeyTiles<S>& tiles, const WarpgroupMemory<S>& memory)
      : p(p), work(work), bands(bands), tiles(tiles), memory(memory) {}

  /// All threads that multiply must call.
  DEVICE void run() {
    Output output = {};
    RunningSoftmax<S> softmax;
    if (tiles.begin < tiles.end) walk(output, softmax);
    finish<S>(p, work.sequence, work.first_query, memory.q_tile(), output, softmax);
  }

 private:
  DEVICE void walk(Output& output, RunningSoftmax<S>& softmax) {
    const uint32_t q_rows = memory.q_tile() + threadIdx.x / 128 * (64 * S::QueryTile::kRowBytes);
    Turn<S::kStages> turn;
    Scores scores;
    float fade[2];
    barrier_wait(memory.q_full(), 0);
    barrier_wait(memory.k_full(turn.stage), turn.parity);
    keep_all(scores[0]);
    products_begin();
    start_scores_at(scores, q_rows, turn);
    products_wait<0>();
    keep_all(scores[0]);
    warpgroup_arrive(memory.k_empty(turn.stage));
    weigh(softmax, scores, fade, tiles.begin);
    Weights<S> weights(scores);
    if (tiles.cut(tiles.begin)) count_special(output, weights, turn);
#pragma unroll 1
    for (int32_t key = tiles.begin + S::kKeys; key < tiles.end; key += S::kKeys) {
      const Turn<S::kStages> now = turn;
      turn.advance();
      // Both before products begin: a wait between them would keep the weights' registers from the second ones.
      barrier_wait(memory.v_full(now.stage), now.parity);
      barrier_wait(memory.k_full(turn.stage), turn.parity);
      keep_all(scores[0]);
      begin_output(output, weights);
      start_scores_at(scores, q_rows, turn);
      start_output_at(output, weights, now);
      products_wait<1>();
      keep_all(scores[0]);
      warpgroup_arrive(memory.k_empty(turn.stage));
      const bool grown = weigh(softmax, scores, fade, key);
      products_wait<0>();
      keep_all(output[0]);
      warpgroup_arrive(memory.v_empty(now.stage));
      if (grown) softmax.scale(output, fade);
      weights = Weights<S>(scores);
      if (tiles.cut(key)) count_special(output, weights, turn);
    }
    barrier_wait(memory.v_full(turn.stage), turn.parity);
    begin_output(output, weights);
    start_output_at(output, weights, turn);
    products_wait<0>();
    keep_all(output[0]);
  }

  /// The last use of what the next products of weights and values read and write.
  static DEVICE void begin_output(Output& output, Weights<S>& weights) {
    keep_all(output[0]);
    keep_all(weights);
    products_begin();
  }

  DEVICE void start_scores_at(Scores& scores, uint32_t q_rows, const Turn<S::kStages>& turn) {
    start_scores<S>(scores, q_rows, memory.k_tile(turn.stage));
    products_commit();
  }
  DEVICE void start_output_at(Output& output, const Weights<S>& weights, const Turn<S::kStages>& turn) {
    start_output<S>(output, weights, memory.v_tile(turn.stage));
    products_commit();
  }

  DEVICE bool weigh(RunningSoftmax<S>& softmax, Scores& scores, float (&fade)[2], int32_t key) const {
    if (!tiles.cut(key)) return softmax.template weigh<false>(scores, fade, p.call.scores);
    hide_by_bands<S>(scores, bands, work.first_query, key);
    return softmax.template weigh<true>(scores, fade, p.call.scores);
  }

  /// Takes infinite and NaN values of a tile of which something is hidden out of it, and adds them where they are seen. All
  /// warpgroups come here for the same tiles.
  DEVICE void count_special(Output& output, const Weights<S>& weights, const Turn<S::kStages>& turn) const {
    const uint32_t v_tile = memory.v_tile(turn.stage);
    barrier_wait(memory.v_full(turn.stage), turn.parity);
    if (!meet_or<1, S::kThreads>(own_not_finite<T, typename S::ValueTile, S::kKeys, S::kThreads>(v_tile))) return;
    add_special<S>(output, weights, v_tile);
    meet<1, S::kThreads>();
    clear_own_special<T, typename S::ValueTile, S::kKeys, S::kThreads>(v_tile);
    writes_visible();
    meet<1, S::kThreads>();
  }

  const AttentionForwardParams& p;
  const Work& work;
  const Bands& bands;
  const KeyTiles<S>& tiles;
  const WarpgroupMemory<S>& memory;
};

/// One work item per block.
template <class S, int kCopierRegisters, int kMultiplierRegisters>
DEVICE void attention_forward_sm90a(const AttentionForwardSm90aParams& p) {
  extern __shared__ __align__(1024) unsigned char tiles_and_barriers[];
  const WarpgroupMemory<S> memory = {static_cast<uint32_t>(__cvta_generic_to_shared(tiles_and_barriers))};
  Work work;
  if (!find_work(p.forward, S::kQueries, work)) return;
  if (threadIdx.x == 0) {
    barrier_init(memory.q_full(), 1);
    for (uint32_t stage = 0; stage < S::kStages; ++stage) {
      barrier_init(memory.k_full(stage), 1);
      barrier_init(memory.v_full(stage), 1);
      barrier_init(memory.k_empty(stage), S::kWarpgroups);
      barrier_init(memory.v_empty(stage), S::kWarpgroups);
    }
    barriers_visible();
  }
  __syncthreads();
  const Bands bands(p.forward.call.mask, work.sequence);
  const KeyTiles<S> tiles(work, bands);
  if (threadIdx.x >= S::kThreads) {
    give_registers<kCopierRegisters>();
    if (tiles.begin < tiles.end && threadIdx.x < S::kThreads + 32 && elected()) copy_tiles<S>(p, work, tiles, memory);
  } else {
    take_registers<kMultiplierRegisters>();
    Multiplier<S>(p.forward, work, bands, tiles, memory).run();
  }
}

/// A kernel for rows of up to `head` elements.
#define ATTENTION_FORWARD_SM90A(name, T, head, warpgroups, keys, stages, copier, multiplier)                \
  extern "C" __global__ void __launch_bounds__(128 * (warpgroups + 1), 1)                                   \
      attention_forward_##name##_##head##_sm90a(const __grid_constant__ AttentionForwardSm90aParams p) {    \
    attention_forward_sm90a<WarpgroupShape<T, head, warpgroups, keys, stages>, copier, multiplier>(p);      \
  }
