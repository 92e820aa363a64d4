// Cross-entropy on class targets, forward and backward; probabilities are never written.
//
//   loss = (max - x[target]) / tau + ln(1 + others)      dx[i] = g / tau * (p[i] - (i == target))
//   others = sum of exp((x[i] - max) / tau) over all classes but one largest
//
// Forward: a row is shared by kLanes lanes and read once, piece by piece (common/row.cuh); each piece has its own maximum,
// and the sums move over to a new maximum when a piece brings one. It leaves (max, others) of every row, so that backward
// has no reduction: every piece of every row is computed on its own, and `p - 1` of a winner is -others / (1 + others), right
// at any margin.
//
// A target is compared before it is used as an index. Rows that do not count, and rows with a bad target, are not read at all.
// Two small kernels then add the losses up in the order of the rows, count the targets, and report the first bad one.
#include "common/cross_entropy.cuh"
#include "common/entry.cuh"
#include "common/record.cuh"
#include "common/softmax_row.cuh"

/// Lanes of the largest forward kernel, the only one whose piece may hold less than a row.
constexpr int kMostLanes = 1024;

template <class T, int kLanes, int kVectors>
DEVICE void cross_entropy_forward(const CrossEntropyForwardParams& p) {
  using Piece = RowPiece<T, kLanes, kVectors>;
  constexpr int kGroups = kThreads<kLanes> / kLanes;
  constexpr uint64_t kCapacity = uint64_t{kLanes} * Piece::kElements;
  constexpr bool kManyPieces = kLanes == kMostLanes;
  __shared__ MergeSlots<float, kLanes> for_max;
  __shared__ MergeSlots<WeightSum, kLanes> for_sum;
  const uint32_t lane = threadIdx.x % kLanes;
  const uint64_t classes = p.targets.classes;

  // All threads of a block take part in every round, those without a row with hidden logits: barriers and shuffles need them.
  for (uint64_t first = uint64_t{blockIdx.x} * kGroups; first < p.positions.count; first += uint64_t{gridDim.x} * kGroups) {
    const uint64_t position = first + threadIdx.x / kLanes;
    Target target = {0, true, false};
    uint64_t offset = 0;
    if (position < p.positions.count) {
      target = load_target(p.targets, p.positions, position);
      offset = position_offset(p.positions, p.logits.strides, position);
    }
    const uint32_t counts = target.counts();

    float max = -INFINITY;
    WeightSum sum = {};
    for (uint64_t begin = 0; begin < classes; begin += kCapacity) {
      // Where a row is the block's only one, all its threads may skip it.
      if (kLanes > 32 && !counts) break;
      const uint64_t rest = classes - begin;
      const uint32_t length = counts ? static_cast<uint32_t>(rest < kCapacity ? rest : kCapacity) : 0;
      Piece x;
      x.fill(T::kMinusInfinity);
      x.load(static_cast<const char*>(p.logits.data) + (offset + begin * p.logits.stride) * T::kBytes, p.logits.stride, length,
             lane, p.unit_log2, p.logit_units != 0);
      // The sum's barrier comes only behind the last piece, so between two pieces the slots need one of their own.
      if (kManyPieces && begin > 0) __syncthreads();
      const float of_lane = largest<T>(x.words);
      const float largest_here = row_reduce<kLanes>(of_lane, Larger(), for_max);
      if (largest_here > max) {
        sum = sum.relative_to(Scores<T>(p.terms.temperature, largest_here).weight(max));
        max = largest_here;
      }
      sum = add(sum, sum_of_weights(x, Scores<T>(p.terms.temperature, max), length, false, of_lane == max));
    }
    if (kLanes <= 32 || counts) sum = row_reduce<kLanes>(sum, Sum(), for_sum);

    if (lane != 0 || position >= p.positions.count) continue;
    RowLoss row = RowLoss::of_none(target);
    if (counts) {
      const uint64_t value = static_cast<uint64_t>(target.value);
      const float logit = load_element<T>(p.logits.data, offset + value * p.logits.stride);
      row = RowLoss::of(p.terms, SoftmaxState::of(max, sum), logit, class_weight(p.terms, value));
    }
    row.store(p, position);
  }
}

/// The gradient of the row at `position`, whose state is `saved`.
template <class T>
DEVICE RowGradient<T> row_gradient(const CrossEntropyBackwardParams& p, const LossState& saved, uint64_t position) {
  const uint64_t offset = position_offset(p.positions, p.upstream.strides, position);
  const float upstream = p.upstream.data == nullptr ? 1.0f : __ldg(static_cast<const float*>(p.upstream.data) + offset);
  const float weight = __ldg(p.states + SUMEXP_LOSS_STATE * p.positions.count);
  return RowGradient<T>(p.temperature, saved, upstream * weight * p.scale, p.scale_rest);
}

