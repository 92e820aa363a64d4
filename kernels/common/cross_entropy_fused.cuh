// Cross-entropy and the gradient of its logits in one kernel: what one row needs stays on the multiprocessor, so a logit is read
// once and its gradient written once, perhaps over it.
//
//   loss and dx as in common/cross_entropy.cuh; nothing but the results is written
//
// The first half is that of the forward kernel: kLanes lanes share a row and go through it piece by piece. A row of one piece stays
// in registers. Of longer rows the last piece does; as many others as fit lie in shared memory, where every thread finds what it
// put there itself, so nobody waits; what is left is read a second time.
//
// In place, a row is written by the lanes that read it, after all of them have: the reduction of the row lies between.
#pragma once

#include "common/cross_entropy_dense.cuh"
#include "common/softmax_row.cuh"
#include "params/loss_fused.h"

extern __shared__ uint4 stash[];

/// Keeps a piece in shared memory. Vectors of neighbouring threads are neighbours: no two of a quarter warp meet in a bank.
template <class Piece>
DEVICE void put(const Piece& x, uint32_t number) {
#pragma unroll
  for (int v = 0; v < Piece::kVectorCount; ++v) {
    stash[(number * Piece::kVectorCount + v) * blockDim.x + threadIdx.x] = {x.words[4 * v], x.words[4 * v + 1], x.words[4 * v + 2],
                                                                          x.words[4 * v + 3]};
  }
}

template <class Piece>
DEVICE void take(Piece& x, uint32_t number) {
#pragma unroll
  for (int v = 0; v < Piece::kVectorCount; ++v) {
    const uint4 words = stash[(number * Piece::kVectorCount + v) * blockDim.x + threadIdx.x];
    x.words[4 * v] = words.x, x.words[4 * v + 1] = words.y, x.words[4 * v + 2] = words.z, x.words[4 * v + 3] = words.w;
  }
}

