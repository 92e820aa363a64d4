// Gradient of the divergence of two rows of logits by the student's logits; the teacher is a constant.
//
//   KL(t || s)     ds[i] = g / tau * (s[i] - t[i])
//   KL(s || t)     ds[i] = g / tau * s[i] * (l[i] - sum(s * l)),               l = ln(s / t)
//   JS             ds[i] = g / tau * s[i] * (l[i] - sum(s * l)) * (1 - beta),  l = ln(s / m),  m = beta * t + (1 - beta) * s
//
// t and s are the softmax of the two rows. They are found again from the logits, in the same launch: nothing is saved by forward,
// and nothing is written but the gradient, which takes the place of the student's logits in registers. Lanes hold rows as in
// loss_divergence.cu. A row that fits in a piece is read once, a longer one once for each of: its state, its sum, its gradient.
//
// sum(s * l) adds up the same l that it is subtracted from: an error that all of them share cancels.
#include "common/divergence.cuh"
#include "common/entry.cuh"
#include "params/loss_divergence.h"

/// As in loss_divergence.cu.
constexpr int kMostLanes = 512;

/// Blocks that a multiprocessor must be able to hold: 80 registers a thread, more for the largest blocks.
template <int kLanes>
constexpr int kBlocks = kLanes <= 128 ? 6 : 1;

/// The student's row and the teacher's.
template <class T>
class Lesson {
 public:
  DEVICE Lesson(const DivergenceBackwardParams& p, SoftmaxState student, SoftmaxState teacher)
      : p(p),
        couple(p.temperature, student, teacher),
        student_inverse(student.inverse()),
        teacher_inverse(teacher.inverse()),
        zero(0.0f * (student.others.high + teacher.others.high)),
        teaches(!teacher.empty()) {}

  /// ln(s / t) or ln(s / m) of an entry of the student that is visible.
  DEVICE float log(float x, float y) const {
    const float log_ratio = couple.log_ratio(x, y);
    if (p.kind == DIVERGENCE_REVERSE) return y == -INFINITY ? INFINITY : log_ratio;
    return Mixture::of(log_ratio, p.one_minus_beta, p.beta).log_first;
  }

  /// The entry's term of sum(s * l).
  DEVICE float term(float x, float y) const {
    const float probability = couple.first.weighted(x, student_inverse), log = this->log(x, y);
    // Where the student's probability is 0 its logarithm may be anything, but for the one that makes the loss infinite.
    return x == -INFINITY || (probability == 0.0f && log < INFINITY) ? zero : probability == 0.0f ? log : probability * log;
  }

  /// The gradient of the entry's logit; `sum` is that of all terms.
  DEVICE float gradient(float x, float y, Pair sum, float factor) const {
    const float probability = couple.first.weighted(x, student_inverse);
    if (p.kind == DIVERGENCE_FORWARD) {
      const float slope = __fsub_rn(probability, couple.second.weighted(y, teacher_inverse));
      return x == -INFINITY || !teaches ? zero : slope * factor * p.scale_rest;
    }
    const float slope = probability * difference(log(x, y), sum) * factor * p.scale_rest;
    // Only where there is no sum has an entry without probability something to say.
    return x == -INFINITY || (probability == 0.0f && fabsf(sum.high) < INFINITY) ? zero : slope;
  }

 private:
  const DivergenceBackwardParams& p;
  const Couple<T> couple;
  const Pair student_inverse, teacher_inverse;
  /// 0, or NaN if either row holds a NaN or +inf.
  const float zero;
  const bool teaches;
};

/// Stores what lies below `length` into a row whose elements are `stride` apart.
template <class T, int kLanes, int kVectors>
DEVICE void store_apart(const RowPiece<T, kLanes, kVectors>& x, char* row, uint64_t stride, uint32_t length, uint32_t lane,
                        uint32_t unit_log2) {
  lane = x.opaque(lane);
#pragma unroll
  for (int i = 0; i < x.kElements; ++i) {
    if (i % T::kPerVector == 0 && x.ends_before(i, length)) break;
    const uint32_t at = x.index(i, lane, unit_log2);
    if (at >= length) continue;
    if constexpr (T::kBytes == 4) {
      reinterpret_cast<uint32_t*>(row)[at * stride] = x.words[i];
    } else {
      reinterpret_cast<uint16_t*>(row)[at * stride] = static_cast<uint16_t>(x.words[i / 2] >> (i % 2 * 16));
    }
  }
}