/// Classes along the last dim: a piece of a row per group of lanes. There is nothing to combine, so no lane waits for another.
template <class T, int kLanes, int kVectors>
DEVICE void cross_entropy_backward(const CrossEntropyBackwardParams& p) {
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
    Piece x;
    const LossState saved = LossState::load(p.states, p.positions.count, position);
    x.fill(0);
    if (target.counts() && saved.counts()) {
      const RowGradient<T> gradient = row_gradient<T>(p, saved, position);
      const uint64_t offset = position_offset(p.positions, p.logits.strides, position);
      x.load(static_cast<const char*>(p.logits.data) + (offset + begin * p.logits.stride) * T::kBytes, p.logits.stride, length,
             lane, p.unit_log2, p.logit_units != 0);
      const int mine = owned<kLanes, Piece::kElements>(static_cast<uint64_t>(target.value) - begin, lane, p.unit_log2);
#pragma unroll
      for (int i = 0; i < Piece::kElements; i += T::kPerWord) {
        if (i > 0 && i % T::kPerVector == 0 && Piece::ends_before(i, length)) break;
        const int last = i + T::kPerWord - 1;
        x.words[i / T::kPerWord] = T::pack(gradient.at(x.at(i), i == mine), gradient.at(x.at(last), last == mine));
      }
    }
    x.store(static_cast<char*>(p.output) + (position * p.targets.classes + begin) * T::kBytes, length, lane, p.unit_log2,
            p.output_units != 0);
  }
}

