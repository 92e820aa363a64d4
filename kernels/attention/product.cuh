// The two products of attention on tensor cores: scores = q k^T, and output += weights v.
//
// Sums have the layout of an mma's result: sums[t][j][e] of lane l is row 16 t + l / 4 + 8 (e / 2) of the warp's rows, column
// 8 j + 2 (l % 4) + e % 2. Weights enter the second product as they left the first: two neighbouring columns make a word of 16-bit
// elements, and for 32-bit elements, which an mma wants at columns l % 4 and l % 4 + 4, keys are numbered so that they fit.
#pragma once

#include "attention/copy.cuh"

/// An element as two that tensor cores multiply exactly: high + low is within 2^-24 of it. tf32 keeps 11 bits of each, and the
/// nearest high leaves 12 bits and a sign.
struct Halves {
  uint32_t high, low;

  DEVICE explicit Halves(uint32_t word) {
    const uint32_t magnitude = word & 0x7fffffffu;
    // From 2^127 on rounding up could become infinite.
    high = (word + (magnitude < 0x7f000000u ? 0x1000u : 0u)) & 0xffffe000u;
    const float rest = __fsub_rn(__uint_as_float(word), __uint_as_float(high));
    // An infinite or NaN element has nothing but its high part.
    low = magnitude < 0x7f800000u ? (__float_as_uint(rest) + 0x1000u) & 0xffffe000u : 0u;
  }
};

struct HalvesOfA {
  uint32_t high[4], low[4];

  DEVICE explicit HalvesOfA(const uint32_t (&words)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Halves halves(words[i]);
      high[i] = halves.high;
      low[i] = halves.low;
    }
  }
};

/// sum += a * b in f32, from three products of halves, the smallest first. What is left out is 2^-24 of a product.
DEVICE void multiply_add_halves(float (&sum)[4], const HalvesOfA& a, Halves b0, Halves b1) {
  multiply_add<F32>(sum, a.low, b0.high, b1.high);
  multiply_add<F32>(sum, a.high, b0.low, b1.low);
  multiply_add<F32>(sum, a.high, b0.high, b1.high);
}

/// sum += part, rounded to nearest.
DEVICE void add_part(float (&sum)[4], const float (&part)[4]) {
#pragma unroll
  for (int e = 0; e < 4; ++e) sum[e] = __fadd_rn(sum[e], part[e]);
}

/// The tiles of a kernel, and who multiplies what of them.
template <class Type, int kHeadSize, int kWarpCount, int kRowTileCount, int kKeyCount>
struct Shape {
  using T = Type;
  static constexpr int kHead = kHeadSize;          // columns of q, k and v, padded with zeros
  static constexpr int kWarps = kWarpCount;
  static constexpr int kRowTiles = kRowTileCount;  // of 16 queries, per warp
  static constexpr int kKeys = kKeyCount;          // rows of a key tile
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kWarpQueries = 16 * kRowTiles;
  static constexpr int kQueries = kWarpQueries * kWarps;
  static constexpr int kHeadBytes = kHead * T::kBytes;
  using QueryTile = Tile<kQueries, kHeadBytes>;
  using KeyTile = Tile<kKeys, kHeadBytes>;
  using ValueTile = Tile<kKeys, kHeadBytes, T::kBytes == 4>;
  /// The query tile, and twice a key tile with its value tile.
  static constexpr int kShared = QueryTile::kSize + 2 * (KeyTile::kSize + ValueTile::kSize);
  /// Elements that an mma sums over.
  static constexpr int kDepth = 32 / T::kBytes;
  /// Steps of so many elements that the first product unrolls.
  static constexpr int kDepthsAtOnce = T::kBytes == 2 ? 8 : 1;
};

/// One warp's part of scores = q k^T. All 32 lanes must call.
template <class S>
DEVICE void multiply_keys(float (&scores)[S::kRowTiles][S::kKeys / 8][4], uint32_t q_tile, uint32_t k_tile) {
  using T = typename S::T;
  const uint32_t lane = threadIdx.x % 32, matrix = lane / 8;
  const LaneAddress<typename S::QueryTile> q(q_tile, threadIdx.x / 32 * S::kWarpQueries + matrix % 2 * 8 + lane % 8, matrix / 2);
  const LaneAddress<typename S::KeyTile> k(k_tile, matrix / 2 * 8 + lane % 8, matrix % 2);
#pragma unroll
  for (int t = 0; t < S::kRowTiles; ++t) {
#pragma unroll
    for (int j = 0; j < S::kKeys / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) scores[t][j][e] = 0.0f;
    }
  }