template <class T, int kLanes, int kVectors>
DEVICE void divergence_backward(const DivergenceBackwardParams& p) {
  using Piece = RowPiece<T, kLanes, kVectors>;
  constexpr int kGroups = kThreads<kLanes> / kLanes;
  constexpr uint64_t kCapacity = uint64_t{kLanes} * Piece::kElements;
  constexpr bool kManyPieces = kLanes == kMostLanes;
  __shared__ MergeSlots<float, kLanes> for_student_max, for_teacher_max;
  __shared__ MergeSlots<WeightSum, kLanes> for_student_sum, for_teacher_sum;
  __shared__ MergeSlots<double, kLanes> for_total;
  const uint32_t lane = threadIdx.x % kLanes;
  const bool again = kManyPieces && p.length > kCapacity;
  // A mean over nothing is 0, and so are its gradients.
  const float divisor = p.divisor == nullptr ? 1.0f : __ldg(p.divisor);
  const float scale = divisor == 0.0f ? 0.0f : p.scale / divisor;

  // All threads of a block take part in every round, those without a row with hidden logits: barriers and shuffles need them.
  for (uint64_t row = uint64_t{blockIdx.x} * kGroups; row < p.positions.count; row += uint64_t{gridDim.x} * kGroups) {
    const uint64_t position = row + threadIdx.x / kLanes;
    Piece x, y;
    uint32_t length = 0;
    const auto load_both = [&](uint64_t begin) {
      const uint64_t rest = p.length - begin;
      length = static_cast<uint32_t>(rest < kCapacity ? rest : kCapacity);
      x.fill(T::kMinusInfinity);
      y.fill(T::kMinusInfinity);
      if (position >= p.positions.count) return;
      load(x, p.student, p.student_units, p, position, begin, length, lane);
      load(y, p.teacher, p.teacher_units, p, position, begin, length, lane);
    };
    // The barriers of the collectives for the two operands separate each other's slots.
    RunningState of_student, of_teacher;
    for (uint64_t begin = 0; begin < p.length; begin += kCapacity) {
      load_both(begin);
      of_student.add_piece<T>(x, p.temperature, length, for_student_max);
      of_teacher.add_piece<T>(y, p.temperature, length, for_teacher_max);
    }
    const SoftmaxState student = of_student.settle<kLanes>(for_student_sum), teacher = of_teacher.settle<kLanes>(for_teacher_sum);
    const Lesson<T> lesson(p, student, teacher);

    Pair sum = {0.0f, 0.0f};
    if (p.kind != DIVERGENCE_FORWARD) {
      double terms = 0.0;
      for (uint64_t begin = 0; begin < p.length; begin += kCapacity) {
        if (again) load_both(begin);
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
          if (v > 0 && Piece::ends_before(v * T::kPerVector, length)) break;
          accumulate(terms, tree_sum<T::kPerVector>([&](int i) { return lesson.term(x.at(i), y.at(i)); }, v * T::kPerVector));
        }
      }
      sum = split(row_reduce<kLanes>(terms, Sum(), for_total));
      // An infinite loss has no gradient.
      if (fabsf(sum.high) == INFINITY) sum.high = NAN;
    }
    if (position >= p.positions.count) continue;

    const uint64_t at = position_offset(p.positions, p.upstream.strides, position);
    const float factor = __ldg(static_cast<const float*>(p.upstream.data) + at) * scale;
    for (uint64_t begin = 0; begin < p.length; begin += kCapacity) {
      if (again) load_both(begin);
#pragma unroll
      for (int i = 0; i < Piece::kElements; i += T::kPerWord) {
        if (i > 0 && i % T::kPerVector == 0 && Piece::ends_before(i, length)) break;
        const int last = i + T::kPerWord - 1;
        x.words[i / T::kPerWord] =
            T::pack(lesson.gradient(x.at(i), y.at(i), sum, factor), lesson.gradient(x.at(last), y.at(last), sum, factor));
      }
      char* output = static_cast<char*>(p.output);
      if (p.inner == 1) {
        x.store(output + (position * p.length + begin) * T::kBytes, length, lane, p.unit_log2, p.output_units != 0);
      } else {
        const uint64_t outer = position / p.inner;
        const uint64_t to = (outer * p.length + begin) * p.inner + (position - outer * p.inner);
        store_apart(x, output + to * T::kBytes, p.inner, length, lane, p.unit_log2);
      }
    }
  }
}

// kLanes x kVectors x 16 bytes is a piece of either operand. Rows of the largest kernel may have many.
#define DIVERGENCE_BACKWARD_KERNEL(name, T, lanes, vectors)                                 \
  extern "C" __global__ void __launch_bounds__(kThreads<lanes>, kBlocks<lanes>)             \
      divergence_backward_##name##_##lanes##x##vectors(const __grid_constant__ DivergenceBackwardParams p) { \
    divergence_backward<T, lanes, vectors>(p);                                              \
  }

FOR_EACH_DTYPE(DIVERGENCE_BACKWARD_KERNEL, 8, 1)
FOR_EACH_DTYPE(DIVERGENCE_BACKWARD_KERNEL, 32, 2)
FOR_EACH_DTYPE(DIVERGENCE_BACKWARD_KERNEL, 128, 4)
FOR_EACH_DTYPE(DIVERGENCE_BACKWARD_KERNEL, 512, 4)
