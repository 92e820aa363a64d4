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
#include "common/entry.cuh"
#include "common/index.cuh"
#include "common/record.cuh"
#include "common/softmax_row.cuh"
#include "params/loss.h"

/// What the target of a row says.
struct Target {
  int64_t value;
  bool ignored, bad;

  DEVICE bool counts() const { return !ignored && !bad; }
};

DEVICE Target load_target(const Targets& targets, const Positions& positions, uint64_t position) {
  const uint64_t offset = position_offset(positions, targets.operand.strides, position);
  const char* data = static_cast<const char*>(targets.operand.data);
  Target target;
  if (targets.type == TARGETS_I64) {
    target.value = __ldg(reinterpret_cast<const long long*>(data) + offset);
  } else if (targets.type == TARGETS_I32) {
    target.value = __ldg(reinterpret_cast<const int*>(data) + offset);
  } else {
    target.value = __ldg(reinterpret_cast<const unsigned int*>(data) + offset);
  }
  target.ignored = targets.has_ignore_index != 0 && target.value == targets.ignore_index;
  // As an unsigned number a negative target is larger than any class.
  target.bad = !target.ignored && static_cast<uint64_t>(target.value) >= targets.classes;
  return target;
}

template <class T>
DEVICE float load_element(const void* data, uint64_t offset) {
  if constexpr (T::kBytes == 4) return __ldg(static_cast<const float*>(data) + offset);
  return T::low(__ldg(static_cast<const unsigned short*>(data) + offset));
}

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
      const float largest_here = row_reduce<kLanes>(largest<T>(x.words), Larger(), for_max);
      if (largest_here > max) {
        sum = sum.relative_to(Scores<T>(p.temperature, largest_here).weight(max));
        max = largest_here;
      }
      sum = add(sum, sum_of_weights(x, Scores<T>(p.temperature, max), length, false));
    }
    if (kLanes <= 32 || counts) sum = row_reduce<kLanes>(sum, Sum(), for_sum);

    if (lane != 0 || position >= p.positions.count) continue;
    float loss = target.bad ? NAN : 0.0f;
    float lse = loss;
    LossState saved = {0.0f, 0.0f};
    if (counts) {
      const SoftmaxState state = SoftmaxState::of(max, sum);
      const float logit = load_element<T>(p.logits.data, offset + static_cast<uint64_t>(target.value) * p.logits.stride);
      // One number per row: f32 accuracy for every element type.
      loss = -Scores<F32>(p.temperature, max).log_probability(logit, state.log_sum());
      lse = Scores<F32>::lse(p.temperature, state);
      saved = {state.max, state.others.high};
    }
    p.losses[position] = loss;
    p.lse[position] = lse;
    static_cast<float2*>(p.states)[position] = {saved.max, saved.others};
  }
}

/// The gradient of one row's logits.
template <class T>
struct RowGradient {
  Scores<T> scores;
  SoftmaxState state;
  float inverse, factor, rest;

  DEVICE RowGradient(const CrossEntropyBackwardParams& p, uint64_t position, float2 saved)
      : scores(p.temperature, saved.x), state{saved.x, {saved.y, 0.0f}}, inverse(state.inverse().high), rest(p.scale_rest) {
    const uint64_t offset = position_offset(p.positions, p.upstream.strides, position);
    factor = __ldg(static_cast<const float*>(p.upstream.data) + offset) * __ldg(p.weight) * p.scale;
  }

  DEVICE float at(float logit, bool is_target) const {
    float slope = scores.weight(logit) * inverse;
    // `inverse` is 0 for the row without anything visible, whose gradient is 0 everywhere.
    if (is_target && inverse != 0.0f) slope = logit == state.max ? -(state.others.high * inverse) : slope - 1.0f;
    // A hidden logit gets 0, whatever the upstream gradient is; only a NaN row stays NaN.
    return slope == 0.0f ? 0.0f : slope * factor * rest;
  }
};