#pragma unroll S::kDepthsAtOnce
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

/// Weights as the second product takes them: kWords times four words for each row tile.
template <class S>
struct Weights {
  static constexpr int kSteps = S::kKeys / S::kDepth;
  uint32_t words[S::kRowTiles][kSteps][4];

  /// From weights in the layout of sums, rounded to the element type.
  DEVICE explicit Weights(const float (&p)[S::kRowTiles][S::kKeys / 8][4]) {
    using T = typename S::T;
#pragma unroll
    for (int t = 0; t < S::kRowTiles; ++t) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if constexpr (T::kBytes == 2) {
            const float(&from)[4] = p[t][2 * step + i / 2];
            words[t][step][i] = T::pack(from[i % 2 * 2], from[i % 2 * 2 + 1]);
          } else {
            words[t][step][i] = __float_as_uint(p[t][step][i % 2 * 2 + i / 2]);
          }
        }
      }
    }
  }
};

/// Where a lane reads the value tile.
template <class S>
struct ValueAddress {
  LaneAddress<typename S::ValueTile> first;

  static DEVICE LaneAddress<typename S::ValueTile> of(uint32_t tile) {
    const uint32_t lane = threadIdx.x % 32, matrix = lane / 8;
    if constexpr (S::T::kBytes == 2) return {tile, matrix % 2 * 8 + lane % 8, matrix / 2};
    return {tile + lane / 4 % 4 * 4, lane % 4 * 2, lane / 16};
  }
  DEVICE explicit ValueAddress(uint32_t tile) : first(of(tile)) {}

  /// Operand b of step `step` over the keys for columns 16 `pair` to 16 `pair` + 15: words 0 and 1 for the first eight of them, words
  /// 2 and 3 for the others. All 32 lanes must call.
  DEVICE void load(uint32_t (&b)[4], int step, int pair) const {
    if constexpr (S::T::kBytes == 2) {
      load_transposed(b, first.step(16 * step, 2 * pair));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        b[i] = load_word(first.step(8 * step + i % 2, (4 * pair + i / 2 * 2) ^ (i % 2 * S::ValueTile::kOddTurn)));
      }
    }
  }
};

/// One warp's part of output += weights v. All 32 lanes must call.
template <class S>
DEVICE void multiply_values(float (&output)[S::kRowTiles][S::kHead / 8][4], const Weights<S>& weights, uint32_t v_tile) {
  using T = typename S::T;
  const ValueAddress<S> v(v_tile);
  if constexpr (T::kBytes == 2) {
#pragma unroll
    for (int step = 0; step < Weights<S>::kSteps; ++step) {
#pragma unroll
      for (int pair = 0; pair < S::kHead / 16; ++pair) {
        uint32_t b[4];
        v.load(b, step, pair);
#pragma unroll
        for (int t = 0; t < S::kRowTiles; ++t) {
          multiply_add<T>(output[t][2 * pair], weights.words[t][step], b[0], b[1]);
          multiply_add<T>(output[t][2 * pair + 1], weights.words[t][step], b[2], b[3]);
        }
      }
    }
  } else {
    static_assert(S::kRowTiles == 1);
    // Tensor cores cut off what does not fit into a sum. They add up one key tile, and the sum of tiles is rounded to nearest: over
    // thousands of keys the cuts would all go one way.
#pragma unroll
    for (int pair = 0; pair < S::kHead / 16; ++pair) {
      float part[2][4] = {};
#pragma unroll
      for (int step = 0; step < Weights<S>::kSteps; ++step) {
        uint32_t b[4];
        v.load(b, step, pair);
        const HalvesOfA halves(weights.words[0][step]);
        multiply_add_halves(part[0], halves, Halves(b[0]), Halves(b[1]));
        multiply_add_halves(part[1], halves, Halves(b[2]), Halves(b[3]));
      }
      add_part(output[0][2 * pair], part[0]);
      add_part(output[0][2 * pair + 1], part[1]);
    }
  }
}
