// How sure a softmax is, without the softmax: three numbers per row from one look at its logits.
//
//   w[i] = exp((x[i] - max) / tau)    sum = 1 + others
//   confidence = 1 / sum              margin = (1 - exp((second - max) / tau)) / sum
//   entropy = ln(sum) + sum of w[i] * (max - x[i]) / tau, divided by sum
//
// The margin is no difference of two probabilities, and no term of the entropy is negative, so neither loses digits where a row
// is sure (margin near 1, entropy near 0) or torn (margin near 0). Probabilities are never written.
//
// Rows along the last dim are shared by kLanes lanes and read piece by piece (common/row.cuh says which lane holds what); every
// piece has its maximum found first, and the sums move over to a new maximum when a piece brings one. Other rows are columns
// (common/columns.cuh): each thread keeps a maximum of its own, and the sums of all threads move over to the common one at the end.
#include "common/columns.cuh"
#include "common/entry.cuh"
#include "common/softmax_row.cuh"
#include "params/inference.h"

/// What is known of a part of a row.
struct Spread {
  WeightSum sum;
  /// Sum of w[i] * (max - x[i]), a double, in units of `Scores::difference`.
  Words slopes;
  /// The two largest logits of the part; -inf where there are none.
  float first, second;

  static DEVICE Spread none() { return {{}, {}, -INFINITY, -INFINITY}; }

  DEVICE void see(float logit) {
    second = fmaxf(second, fminf(first, logit));
    first = fmaxf(first, logit);
  }

  /// Measures the sums from `to` instead of `from`, the maximum so far.
  template <class T>
  DEVICE void move(const Temperature& tau, float from, float to) {
    // Nothing is measured from a maximum that hides everything.
    if (!(to > from) || from == -INFINITY) return;
    const Scores<T> scores(tau, to);
    const float weight = scores.weight(from);
    const double step = -scores.difference(from).high;
    slopes = Words::of(weight == 0.0f ? 0.0 : __dmul_rn(__fma_rn(step, sum.below() + sum.ties, slopes.value()), weight));
    sum = sum.relative_to(weight);
  }
};

struct MergeSpreads {
  DEVICE Spread operator()(Spread a, Spread b) const {
    return {add(a.sum, b.sum), Words::of(__dadd_rn(a.slopes.value(), b.slopes.value())), fmaxf(a.first, b.first),
            fmaxf(fminf(a.first, b.first), fmaxf(a.second, b.second))};
  }
};

DEVICE Spread shuffle_xor(Spread spread, int mask) {
  return {shuffle_xor(spread.sum, mask), Words::of(shuffle_xor(spread.slopes.value(), mask)), shuffle_xor(spread.first, mask),
          shuffle_xor(spread.second, mask)};
}

/// Adds `kCount` logits to the sums, which are measured from `scores.max`. `holds_max`: whether one of them may be that maximum;
/// only then are weights of 1 told from the others.
template <class T, int kCount, class F>
DEVICE void add_weights(Spread& spread, const Scores<T>& scores, bool holds_max, F logit) {
  constexpr float kScale = Scores<T>::kScale;
  float weights[kCount], slopes[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float x = logit(i);
    weights[i] = scores.scaled_weight(x);
    // What is hidden, or weighs nothing, may be infinitely far below.
    slopes[i] = weights[i] == 0.0f ? 0.0f : -scores.difference(x).high;
  }
  const float slope = tree_sum<kCount / 2>([&](int i) {
    return __fmaf_rn(slopes[2 * i], weights[2 * i], __fmul_rn(slopes[2 * i + 1], weights[2 * i + 1]));
  });
  int ties = 0;
  if (holds_max) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      ties += weights[i] == kScale;
      weights[i] = weights[i] == kScale ? 0.0f : weights[i];
    }
  }
  const float below = tree_sum<kCount>([&](int i) { return weights[i]; });
  spread.slopes = Words::of(__fma_rn(static_cast<double>(slope), 1.0 / kScale, spread.slopes.value()));
  spread.sum = WeightSum::of(__fma_rn(static_cast<double>(below), 1.0 / kScale, spread.sum.below()), spread.sum.ties + static_cast<float>(ties));
}