/// `kManyPieces`: the largest kernel, the only one whose piece may hold less than a row. `kDense`: every class may have a share of the
/// loss, and rows statistics (loss_dense.cu); probabilities and class weights are then read once for either half.
template <class T, int kLanes, int kVectors, bool kManyPieces, bool kDense>
DEVICE void cross_entropy_fused(const CrossEntropyFusedParams& params) {
  using Piece = RowPiece<T, kLanes, kVectors, false>;
  constexpr int kGroups = kThreads<kLanes> / kLanes;
  constexpr uint64_t kCapacity = uint64_t{kLanes} * Piece::kElements;
  __shared__ MergeSlots<float, kLanes> for_max;
  __shared__ MergeSlots<WeightSum, kLanes> for_sum;
  __shared__ MergeSlots<DenseWords, kLanes> for_dense;
  const CrossEntropyForwardParams& p = params.forward;
  const uint32_t lane = threadIdx.x % kLanes;
  const uint64_t classes = p.targets.classes;
  const uint64_t pieces = kManyPieces ? (classes + kCapacity - 1) / kCapacity : 1;
  const auto length_of = [&](uint64_t piece) {
    const uint64_t rest = classes - piece * kCapacity;
    return static_cast<uint32_t>(rest < kCapacity ? rest : kCapacity);
  };

  // All threads of a block take part in every round, those without a row with hidden logits: barriers and shuffles need them.
  for (uint64_t first = uint64_t{blockIdx.x} * kGroups; first < p.positions.count; first += uint64_t{gridDim.x} * kGroups) {
    const uint64_t position = first + threadIdx.x / kLanes;
    const bool exists = position < p.positions.count;
    Target target = {0, true, false};
    uint64_t offset = 0;
    if (exists) {
      target = load_target(p.targets, p.positions, position);
      offset = position_offset(p.positions, p.logits.strides, position);
    }
    const bool counts = target.counts();
    const auto load = [&](Piece& x, uint64_t piece) {
      const char* row = static_cast<const char*>(p.logits.data) + (offset + piece * kCapacity * p.logits.stride) * T::kBytes;
      x.load(row, p.logits.stride, length_of(piece), lane, p.unit_log2, p.logit_units != 0);
    };

    Piece x;
    float logit = 0.0f, max = -INFINITY;
    WeightSum sum = {};
    DenseSums dense = DenseSums::none();
    const Shares<T> shares(p.terms, p.probabilities, p.positions, position);
    const uint64_t value = static_cast<uint64_t>(target.value);
    // Before anybody writes the row.
    if (counts) logit = load_element<T, false>(p.logits.data, offset + value * p.logits.stride);
    for (uint64_t piece = 0; piece < pieces; ++piece) {
      // Where a row is the block's only one, all its threads may skip it.
      if (kLanes > 32 && !counts) break;
      x.fill(T::kMinusInfinity);
      if (counts) load(x, piece);
      // The sum's barrier comes only behind the last piece, so between two pieces the slots need one of their own.
      if (kManyPieces && piece > 0) __syncthreads();
      const float of_lane = largest<T>(x.words);
      const float largest_here = row_reduce<kLanes>(of_lane, Larger(), for_max);
      if (largest_here > max) {
        if constexpr (kDense) dense.move(Scores<T>(p.terms.temperature, largest_here), max, sum);
        sum = sum.relative_to(Scores<T>(p.terms.temperature, largest_here).weight(max));
        max = largest_here;
      }
      const uint32_t length = counts ? length_of(piece) : 0;
      sum = add(sum, sum_of_weights(x, Scores<T>(p.terms.temperature, max), length, false, of_lane == max));
      if constexpr (kDense) dense.add_piece<kLanes>(p, shares, x, piece * kCapacity, length, lane, max, logit, value);
      if (kManyPieces && piece < params.stashed && piece + 1 < pieces) put(x, static_cast<uint32_t>(piece));
    }
    // Its shuffles do not order memory, so lanes of one warp do it themselves.
    if (kLanes <= 32 || counts) {
      sum = row_reduce<kLanes>(sum, Sum(), for_sum);
      if constexpr (kDense) dense = row_reduce<kLanes>(DenseWords::of(dense), MergeDense(), for_dense).sums();
    }
    if (kLanes <= 32) __syncwarp();
    if (!exists) continue;

    RowLoss row = RowLoss::of_none(target);
    if (counts) {
      const SoftmaxState state = SoftmaxState::of(max, sum);
      if constexpr (kDense) {
        row = dense.row_loss(p, target, logit, shares.common, state);
      } else {
        row = RowLoss::of(p.terms, state, nll_of(p.terms, state, logit), class_weight(p.terms, value));
      }
    }
    if (lane == 0) {
      row.store(p, position);
      if constexpr (kDense) dense.store_statistics(p, target, logit, SoftmaxState::of(max, sum), position);
    }

    float upstream = 1.0f;
    if (params.upstream.data != nullptr) {
      const float* upstreams = static_cast<const float*>(params.upstream.data);
      upstream = __ldg(upstreams + position_offset(p.positions, params.upstream.strides, position));
    }
    if (params.weight != nullptr) upstream *= __ldg(params.weight);
    const RowGradient<T> gradient(p.terms.temperature, row.saved, upstream * params.scale, params.scale_rest);
    const bool has_gradient = counts && row.saved.counts();
    // The last piece first: it is still in registers.
    for (uint64_t left = pieces; left > 0; --left) {
      const uint64_t piece = left - 1;
      const uint32_t length = length_of(piece);
      if (!has_gradient) {
        x.fill(0);
      } else {
        if (kManyPieces && left < pieces) {
          if (piece < params.stashed) take(x, static_cast<uint32_t>(piece));
          else load(x, piece);
        }
        if constexpr (kDense) {
          replace_by_dense_gradients<kLanes>(x, gradient, shares, p.targets, target, piece * kCapacity, length, lane, p.unit_log2);
        } else {
          const int mine = owned<kLanes, Piece::kElements>(value - piece * kCapacity, lane, p.unit_log2);
          replace_by_gradients(x, gradient, mine, length);
        }
      }
      x.store(static_cast<char*>(params.output) + (position * classes + piece * kCapacity) * T::kBytes, length, lane, p.unit_log2,
              params.output_units != 0);
    }
  }
}
