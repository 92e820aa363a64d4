// Cross-entropy in which every class has a share of the loss (label smoothing, probability targets), or whose rows are described
// by statistics. Probabilities are never written; the formulae are in common/cross_entropy.cuh and common/cross_entropy_dense.cuh.
//
// Rows lie in lanes as in loss.cu: shared by kLanes lanes, read once, piece by piece, each piece with a maximum of its own. What
// a piece adds (shares and their distances from the maximum, the entropy, the classes ahead of the target) is computed from the
// elements in registers, 16 bytes of them at a time beside 16 bytes of probabilities. Lanes add up what they have once per row.
//
// Gradients take no reduction: forward leaves the sums that they need.
#include "common/cross_entropy_dense.cuh"
#include "common/entry.cuh"
#include "common/softmax_row.cuh"

/// Lanes of the largest kernels, the only ones whose piece may hold less than a row.
constexpr int kMostLanes = 512;

template <class T, int kLanes, int kVectors>
DEVICE void cross_entropy_dense_forward(const CrossEntropyForwardParams& p) {
  using Piece = RowPiece<T, kLanes, kVectors>;
  constexpr int kGroups = kThreads<kLanes> / kLanes;
  constexpr uint64_t kCapacity = uint64_t{kLanes} * Piece::kElements;
  constexpr bool kManyPieces = kLanes == kMostLanes;
  __shared__ MergeSlots<float, kLanes> for_max;
  __shared__ MergeSlots<WeightSum, kLanes> for_sum;
  __shared__ MergeSlots<DenseWords, kLanes> for_dense;
  const uint32_t lane = threadIdx.x % kLanes;
  const uint64_t classes = p.targets.classes;

  // All threads of a block take part in every round, those without a row with hidden logits: barriers and shuffles need them.
  for (uint64_t begin_row = uint64_t{blockIdx.x} * kGroups; begin_row < p.positions.count; begin_row += uint64_t{gridDim.x} * kGroups) {
    const uint64_t position = begin_row + threadIdx.x / kLanes;
    Target target = {0, true, false};
    uint64_t offset = 0;
    if (position < p.positions.count) {
      target = load_target(p.targets, p.positions, position);
      offset = position_offset(p.positions, p.logits.strides, position);
    }
    const uint32_t counts = target.counts();
    const Shares<T> shares(p.terms, p.probabilities, p.positions, position);
    const uint64_t value = static_cast<uint64_t>(target.value);
    const float logit = counts ? load_element<T>(p.logits.data, offset + value * p.logits.stride) : 0.0f;

    float max = -INFINITY;
    WeightSum sum = {};
    DenseSums dense = DenseSums::none();
    for (uint64_t begin = 0; begin < classes; begin += kCapacity) {
      // Where a row is the block's only one, all its threads may skip it.
      if (kLanes > 32 && !counts) break;
      const uint64_t rest = classes - begin;
      const uint32_t length = counts ? static_cast<uint32_t>(rest < kCapacity ? rest : kCapacity) : 0;
      Piece x;
      x.fill(T::kMinusInfinity);
      x.load(static_cast<const char*>(p.logits.data) + (offset + begin * p.logits.stride) * T::kBytes, p.logits.stride, length,
             lane, p.unit_log2, p.logit_units != 0);
      // The sums' barriers come only behind the last piece, so between two pieces the slots need one of their own.
      if (kManyPieces && begin > 0) __syncthreads();
      const float of_lane = largest<T>(x.words);
      const float largest_here = row_reduce<kLanes>(of_lane, Larger(), for_max);
      if (largest_here > max) {
        const Scores<T> scores(p.terms.temperature, largest_here);
        dense.move(scores, max, sum);
        sum = sum.relative_to(scores.weight(max));
        max = largest_here;
      }
      sum = add(sum, sum_of_weights(x, Scores<T>(p.terms.temperature, max), length, false, of_lane == max));
      dense.add_piece<kLanes>(p, shares, x, begin, length, lane, max, logit, value);
    }
    if (kLanes <= 32 || counts) {
      sum = row_reduce<kLanes>(sum, Sum(), for_sum);
      dense = row_reduce<kLanes>(DenseWords::of(dense), MergeDense(), for_dense).sums();
    }

    if (lane != 0 || position >= p.positions.count) continue;
    const SoftmaxState state = SoftmaxState::of(max, sum);
    (counts ? dense.row_loss(p, target, logit, shares.common, state) : RowLoss::of_none(target)).store(p, position);
    dense.store_statistics(p, target, logit, state, position);
  }
}

