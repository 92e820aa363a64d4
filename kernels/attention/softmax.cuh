// The softmax of a query's scores, one key tile after the other.
#pragma once

#include "attention/special.cuh"
#include "common/exact.cuh"
#include "params/attention.h"

DEVICE float exp2_of(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

/// exp2(below * log2_factor), for f32 within 0.7 units in the last place, since the hardware's exponential is off by two of them, and the
/// rounded factor by more where weights are small; else what the hardware gives. `kAbove` says that `below` may be above 0; from 2^100 on
/// an f32 weight is that.
template <class T, bool kAbove = false>
DEVICE float weight_of(float below, const AttentionScores& scores) {
  if constexpr (T::kBytes == 2) return exp2_of(__fmul_rn(below, scores.log2_factor));
  Pair exponent = two_product(below, scores.log2_factor);
  if (kAbove && exponent.high > 100.0f) exponent.high = 100.0f;
  return __fmul_rn(exp2_times_2_24(exponent.high, __fmaf_rn(below, scores.log2_factor_low, exponent.low)), 0x1p-24f);
}

/// Maximum and sum over the four lanes that share a row of sums. All 32 lanes must call; all four get the same bits.
DEVICE float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}
DEVICE float quad_sum(float value) {
  value = __fadd_rn(value, __shfl_xor_sync(0xffffffffu, value, 1));
  return __fadd_rn(value, __shfl_xor_sync(0xffffffffu, value, 2));
}

/// The running softmax of the queries of one warp, in the layout of sums: index 2 t + h is row 16 t + l / 4 + 8 h.
///
/// Weights are exp2((score - max) * factor) relative to the largest score so far. score - max comes first: the weight of the maximum
/// is exactly 1, and scores of any size lose nothing. Every step is one of a row's own numbers, so a tile without a visible key changes
/// no bit: it may be skipped.
template <class S>
struct RunningSoftmax {
  static constexpr int kRows = 2 * S::kRowTiles;
  float max[kRows];
  /// Of the lane's own columns.
  float sum[kRows];

  DEVICE RunningSoftmax() {
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      max[row] = -INFINITY;
      sum[row] = 0.0f;
    }
  }

  /// Turns the scores of a tile into weights, and says by what sums of earlier tiles fade; false if by nothing. Where `kMixed`, hidden
  /// scores are -inf and get kHiddenWeight. All 32 lanes must call; all get the same answer.
  template <bool kMixed>
  DEVICE bool weigh(float (&scores)[S::kRowTiles][S::kKeys / 8][4], float (&fade)[kRows], const AttentionScores& how) {
    bool grown = false;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const int t = row / 2, e = row % 2 * 2;
      float largest = max[row];
#pragma unroll
      for (int j = 0; j < S::kKeys / 8; ++j) largest = fmaxf(fmaxf(largest, scores[t][j][e]), scores[t][j][e + 1]);
      largest = quad_max(largest);
      // A row without any visible key is measured from 0: (-inf) - (-inf) never happens.
      const float origin = largest == -INFINITY ? 0.0f : largest;
      fade[row] = weight_of<typename S::T>(__fsub_rn(max[row], origin), how);
      grown |= fade[row] != 1.0f;
      max[row] = largest;
      float of_tile = 0.0f;
#pragma unroll
      for (int j = 0; j < S::kKeys / 8; ++j) {
#pragma unroll
        for (int i = e; i < e + 2; ++i) {
          const float score = scores[t][j][i];
          float weight = weight_of<typename S::T>(__fsub_rn(score, origin), how);
          if (kMixed && score == -INFINITY) weight = kHiddenWeight;
          scores[t][j][i] = weight;
          of_tile = __fadd_rn(of_tile, weight);
        }
      }
      sum[row] = __fmaf_rn(sum[row], fade[row], of_tile);
    }
    // Times 1 is no change, so rows do not depend on each other through this vote.
    return __any_sync(0xffffffffu, grown);
  }

  /// Brings sums of weights times values to the new maximum.
  static DEVICE void scale(float (&output)[S::kRowTiles][S::kHead / 8][4], const float (&fade)[kRows]) {
#pragma unroll
    for (int t = 0; t < S::kRowTiles; ++t) {
#pragma unroll
      for (int j = 0; j < S::kHead / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) output[t][j][e] = __fmul_rn(output[t][j][e], fade[2 * t + e / 2]);
      }
    }
  }

  /// Both.
  template <bool kMixed>
  DEVICE void add(float (&scores)[S::kRowTiles][S::kKeys / 8][4], float (&output)[S::kRowTiles][S::kHead / 8][4], const AttentionScores& how) {
    float fade[kRows];
    if (weigh<kMixed>(scores, fade, how)) scale(output, fade);
  }
};