/// Classes along another dim: neighbouring threads take neighbouring positions, and each walks through a piece of its classes.
template <class T>
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
    const uint64_t offset = position_offset(p.positions, p.logits.strides, position);
    const uint64_t outer = position / p.inner;
    const uint64_t to = outer * p.targets.classes * p.inner + (position - outer * p.inner);
    for (uint64_t i = piece * kPiece; i < end; ++i) {
      float result = 0.0f;
      if (counts) {
        const float logit = load_element<T>(p.logits.data, offset + i * p.logits.stride);
        result = gradient.at(logit, i == static_cast<uint64_t>(target.value));
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

constexpr int kCollectors = SUMEXP_LOSS_THREADS;

extern "C" __global__ void __launch_bounds__(kCollectors) loss_collect(const __grid_constant__ LossCollectParams p) {
  __shared__ MergeSlots<double, kCollectors> for_sum, for_weight;
  __shared__ unsigned int count, bad;
  // A chunk per block: a grid holds more of them than a memory holds losses.
  if (threadIdx.x == 0) count = 0, bad = SUMEXP_LOSS_CHUNK;
  __syncthreads();
  const uint64_t first = uint64_t{blockIdx.x} * SUMEXP_LOSS_CHUNK;
  double sum = 0.0, weight = 0.0;
  uint32_t counted = 0, bad_here = SUMEXP_LOSS_CHUNK;
  for (uint32_t i = threadIdx.x; i < SUMEXP_LOSS_CHUNK && first + i < p.positions.count; i += kCollectors) {
    const Target target = load_target(p.targets, p.positions, first + i);
    if (target.ignored) continue;
    ++counted;
    if (target.bad && bad_here == SUMEXP_LOSS_CHUNK) bad_here = i;
    if (p.losses != nullptr) accumulate(sum, __ldg(p.losses + first + i));
    if (p.class_weights != nullptr && !target.bad) {
      accumulate(weight, __ldg(p.class_weights + static_cast<uint64_t>(target.value) * p.class_weight_stride));
    }
  }
  // Integers: their sum and minimum do not depend on the order.
  atomicAdd(&count, counted);
  atomicMin(&bad, bad_here);
  sum = row_reduce<kCollectors>(sum, Sum(), for_sum);
  if (p.class_weights != nullptr) weight = row_reduce<kCollectors>(weight, Sum(), for_weight);
  if (threadIdx.x == 0) {
    if (p.class_weights == nullptr) weight = count;
    LossPartial partial = {sum, weight, count, ~uint64_t{0}, 0};
    if (bad < SUMEXP_LOSS_CHUNK) {
      partial.bad_position = first + bad;
      partial.bad_value = load_target(p.targets, p.positions, first + bad).value;
    }
    static_cast<LossPartial*>(p.partials)[blockIdx.x] = partial;
  }
}

extern "C" __global__ void __launch_bounds__(kCollectors) loss_finish(const __grid_constant__ LossFinishParams p) {
  __shared__ MergeSlots<double, kCollectors> for_sum, for_weight;
  __shared__ unsigned long long count, bad;
  const LossPartial* partials = static_cast<const LossPartial*>(p.partials);
  if (threadIdx.x == 0) count = 0, bad = ~0ull;
  __syncthreads();
  double sum = 0.0, weight = 0.0;
  unsigned long long counted = 0, bad_chunk = ~0ull;
  for (uint64_t chunk = threadIdx.x; chunk < p.chunks; chunk += kCollectors) {
    const LossPartial partial = partials[chunk];
    sum += partial.sum;
    weight += partial.weight;
    counted += partial.count;
    if (partial.bad_position != ~uint64_t{0} && bad_chunk == ~0ull) bad_chunk = chunk;
  }
  atomicAdd(&count, counted);
  atomicMin(&bad, bad_chunk);
  sum = row_reduce<kCollectors>(sum, Sum(), for_sum);
  weight = row_reduce<kCollectors>(weight, Sum(), for_weight);
  if (threadIdx.x != 0) return;

  if (p.count != nullptr) *p.count = static_cast<int64_t>(count);
  const bool mean = p.reduction == REDUCTION_MEAN || p.reduction == REDUCTION_MEAN_OVER;
  const float divisor = p.reduction == REDUCTION_MEAN_OVER ? *p.divisor : static_cast<float>(weight);
  // A mean over nothing is 0, and so are its gradients.
  if (p.weight != nullptr) *p.weight = !mean ? 1.0f : divisor == 0.0f ? 0.0f : 1.0f / divisor;
  if (p.loss != nullptr) {
    const float total = static_cast<float>(sum);
    *p.loss = !mean ? total : divisor == 0.0f ? 0.0f : total / divisor;
  }
  if (bad != ~0ull) report(p.record, p.op, partials[bad].bad_position, partials[bad].bad_value, p.classes);
}

/// Blocks that a multiprocessor must be able to hold: 80 registers a thread, 64 for the largest blocks.
template <int kLanes>
constexpr int kBlocks = kLanes < 128 ? 6 : kLanes == 1024 ? 1 : 768 / kLanes;

// kLanes x kVectors x 16 bytes is a piece. Rows of the largest kernel may have many.
#define CROSS_ENTROPY_FORWARD(name, T, lanes, vectors)                                      \
  extern "C" __global__ void __launch_bounds__(kThreads<lanes>, kBlocks<lanes>)             \
      cross_entropy_forward_##name##_##lanes##x##vectors(const __grid_constant__ CrossEntropyForwardParams p) { \
    cross_entropy_forward<T, lanes, vectors>(p);                                            \
  }

#define CROSS_ENTROPY_BACKWARD(name, T, lanes, vectors)                                     \
  extern "C" __global__ void __launch_bounds__(kThreads<lanes>, kBlocks<lanes>)             \
      cross_entropy_backward_##name##_##lanes##x##vectors(const __grid_constant__ CrossEntropyBackwardParams p) { \
    cross_entropy_backward<T, lanes, vectors>(p);                                           \
  }

#define CROSS_ENTROPY_BACKWARD_COLUMNS(name, T, threads)                                    \
  extern "C" __global__ void __launch_bounds__(threads)                                     \
      cross_entropy_backward_##name##_columns(const __grid_constant__ CrossEntropyBackwardParams p) { \
    cross_entropy_backward_columns<T>(p);                                                   \
  }

FOR_EACH_DTYPE(CROSS_ENTROPY_FORWARD, 8, 1)
FOR_EACH_DTYPE(CROSS_ENTROPY_FORWARD, 32, 4)
FOR_EACH_DTYPE(CROSS_ENTROPY_FORWARD, 256, 4)
FOR_EACH_DTYPE(CROSS_ENTROPY_FORWARD, 1024, 4)
FOR_EACH_DTYPE(CROSS_ENTROPY_BACKWARD, 8, 1)
FOR_EACH_DTYPE(CROSS_ENTROPY_BACKWARD, 32, 4)
FOR_EACH_DTYPE(CROSS_ENTROPY_BACKWARD, 256, 4)
FOR_EACH_DTYPE(CROSS_ENTROPY_BACKWARD_COLUMNS, 256)