/// Classes along the last dim: a piece of a row per group of lanes. There is nothing to combine, so no lane waits for another.
template <class T, int kLanes, int kVectors>
DEVICE void cross_entropy_dense_backward(const CrossEntropyBackwardParams& p) {
  using Piece = RowPiece<T, kLanes, kVectors>;
  constexpr int kGroups = kThreads<kLanes> / kLanes;
  constexpr uint64_t kCapacity = uint64_t{kLanes} * Piece::kElements;
  const uint32_t lane = threadIdx.x % kLanes;
  const uint64_t items = p.positions.count * p.pieces;
  for (uint64_t first = uint64_t{blockIdx.x} * kGroups; first < items; first += uint64_t{gridDim.x} * kGroups) {
    const uint64_t item = first + threadIdx.x / kLanes;
    if (item >= items) break;
    const uint64_t position = p.pieces == 1 ? item : item / p.pieces;
    const uint64_t begin = (item - position * p.pieces) * kCapacity;
    const uint64_t rest = p.targets.classes - begin;
    const uint32_t length = static_cast<uint32_t>(rest < kCapacity ? rest : kCapacity);
    const Target target = load_target(p.targets, p.positions, position);
    const LossState saved = LossState::load(p.states, p.positions.count, position);
    Piece x;
    x.fill(0);
    if (target.counts() && saved.counts()) {
      const RowGradient<T> gradient = row_gradient<T>(p, saved, position);
      const Shares<T> shares(p.terms, p.probabilities, p.positions, position);
      const uint64_t offset = position_offset(p.positions, p.logits.strides, position);
      x.load(static_cast<const char*>(p.logits.data) + (offset + begin * p.logits.stride) * T::kBytes, p.logits.stride, length,
             lane, p.unit_log2, p.logit_units != 0);
      replace_by_dense_gradients<kLanes>(x, gradient, shares, p.targets, target, begin, length, lane, p.unit_log2);
    }
    x.store(static_cast<char*>(p.output) + (position * p.targets.classes + begin) * T::kBytes, length, lane, p.unit_log2,
            p.output_units != 0);
  }
}

/// Blocks that a multiprocessor must be able to hold: 128 registers a thread.
template <int kLanes>
constexpr int kBlocks = 512 / kThreads<kLanes>;

// kLanes x kVectors x 16 bytes is a piece. Rows of the largest kernels may have many.
#define CROSS_ENTROPY_DENSE(name, T, lanes, vectors)                                                                  \
  extern "C" __global__ void __launch_bounds__(kThreads<lanes>, kBlocks<lanes>)                                       \
      cross_entropy_dense_forward_##name##_##lanes##x##vectors(const __grid_constant__ CrossEntropyForwardParams p) { \
    cross_entropy_dense_forward<T, lanes, vectors>(p);                                                                \
  }                                                                                                                   \
  extern "C" __global__ void __launch_bounds__(kThreads<lanes>, kBlocks<lanes>)                                       \
      cross_entropy_dense_backward_##name##_##lanes##x##vectors(const __grid_constant__ CrossEntropyBackwardParams p) { \
    cross_entropy_dense_backward<T, lanes, vectors>(p);                                                               \
  }

FOR_EACH_DTYPE(CROSS_ENTROPY_DENSE, 8, 1)
FOR_EACH_DTYPE(CROSS_ENTROPY_DENSE, 32, 4)
FOR_EACH_DTYPE(CROSS_ENTROPY_DENSE, 512, 2)