/// 1 - exp(x) for x <= 0, where `weight` is exp(x): below -1/2 their difference loses nothing, above it is minus the series of
/// exp(x) - 1, whose first term left out is below 2^-30 of the result.
DEVICE float less_than_one(Pair x, float weight) {
  if (!(x.high > -0.5f)) return 1.0f - weight;
  float q = 0x1.71de3ap-19f;  // 1 / 9!
  q = __fmaf_rn(q, x.high, 0x1.a01a02p-16f);
  q = __fmaf_rn(q, x.high, 0x1.a01a02p-13f);
  q = __fmaf_rn(q, x.high, 0x1.6c16c2p-10f);
  q = __fmaf_rn(q, x.high, 0x1.111112p-7f);
  q = __fmaf_rn(q, x.high, 0x1.555556p-5f);
  q = __fmaf_rn(q, x.high, 0x1.555556p-3f);
  q = __fmaf_rn(q, x.high, 0.5f);
  const float rest = __fmaf_rn(x.high * x.high, q, __fmaf_rn(x.low, x.high, x.low));
  return -__fadd_rn(x.high, rest);
}

/// Writes the three numbers of a row, whose sums are measured from `max`.
DEVICE void finish(const ConfidenceParams& p, uint64_t position, float max, const Spread& spread) {
  const SoftmaxState state = SoftmaxState::of(max, spread.sum);
  const Pair inverse = state.inverse();
  // One number per row: f32 accuracy for every element type.
  const Scores<F32> scores(p.temperature, max);
  const Pair behind = scores.difference(spread.second);
  const Pair natural = two_product(behind.high, p.temperature.natural_high);
  const float low = __fmaf_rn(behind.high, p.temperature.natural_low, __fmaf_rn(behind.low, p.temperature.natural_high, natural.low));
  const float margin = less_than_one({natural.high, low}, scores.weight(spread.second));
  const double per_tau = static_cast<double>(p.temperature.natural_high) + p.temperature.natural_low;
  const float slopes = __double2float_rn(__dmul_rn(spread.slopes.value(), per_tau));
  p.confidence[position] = inverse.high;
  p.margin[position] = scaled<F32>(margin, inverse);
  p.entropy[position] = __fmaf_rn(slopes, inverse.high, __fmaf_rn(slopes, inverse.low, state.log_sum()));
}

/// Lanes of the largest row kernel, the only one whose piece may hold less than a row.
constexpr int kMostLanes = 1024;

template <class T, int kLanes, int kVectors>
DEVICE void confidence(const ConfidenceParams& p) {
  using Piece = RowPiece<T, kLanes, kVectors>;
  constexpr int kGroups = kThreads<kLanes> / kLanes;
  constexpr uint64_t kCapacity = uint64_t{kLanes} * Piece::kElements;
  constexpr bool kManyPieces = kLanes == kMostLanes;
  __shared__ MergeSlots<float, kLanes> for_max;
  __shared__ MergeSlots<Spread, kLanes> for_spread;
  const uint32_t lane = threadIdx.x % kLanes;

  // All threads of a block take part in every round, those without a row with hidden logits: barriers and shuffles need them.
  for (uint64_t first = uint64_t{blockIdx.x} * kGroups; first < p.positions.count; first += uint64_t{gridDim.x} * kGroups) {
    const uint64_t position = first + threadIdx.x / kLanes;
    const bool present = position < p.positions.count;
    float max = -INFINITY;
    Spread spread = Spread::none();
    for (uint64_t begin = 0; begin < p.length; begin += kCapacity) {
      const uint64_t rest = p.length - begin;
      const uint32_t length = present ? static_cast<uint32_t>(rest < kCapacity ? rest : kCapacity) : 0;
      Piece x;
      x.fill(T::kMinusInfinity);
      if (present) load(x, p.input, p.input_units, p, position, begin, length, lane);
#pragma unroll
      for (int i = 0; i < Piece::kElements; ++i) {
        if (i > 0 && i % T::kPerVector == 0 && Piece::ends_before(i, length)) break;
        spread.see(x.at(i));
      }
      // The barrier of the sums comes only behind the last piece, so between two pieces the slots need one of their own.
      if (kManyPieces && begin > 0) __syncthreads();
      const float largest_yet = row_reduce<kLanes>(spread.first, Larger(), for_max);
      spread.move<T>(p.temperature, max, largest_yet);
      max = largest_yet;
      const Scores<T> scores(p.temperature, max);
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        // Vectors behind the end of the row hold nothing but hidden logits.
        if (v > 0 && Piece::ends_before(v * T::kPerVector, length)) continue;
        add_weights<T, T::kPerVector>(spread, scores, spread.first == max, [&](int i) { return x.at(v * T::kPerVector + i); });
      }
    }
    spread = row_reduce<kLanes>(spread, MergeSpreads(), for_spread);
    if (lane == 0 && present) finish(p, position, max, spread);
  }
}

