// Divergence of two rows of logits: Kullback-Leibler in either direction, and generalised Jensen-Shannon.
//
//   KL(p || q) = sum of p * ln(p / q)      JS = beta * KL(p || m) + (1 - beta) * KL(q || m),  m = beta * p + (1 - beta) * q
//
// p and q are the softmax of the two rows. Neither they nor their logarithms are written, and nothing of the kind is read: a
// row's probabilities exist only in the lane that has its logits, as does m, whose logarithm comes from ln(p / q) and never from m.
//
// A row is shared by kLanes lanes, which hold the same elements of either operand (common/row.cuh). The two states are found
// first, then the terms are added up (common/divergence.cuh says why they are never negative). A row that fits in a piece stays
// in registers in between and is read once; longer ones are read twice, piece by piece.
#include "common/divergence.cuh"
#include "common/entry.cuh"
#include "params/loss_divergence.h"

/// Lanes of the largest kernel, the only one whose piece may hold less than a row.
constexpr int kMostLanes = 512;

/// Blocks that a multiprocessor must be able to hold: 80 registers a thread, more for the largest blocks. The work is arithmetic.
template <int kLanes>
constexpr int kBlocks = kLanes <= 128 ? 6 : 1;

/// The lane's part of the sum of terms; `term` takes the logits of an entry in either row. Contains no barrier.
template <class T, class Piece, class F>
DEVICE void add_terms(double& sum, const Piece& x, const Piece& y, uint32_t length, F term) {
#pragma unroll
  for (int v = 0; v < Piece::kVectorCount; ++v) {
    // Vectors behind the end of the row hold nothing but hidden logits.
    if (v > 0 && Piece::ends_before(v * T::kPerVector, length)) break;
    accumulate(sum, tree_sum<T::kPerVector>([&](int i) { return term(x.at(i), y.at(i)); }, v * T::kPerVector));
  }
}

template <class T, class Piece>
DEVICE void add_divergence(double& sum, const Couple<T>& couple, float inverse_first, float inverse_second,
                           const DivergenceForwardParams& p, const Piece& x, const Piece& y, uint32_t length) {
  if (p.kind == DIVERGENCE_JENSEN_SHANNON) {
    add_terms<T>(sum, x, y, length, [&](float x, float y) {
      const float first = couple.first.weight(x) * inverse_first, second = couple.second.weight(y) * inverse_second;
      const float mean = __fmaf_rn(p.beta, first, p.one_minus_beta * second);
      const Mixture log = Mixture::of(couple.log_ratio(x, y), p.beta, p.one_minus_beta);
      return __fmaf_rn(p.beta, divergence_term(first, mean, log.log_first),
                       p.one_minus_beta * divergence_term(second, mean, log.log_second));
    });
  } else {
    add_terms<T>(sum, x, y, length, [&](float x, float y) {
      const float first = couple.first.weight(x) * inverse_first, second = couple.second.weight(y) * inverse_second;
      const float term = divergence_term(first, second, couple.log_ratio(x, y));
      // However small a probability is, it is too much where the other is 0.
      return x != -INFINITY && y == -INFINITY ? term + INFINITY : term;
    });
  }
}

template <class T, int kLanes, int kVectors>
DEVICE void divergence_forward(const DivergenceForwardParams& p) {
  using Piece = RowPiece<T, kLanes, kVectors>;
  constexpr int kGroups = kThreads<kLanes> / kLanes;
  constexpr uint64_t kCapacity = uint64_t{kLanes} * Piece::kElements;
  constexpr bool kManyPieces = kLanes == kMostLanes;
  __shared__ MergeSlots<float, kLanes> for_first_max, for_second_max;
  __shared__ MergeSlots<WeightSum, kLanes> for_first_sum, for_second_sum;
  __shared__ MergeSlots<double, kLanes> for_total;
  const uint32_t lane = threadIdx.x % kLanes;

  // All threads of a block take part in every round, those without a row with hidden logits: barriers and shuffles need them.
  for (uint64_t row = uint64_t{blockIdx.x} * kGroups; row < p.positions.count; row += uint64_t{gridDim.x} * kGroups) {
    const uint64_t position = row + threadIdx.x / kLanes;
    Piece x, y;
    const auto load_both = [&](uint64_t begin) {
      const uint64_t rest = p.length - begin;
      const uint32_t length = static_cast<uint32_t>(rest < kCapacity ? rest : kCapacity);
      x.fill(T::kMinusInfinity);
      y.fill(T::kMinusInfinity);
      if (position < p.positions.count) {
        load(x, p.first, p.first_units, p, position, begin, length, lane);
        load(y, p.second, p.second_units, p, position, begin, length, lane);
      }
      return length;
    };
    // The barriers of the collectives for the two operands separate each other's slots.
    RunningState of_first, of_second;
    uint32_t length = 0;
    for (uint64_t begin = 0; begin < p.length; begin += kCapacity) {
      length = load_both(begin);
      of_first.add_piece<T>(x, p.temperature, length, for_first_max);
      of_second.add_piece<T>(y, p.temperature, length, for_second_max);
    }
    const SoftmaxState first = of_first.settle<kLanes>(for_first_sum), second = of_second.settle<kLanes>(for_second_sum);
    const Couple<T> couple(p.temperature, first, second);
    const float inverse_first = first.inverse().high;
    // A first row that shows nothing has no terms, and then what the second one shows must not count.
    const bool nothing = p.kind != DIVERGENCE_JENSEN_SHANNON && first.empty();
    const float inverse_second = nothing ? 0.0f * second.others.high : second.inverse().high;

    double sum = 0.0;
    if (!kManyPieces || p.length <= kCapacity) {
      add_divergence(sum, couple, inverse_first, inverse_second, p, x, y, length);
    } else {
      for (uint64_t begin = 0; begin < p.length; begin += kCapacity) {
        length = load_both(begin);
        add_divergence(sum, couple, inverse_first, inverse_second, p, x, y, length);
      }
    }
    sum = row_reduce<kLanes>(sum, Sum(), for_total);

    if (lane == 0 && position < p.positions.count) p.losses[position] = static_cast<float>(sum * p.factor);
  }
}

// kLanes x kVectors x 16 bytes is a piece of either operand. Rows of the largest kernel may have many.
#define DIVERGENCE_FORWARD_KERNEL(name, T, lanes, vectors)                                  \
  extern "C" __global__ void __launch_bounds__(kThreads<lanes>, kBlocks<lanes>)             \
      divergence_forward_##name##_##lanes##x##vectors(const __grid_constant__ DivergenceForwardParams p) { \
    divergence_forward<T, lanes, vectors>(p);                                               \
  }

FOR_EACH_DTYPE(DIVERGENCE_FORWARD_KERNEL, 8, 1)
FOR_EACH_DTYPE(DIVERGENCE_FORWARD_KERNEL, 32, 2)
FOR_EACH_DTYPE(DIVERGENCE_FORWARD_KERNEL, 128, 4)
FOR_EACH_DTYPE(DIVERGENCE_FORWARD_KERNEL, 512, 4)
