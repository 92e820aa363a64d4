// Cross-entropy whose classes run across memory, as in the segmentation of images [N, classes, H, W]: neighbouring threads take
// neighbouring positions, so every sector that is read or written is used whole. The formulae are those of loss.cu and, with
// kDense, of loss_dense.cu. Nothing but the results is written.
//
// Forward, a thread walks through all classes of its position, kDepth of them in registers at a time, each time with a maximum of
// their own: no thread waits for another. Longer rows are left to the row kernels, which take any stride (src/plan/loss.rs).
// Backward, it walks through SUMEXP_LOSS_COLUMN_PIECE of them.
#include "common/cross_entropy_dense.cuh"
#include "common/entry.cuh"

/// Classes that a thread holds at a time.
constexpr int kDepth = 8;

template <class T, bool kDense>
DEVICE void cross_entropy_forward_columns(const CrossEntropyForwardParams& p) {
  const uint64_t classes = p.targets.classes;
  const bool with_shares = kDense && (p.probabilities.operand.data != nullptr || p.terms.on_each != 0.0f);
  for (uint64_t position = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; position < p.positions.count;
       position += uint64_t{gridDim.x} * blockDim.x) {
    const Target target = load_target(p.targets, p.positions, position);
    if (!target.counts()) {
      RowLoss::of_none(target).store(p, position);
      DenseSums::none().store_statistics(p, target, 0.0f, SoftmaxState{}, position);
      continue;
    }
    const uint64_t offset = position_offset(p.positions, p.logits.strides, position);
    const uint64_t value = static_cast<uint64_t>(target.value);
    const float logit = load_element<T>(p.logits.data, offset + value * p.logits.stride);
    const Shares<T> shares(p.terms, p.probabilities, p.positions, position);
    float max = -INFINITY;
    WeightSum sum = {};
    DenseSums dense = DenseSums::none();
    for (uint64_t begin = 0; begin < classes; begin += kDepth) {
      float x[kDepth];
#pragma unroll
      for (int i = 0; i < kDepth; ++i) {
        x[i] = begin + i < classes ? load_element<T>(p.logits.data, offset + (begin + i) * p.logits.stride) : -INFINITY;
      }
      float largest_here = x[0];
#pragma unroll
      for (int i = 1; i < kDepth; ++i) largest_here = fmaxf(largest_here, x[i]);
      if (largest_here > max) {
        const Scores<T> scores(p.terms.temperature, largest_here);
        if (kDense) dense.move(scores, max, sum);
        sum = sum.relative_to(scores.weight(max));
        max = largest_here;
      }
      const Scores<T> scores(p.terms.temperature, max);
      float ties = 0.0f;
      const float below = tree_sum<kDepth>([&](int i) {
        const float weight = scores.weight(x[i]);
        ties += weight == 1.0f ? 1.0f : 0.0f;
        return weight == 1.0f ? 0.0f : weight;
      });
      sum = add(sum, WeightSum::of(below, ties));
      if constexpr (!kDense) continue;
      if (with_shares) {
        float of[kDepth];
#pragma unroll
        for (int i = 0; i < kDepth; ++i) of[i] = begin + i < classes ? shares.of(begin + i) : 0.0f;
        dense.add_shares(scores, x, of);
      }
      if (p.statistics.nll != nullptr) {
        dense.add_statistics(scores, x, [&](int i) { return begin + i; }, classes, max, logit, value);
      }
    }
    const SoftmaxState state = SoftmaxState::of(max, sum);
    if constexpr (kDense) {
      dense.row_loss(p, target, logit, shares.common, state).store(p, position);
      dense.store_statistics(p, target, logit, state, position);
    } else {
      RowLoss::of(p.terms, state, nll_of(p.terms, state, logit), class_weight(p.terms, value)).store(p, position);
    }
  }
}

template <class T, bool kDense>
DEVICE void cross_entropy_backward_columns(const CrossEntropyBackwardParams& p) {
  constexpr uint64_t kPiece = SUMEXP_LOSS_COLUMN_PIECE;
  const uint64_t items = p.positions.count * p.pieces;
  for (uint64_t item = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; item < items; item += uint64_t{gridDim.x} * blockDim.x) {
    const uint64_t piece = item / p.positions.count;
    const uint64_t position = item - piece * p.positions.count;
    const uint64_t end = (piece + 1) * kPiece < p.targets.classes ? (piece + 1) * kPiece : p.targets.classes;
    const Target target = load_target(p.targets, p.positions, position);
    const LossState saved = LossState::load(p.states, p.positions.count, position);
    const bool counts = target.counts() && saved.counts();
    const RowGradient<T> gradient = row_gradient<T>(p, saved, position);
    const Shares<T> shares(p.terms, p.probabilities, p.positions, position);
    const bool has_class = p.targets.type != TARGETS_NONE;
    const uint64_t offset = position_offset(p.positions, p.logits.strides, position);
    const uint64_t outer = position / p.inner;
    const uint64_t to = outer * p.targets.classes * p.inner + (position - outer * p.inner);
    for (uint64_t i = piece * kPiece; i < end; ++i) {
      float result = 0.0f;
      if (counts) {
        const float logit = load_element<T>(p.logits.data, offset + i * p.logits.stride);
        const bool is_target = has_class && i == static_cast<uint64_t>(target.value);
        result = kDense ? gradient.at(logit, is_target, shares.of(i) * shares.common) : gradient.at(logit, is_target);
      }
      const uint32_t word = T::pack(result, result);
      if constexpr (T::kBytes == 4) {
        static_cast<uint32_t*>(p.output)[to + i * p.inner] = word;
      } else {
        static_cast<uint16_t*>(p.output)[to + i * p.inner] = static_cast<uint16_t>(word);
      }
    }
  }
}

#define CROSS_ENTROPY_COLUMNS(name, T, prefix, dense)                                                        \
  extern "C" __global__ void __launch_bounds__(256, 2)                                                        \
      prefix##_forward_##name##_columns(const __grid_constant__ CrossEntropyForwardParams p) {               \
    cross_entropy_forward_columns<T, dense>(p);                                                              \
  }                                                                                                          \
  extern "C" __global__ void __launch_bounds__(256, 4)                                                        \
      prefix##_backward_##name##_columns(const __grid_constant__ CrossEntropyBackwardParams p) {             \
    cross_entropy_backward_columns<T, dense>(p);                                                             \
  }

FOR_EACH_DTYPE(CROSS_ENTROPY_COLUMNS, cross_entropy, false)
FOR_EACH_DTYPE(CROSS_ENTROPY_COLUMNS, cross_entropy_dense, true)