struct FoldSpreads {
  Spread spread = Spread::none();
  DEVICE void add(Spread value) { spread = MergeSpreads()(spread, value); }
  DEVICE Spread result() const { return spread; }
};

template <class T>
DEVICE void confidence_columns(const ConfidenceParams& p) {
  const ColumnSlots<float, 1> for_max(0);
  const ColumnSlots<Spread, 1> for_spread(for_max.end());
  const uint64_t chunks = chunks_of(p.length);
  // All threads of a block take part in every round: the reductions contain barriers.
  for (uint64_t first = uint64_t{blockIdx.x} * blockDim.x; first < p.positions.count; first += uint64_t{gridDim.x} * blockDim.x) {
    const uint64_t position = first + threadIdx.x;
    const char* column = nullptr;
    if (position < p.positions.count) {
      column = static_cast<const char*>(p.input.data) + position_offset(p.positions, p.input.strides, position) * T::kBytes;
    }
    Spread spread[1] = {Spread::none()};
#pragma unroll 1
    for (uint64_t chunk = 0; chunk < chunks; ++chunk) {
      ColumnPiece<T, 1> x;
      x.load(column, p.input.stride, chunk, p.length, T::kMinusInfinity);
      const float max = spread[0].first;
#pragma unroll
      for (int k = 0; k < kDepth; ++k) spread[0].see(x.at(k, 0));
      spread[0].template move<T>(p.temperature, max, spread[0].first);
      add_weights<T, kDepth>(spread[0], Scores<T>(p.temperature, spread[0].first), true, [&](int k) { return x.at(k, 0); });
    }
    float max[1] = {spread[0].first};
    column_reduce<FoldMax>(max, for_max);
    spread[0].template move<T>(p.temperature, spread[0].first, max[0]);
    column_reduce<FoldSpreads>(spread, for_spread);
    if (threadIdx.y == 0 && position < p.positions.count) finish(p, position, max[0], spread[0]);
  }
}

/// Blocks that a multiprocessor must be able to hold: 80 registers a thread, 64 for the largest blocks.
template <int kLanes>
constexpr int kBlocks = kLanes < 128 ? 6 : kLanes == 1024 ? 1 : 768 / kLanes;

// kLanes x kVectors x 16 bytes is a piece. Rows of the largest kernel may have many.
#define CONFIDENCE(name, T, lanes, vectors)                                                  \
  extern "C" __global__ void __launch_bounds__(kThreads<lanes>, kBlocks<lanes>)              \
      confidence_##name##_##lanes##x##vectors(const __grid_constant__ ConfidenceParams p) {  \
    confidence<T, lanes, vectors>(p);                                                        \
  }

#define CONFIDENCE_COLUMNS(name, T, threads)                                                 \
  extern "C" __global__ void __launch_bounds__(threads)                                      \
      confidence_##name##_columns(const __grid_constant__ ConfidenceParams p) {              \
    confidence_columns<T>(p);                                                                \
  }

FOR_EACH_DTYPE(CONFIDENCE, 8, 1)
FOR_EACH_DTYPE(CONFIDENCE, 32, 4)
FOR_EACH_DTYPE(CONFIDENCE, 256, 4)
FOR_EACH_DTYPE(CONFIDENCE, 1024, 4)
FOR_EACH_DTYPE(CONFIDENCE_COLUMNS, 1024)