/// Which of the lane's elements has this index in the piece (the inverse of RowPiece::index); -1 if none has.
template <int kLanes, uint32_t kElements>
DEVICE int owned(uint64_t index, uint32_t lane, uint32_t unit_log2) {
  if (index >= kLanes * kElements) return -1;
  const uint32_t unit = static_cast<uint32_t>(index) >> unit_log2;
  const uint32_t within = static_cast<uint32_t>(index) & ((1u << unit_log2) - 1u);
  return unit % kLanes == lane ? static_cast<int>(((unit / kLanes) << unit_log2) + within) : -1;
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
    x.fill(0);
    if (target.counts()) {
      const RowGradient<T> gradient(p, position, __ldg(static_cast<const float2*>(p.states) + position));
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
    const RowGradient<T> gradient(p, position, __ldg(static_cast<const float2*>(p.states) + position));
    const uint64_t offset = position_offset(p.positions, p.logits.strides, position);
    const uint64_t outer = position / p.inner;
    const uint64_t to = outer * p.targets.classes * p.inner + (position - outer * p.inner);
    for (uint64_t i = piece * kPiece; i < end; ++i) {
      float result = 0.0f;
      if (target.counts()) {
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
  __shared__ MergeSlots<double, kCollectors> for_sum;
  __shared__ unsigned int count, bad;
  // A chunk per block: a grid holds more of them than a memory holds losses.
  if (threadIdx.x == 0) count = 0, bad = SUMEXP_LOSS_CHUNK;
  __syncthreads();
  const uint64_t first = uint64_t{blockIdx.x} * SUMEXP_LOSS_CHUNK;
  double sum = 0.0;
  uint32_t counted = 0, bad_here = SUMEXP_LOSS_CHUNK;
  for (uint32_t i = threadIdx.x; i < SUMEXP_LOSS_CHUNK && first + i < p.positions.count; i += kCollectors) {
    const Target target = load_target(p.targets, p.positions, first + i);
    if (target.ignored) continue;
    ++counted;
    if (target.bad && bad_here == SUMEXP_LOSS_CHUNK) bad_here = i;
    accumulate(sum, __ldg(p.losses + first + i));
  }
  // Integers: their sum and minimum do not depend on the order.
  atomicAdd(&count, counted);
  atomicMin(&bad, bad_here);
  sum = row_reduce<kCollectors>(sum, Sum(), for_sum);
  if (threadIdx.x == 0) {
    LossPartial partial = {sum, count, ~uint64_t{0}, 0};
    if (bad < SUMEXP_LOSS_CHUNK) {
      partial.bad_position = first + bad;
      partial.bad_value = load_target(p.targets, p.positions, first + bad).value;
    }
    static_cast<LossPartial*>(p.partials)[blockIdx.x] = partial;
  }
}

extern "C" __global__ void __launch_bounds__(kCollectors) loss_finish(const __grid_constant__ LossFinishParams p) {
  __shared__ MergeSlots<double, kCollectors> for_sum;
  __shared__ unsigned long long count, bad;
  const LossPartial* partials = static_cast<const LossPartial*>(p.partials);
  if (threadIdx.x == 0) count = 0, bad = ~0ull;
  __syncthreads();
  double sum = 0.0;
  unsigned long long counted = 0, bad_chunk = ~0ull;
  for (uint64_t chunk = threadIdx.x; chunk < p.chunks; chunk += kCollectors) {
    const LossPartial partial = partials[chunk];
    sum += partial.sum;
    counted += partial.count;
    if (partial.bad_position != ~uint64_t{0} && bad_chunk == ~0ull) bad_chunk = chunk;
  }
  atomicAdd(&count, counted);
  atomicMin(&bad, bad_chunk);
  sum = row_reduce<kCollectors>(sum, Sum(), for_sum);
  if (threadIdx.x != 0) return;

  if (p.count != nullptr) *p.count = static_cast<int64_t>(count);
  const float counts = static_cast<float>(count);
  // A mean over nothing is 0, and so are its gradients.
  if (p.weight != nullptr) *p.weight = p.reduction != REDUCTION_MEAN ? 1.0f : count == 0 ? 0.0f : 1.0f / counts;
  if (p.reduction != REDUCTION_NONE) {
    const float total = static_cast<float>(sum);
    *p.loss = p.reduction == REDUCTION_SUM ? total : count == 0 ? 0.0f : total / counts;
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
