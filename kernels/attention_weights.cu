// The weights of attention themselves: weight = exp(score - lse), from q, k and the lse of a forward call.
//
// Nobody adds anything up over keys, so every weight is computed by itself, and a block takes some queries and some keys. The queries'
// rows lie in shared memory, 64 columns to a tile; tiles of keys arrive 64 columns at a time in two buffers, one of which is filled while
// the other is multiplied. Scores have the bits that they have in the forward kernels: the same products in the same order.
//
// The work is bound by what it writes. Weights of a warp's rows are put together in shared memory and stored 16 bytes at a time.
#include "attention/mask.cuh"
#include "attention/product.cuh"
#include "attention/store.cuh"
#include "common/entry.cuh"
#include "params/attention_weights.h"

DEVICE float exp2_of(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

/// Tiles of 64 columns, whatever the head size.
template <class T>
using WeightsShape = Shape<T, 64, 4, T::kBytes == 2 ? 2 : 1, T::kBytes == 2 ? 64 : 32>;

/// One warp's part of scores += q k^T over the columns of a tile. All 32 lanes must call.
template <class S>
DEVICE void add_products(float (&scores)[S::kRowTiles][S::kKeys / 8][4], uint32_t q_tile, uint32_t k_tile) {
  using T = typename S::T;
  const uint32_t lane = threadIdx.x % 32, matrix = lane / 8;
  const LaneAddress<typename S::QueryTile> q(q_tile, threadIdx.x / 32 * S::kWarpQueries + matrix % 2 * 8 + lane % 8, matrix / 2);
  const LaneAddress<typename S::KeyTile> k(k_tile, matrix / 2 * 8 + lane % 8, matrix % 2);
#pragma unroll
  for (int depth = 0; depth < S::kHead / S::kDepth; ++depth) {
    uint32_t a[S::kRowTiles][4];
#pragma unroll
    for (int t = 0; t < S::kRowTiles; ++t) load_matrices(a[t], q.step(16 * t, 2 * depth));
#pragma unroll
    for (int j = 0; j < S::kKeys / 8; j += 2) {
      uint32_t b[4];
      load_matrices(b, k.step(8 * j, 2 * depth));
#pragma unroll
      for (int t = 0; t < S::kRowTiles; ++t) {
        if constexpr (T::kBytes == 2) {
          multiply_add<T>(scores[t][j], a[t], b[0], b[1]);
          multiply_add<T>(scores[t][j + 1], a[t], b[2], b[3]);
        } else {
          const HalvesOfA halves(a[t]);
          float part[2][4] = {};
          multiply_add_halves(part[0], halves, Halves(b[0]), Halves(b[1]));
          multiply_add_halves(part[1], halves, Halves(b[2]), Halves(b[3]));
          add_part(scores[t][j], part[0]);
          add_part(scores[t][j + 1], part[1]);
        }
      }
    }
  }
}

/// The score of a visible pair from its product: bias, slopes and cap as the forward kernels apply them; -inf where it is hidden.
DEVICE float score_of(float product, const AttentionScores& scores, const Pairs& pairs, int32_t query, int32_t key) {
  if (scores.change == 0) return product;
  float score = __fmul_rn(product, scores.factor);
  if (scores.bias.data != nullptr) {
    const float bias = pairs.bias(query, key), sum = __fadd_rn(score, bias);
    if (bias == -INFINITY) return bias;
    // A cap makes a number of every other -inf.
    score = sum == -INFINITY && scores.cap > 0.0f ? -0x1.fffffep127f : sum;
  }
  if (scores.slopes != nullptr && score != -INFINITY) score = __fmaf_rn(-pairs.slope(), pairs.distance(query, key), score);
  if (scores.cap > 0.0f) score = capped(score, scores.cap);
  return score;
}

/// One query tile of one head, and up to ATTENTION_WEIGHTS_TILES key tiles.
template <class S>
class WeightsOf {
  using T = typename S::T;
  using Scores = float[S::kRowTiles][S::kKeys / 8][4];
  using OutTile = Tile<S::kQueries, S::kKeys * T::kBytes>;
  static constexpr int kTileKeys = S::kKeys;

 public:
  DEVICE WeightsOf(const AttentionWeightsParams& p, uint64_t item) : p(p), call(p.call) {
    const uint64_t of_tile = item / p.key_spans, of_head = of_tile / p.query_tiles;
    first_key = static_cast<uint32_t>(item % p.key_spans) * (ATTENTION_WEIGHTS_TILES * kTileKeys);
    first_row = static_cast<uint32_t>(of_tile % p.query_tiles) * S::kQueries;
    sequence.head = static_cast<uint32_t>(of_head % call.sizes.heads);
    sequence.be_whole(call, static_cast<uint32_t>(of_head / call.sizes.heads));
    chunks = (call.sizes.head_size + S::kHead - 1) / S::kHead;
    k_tiles = shared_base() + chunks * S::QueryTile::kSize;
    out_tile = k_tiles + 2 * S::KeyTile::kSize;
  }

  /// All threads of the block must call. Contains a barrier per key tile and 64 columns.
  DEVICE void run() {
    const int32_t key_end = min(first_key + ATTENTION_WEIGHTS_TILES * kTileKeys, sequence.keys);
    const uint32_t key_head = sequence.head / (call.sizes.heads / call.sizes.key_heads);
    const Rows q = rows_of<T>(call.q, sequence, sequence.head, 0, call.sizes.head_size);
    const Rows k = rows_of<T>(call.k, sequence, key_head, 0, call.sizes.head_size);
    for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
      load_tile<T, typename S::QueryTile, S::kQueries, S::kThreads>(
          shared_base() + chunk * S::QueryTile::kSize, columns(q, chunk), p.first_query + first_row, p.first_query + p.queries);
    }
    const auto load_keys = [&](int32_t key, uint32_t chunk, uint32_t buffer) {
      load_tile<T, typename S::KeyTile, S::kKeys, S::kThreads>(k_tiles + buffer * S::KeyTile::kSize, columns(k, chunk), key, sequence.key_end);
    };
    load_keys(first_key, 0, 0);
    copies_commit();

    Scores scores = {};
    uint32_t chunk = 0, buffer = 0;
    for (int32_t key = first_key; key < key_end; buffer ^= 1) {
      const bool whole = chunk + 1 == chunks;
      const int32_t next_key = whole ? key + kTileKeys : key;
      const uint32_t next_chunk = whole ? 0 : chunk + 1;
      copies_wait<0>();
      // Behind this barrier the tile is complete, and everybody is done with the other buffer.
      __syncthreads();
      if (next_key < key_end) load_keys(next_key, next_chunk, buffer ^ 1);
      copies_commit();
      add_products<S>(scores, shared_base() + chunk * S::QueryTile::kSize, k_tiles + buffer * S::KeyTile::kSize);
      if (whole) {
        finish(scores, key);
#pragma unroll
        for (int t = 0; t < S::kRowTiles; ++t) {
#pragma unroll
          for (int j = 0; j < S::kKeys / 8; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) scores[t][j][e] = 0.0f;
          }
        }
      }
      key = next_key;
      chunk = next_chunk;
    }
  }

 private:
  /// 64 columns of rows.
  static DEVICE Rows columns(const Rows& rows, uint32_t chunk) {
    return {rows.first + chunk * S::kHeadBytes, rows.stride, rows.bytes - chunk * S::kHeadBytes, rows.vectors};
  }

  /// Turns the scores of the tile at `key` into weights, and stores those that are wanted.
  DEVICE void finish(Scores& scores, int32_t key) const {
    const Pairs pairs(call, sequence);
    const Bands bands(call.mask, sequence);
#pragma unroll
    for (int row = 0; row < 2 * S::kRowTiles; ++row) {
      const int32_t tile_row = threadIdx.x / 32 * S::kWarpQueries + row / 2 * 16 + row % 2 * 8 + threadIdx.x % 32 / 4;
      const int32_t own = first_row + tile_row, query = p.first_query + own;
      const bool wanted = own < static_cast<int32_t>(p.queries);
      // The lse in base 2, in two parts: of a large one every digit counts.
      Pair lse = {0.0f, 0.0f};
      if (wanted) {
        const float natural = __ldg(p.lse + sequence.batch * p.lse_batch + sequence.head * p.lse_head + static_cast<uint32_t>(query) * p.lse_row);
        lse = two_product(natural, 0x1.715476p+0f);
        lse.low = __fmaf_rn(natural, 0x1.4ae0cp-26f, lse.low);
      }
      const Interval visible = bands.of(query);
#pragma unroll
      for (int column = 0; column < S::kKeys / 4; ++column) {
        const int32_t at = key + column / 2 * 8 + column % 2 + threadIdx.x % 4 * 2;
        float& score = scores[row / 2][column / 2][row % 2 * 2 + column % 2];
        const bool shown = wanted && at >= visible.first && at < visible.end && (!pairs.masked() || pairs.visible(query, at));
        const float changed = shown ? score_of(score, call.scores, pairs, query, at) : -INFINITY;
        const float weight = exp2_of(__fsub_rn(__fmaf_rn(changed, call.scores.log2_factor, -lse.high), lse.low));
        // An lse that was rounded may be too small for the largest score. NaN stays NaN.
        score = changed == -INFINITY ? 0.0f : weight > 1.0f ? 1.0f : weight;
      }
    }
    const AttentionMatrix& out = p.out;
    const uint64_t first = sequence.batch * out.batch + sequence.head * out.head + static_cast<uint32_t>(key);
    const uint32_t bytes = min(static_cast<uint32_t>(sequence.keys - key), uint32_t{kTileKeys}) * T::kBytes;
    const Rows rows = {static_cast<const char*>(out.data) + first * T::kBytes, out.row * T::kBytes, bytes, out.vectors != 0};
    store_sums<T, OutTile>(scores, 1.0f, out_tile, rows, first_row, p.queries);
  }

  const AttentionWeightsParams& p;
  const AttentionCall& call;
  Sequence sequence;
  int32_t first_key, first_row;
  uint32_t chunks, k_tiles, out_tile;
};

#define ATTENTION_WEIGHTS(name, T, ...)                                                                              \
  extern "C" __global__ void __launch_bounds__(128, 2) attention_weights_##name(const __grid_constant__ AttentionWeightsParams p) { \
    const uint64_t item = (uint64_t{blockIdx.z} * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;                   \
    const uint64_t heads = uint64_t{p.call.sizes.batch} * p.call.sizes.heads;                                          \
    if (item < heads * p.query_tiles * p.key_spans) WeightsOf<WeightsShape<T>>(p, item).run();                         \
  }

FOR_EACH_DTYPE(ATTENTION_WEIGHTS)
