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
#include "common/cross_entropy.cuh"
#include "common/entry.cuh"
#include "common/softmax_row.cuh"
#include "params/loss_fused.h"

/// Lanes of the largest kernel, the only one whose piece may hold less than a row.
constexpr int kMostLanes = 1024;

extern __shared__ uint4 stash[];

/// Keeps a piece in shared memory. Vectors of neighbouring threads are neighbours: no two of a quarter warp meet in a bank.
template <class Piece>
DEVICE void put(const Piece& x, uint32_t number) {
#pragma unroll
  for (int v = 0; v < Piece::kVectorCount; ++v) {
    stash[(number * Piece::kVectorCount + v) * kMostLanes + threadIdx.x] = {x.words[4 * v], x.words[4 * v + 1], x.words[4 * v + 2],
                                                                          x.words[4 * v + 3]};
  }
}

template <class Piece>
DEVICE void take(Piece& x, uint32_t number) {
#pragma unroll
  for (int v = 0; v < Piece::kVectorCount; ++v) {
    const uint4 words = stash[(number * Piece::kVectorCount + v) * kMostLanes + threadIdx.x];
    x.words[4 * v] = words.x, x.words[4 * v + 1] = words.y, x.words[4 * v + 2] = words.z, x.words[4 * v + 3] = words.w;
  }
}

template <class T, int kLanes, int kVectors>
DEVICE void cross_entropy_fused(const CrossEntropyFusedParams& params) {
  using Piece = RowPiece<T, kLanes, kVectors, false>;
  constexpr int kGroups = kThreads<kLanes> / kLanes;
  constexpr uint64_t kCapacity = uint64_t{kLanes} * Piece::kElements;
  constexpr bool kManyPieces = kLanes == kMostLanes;
  __shared__ MergeSlots<float, kLanes> for_max;
  __shared__ MergeSlots<WeightSum, kLanes> for_sum;
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
    // Before anybody writes the row.
    if (counts) logit = load_element<T, false>(p.logits.data, offset + static_cast<uint64_t>(target.value) * p.logits.stride);
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
        sum = sum.relative_to(Scores<T>(p.terms.temperature, largest_here).weight(max));
        max = largest_here;
      }
      const uint32_t length = counts ? length_of(piece) : 0;
      sum = add(sum, sum_of_weights(x, Scores<T>(p.terms.temperature, max), length, false, of_lane == max));
      if (kManyPieces && piece < params.stashed && piece + 1 < pieces) put(x, static_cast<uint32_t>(piece));
    }
    // Its shuffles do not order memory, so lanes of one warp do it themselves.
    if (kLanes <= 32 || counts) sum = row_reduce<kLanes>(sum, Sum(), for_sum);
    if (kLanes <= 32) __syncwarp();
    if (!exists) continue;

    RowLoss row = RowLoss::of_none(target);
    if (counts) {
      row = RowLoss::of(p.terms, SoftmaxState::of(max, sum), logit, class_weight(p.terms, static_cast<uint64_t>(target.value)));
    }
    if (lane == 0) row.store(p, position);

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
        const int mine = owned<kLanes, Piece::kElements>(static_cast<uint64_t>(target.value) - piece * kCapacity, lane, p.unit_log2);
#pragma unroll
        for (int i = 0; i < Piece::kElements; i += T::kPerWord) {
          if (i > 0 && i % T::kPerVector == 0 && Piece::ends_before(i, length)) break;
          const int last = i + T::kPerWord - 1;
          x.words[i / T::kPerWord] = T::pack(gradient.at(x.at(i), i == mine), gradient.at(x.at(last), last == mine));
        }
      }
      x.store(static_cast<char*>(params.output) + (position * classes + piece * kCapacity) * T::kBytes, length, lane, p.unit_log2,
              params.output_units != 0);
    }
  }
}

/// Blocks that a multiprocessor must be able to hold: 80 registers a thread, 64 for the largest blocks.
template <int kLanes>
constexpr int kBlocks = kLanes < 128 ? 6 : kLanes == 1024 ? 1 : 768 / kLanes;

#define CROSS_ENTROPY_FUSED(name, T, lanes, vectors)                                        \
  extern "C" __global__ void __launch_bounds__(kThreads<lanes>, kBlocks<lanes>)             \
      cross_entropy_fused_##name##_##lanes##x##vectors(const __grid_constant__ CrossEntropyFusedParams p) { \
    cross_entropy_fused<T, lanes, vectors>(p);                                              \
  }

FOR_EACH_DTYPE(CROSS_ENTROPY_FUSED, 8, 1)
FOR_EACH_DTYPE(CROSS_ENTROPY_FUSED, 32, 4)
FOR_EACH_DTYPE(CROSS_ENTROPY_FUSED, 256, 4)
FOR_EACH_DTYPE(CROSS_ENTROPY_FUSED, 1024, 4)
