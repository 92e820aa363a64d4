// What the cross-entropy kernels make of one row: its target, its loss from the state of its softmax, the gradient of its logits.
//
//   loss = a * ((max - x[target]) / tau + ln(1 + others)) + z * lse^2           a the class weight of the target, z = z_loss
//   dx[i] = g / tau * (a * (p[i] - (i == target)) + 2 * z * lse * p[i])
//
// Where every class has a share s[i] of the loss beside that (loss_dense.cu), and S = sum(s):
//
//   loss += sum(s[i] * (max - x[i]) / tau) + S * ln(1 + others)          dx[i] += g / tau * (S * p[i] - s[i])
#pragma once

#include "common/row.cuh"
#include "common/state.cuh"
#include "params/loss.h"

/// What the target of a row says.
struct Target {
  int64_t value;
  bool ignored, bad;

  DEVICE bool counts() const { return !ignored && !bad; }
};

DEVICE Target load_target(const Targets& targets, const Positions& positions, uint64_t position) {
  if (targets.type == TARGETS_NONE) return {0, false, false};
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

/// One element; `kReadOnly` as for RowPiece.
template <class T, bool kReadOnly = true>
DEVICE float load_element(const void* data, uint64_t offset) {
  if constexpr (T::kBytes == 4) return load_word<kReadOnly>(static_cast<const float*>(data) + offset);
  return T::low(load_word<kReadOnly>(static_cast<const unsigned short*>(data) + offset));
}

/// What the forward kernels leave of a row, see SUMEXP_LOSS_STATE.
struct LossState {
  float max, others, on_target, spread;

  /// Whether the loss depends on the logits. If not, the gradient is 0 also where they are no numbers.
  DEVICE bool counts() const { return on_target != 0.0f || spread != 0.0f; }

  static DEVICE LossState load(const float* states, uint64_t positions, uint64_t position) {
    const auto plane = [&](int i) { return __ldg(states + i * positions + position); };
    return {plane(0), plane(1), plane(2), plane(3)};
  }

  DEVICE void store(float* states, uint64_t positions, uint64_t position) const {
    const float planes[SUMEXP_LOSS_STATE] = {max, others, on_target, spread};
#pragma unroll
    for (int i = 0; i < SUMEXP_LOSS_STATE; ++i) states[i * positions + position] = planes[i];
  }
};

/// The weight of a class that was compared with their number.
DEVICE float class_weight(const LossTerms& terms, uint64_t target) {
  return terms.class_weights == nullptr ? 1.0f : __ldg(terms.class_weights + target * terms.class_weight_stride);
}

/// What becomes of a row. One number per row: f32 accuracy for every element type.
struct RowLoss {
  float loss, lse;
  LossState saved;

  /// A row that does not count, or has a bad target.
  static DEVICE RowLoss of_none(const Target& target) {
    const float loss = target.bad ? NAN : 0.0f;
    return {loss, loss, {0.0f, 0.0f, 0.0f, 0.0f}};
  }

  /// `nll` is the target's and `weight` what it is multiplied by, `shares` and `gaps` the two sums over all classes. What is
  /// multiplied by 0 costs nothing, whatever the row holds.
  static DEVICE RowLoss of(const LossTerms& terms, const SoftmaxState& state, float nll, float weight, double shares = 0.0,
                           double gaps = 0.0) {
    RowLoss row;
    row.lse = Scores<F32>::lse(terms.temperature, state);
    row.loss = weight == 0.0f ? 0.0f : weight * nll;
    row.saved = {state.max, state.others.high, weight, static_cast<float>(shares)};
    if (shares != 0.0 || gaps != 0.0) {
      // Once per row: nothing is rounded but the result.
      const double of_target = weight == 0.0f ? 0.0 : static_cast<double>(weight) * nll;
      row.loss = static_cast<float>(of_target + (shares * state.log_sum() + gaps));
    }
    if (terms.z_loss != 0.0f) {
      row.loss = __fmaf_rn(terms.z_loss * row.lse, row.lse, row.loss);
      row.saved.spread = __fmaf_rn(2.0f * terms.z_loss, row.lse, row.saved.spread);
    }
    return row;
  }

  /// Writes a row's numbers. `P` has positions, losses, lse and states.
  template <class P>
  DEVICE void store(const P& p, uint64_t position) const {
    p.losses[position] = loss;
    p.lse[position] = lse;
    saved.store(p.states, p.positions.count, position);
  }
};

/// -ln(p) of a logit, to f32 accuracy for every element type.
DEVICE float nll_of(const LossTerms& terms, const SoftmaxState& state, float logit) {
  return -Scores<F32>(terms.temperature, state.max).log_probability(logit, state.log_sum());
}

/// The gradient of one row's logits.
template <class T>
struct RowGradient {
  Scores<T> scores;
  SoftmaxState state;
  float inverse, on_target, spread;
  /// What p is multiplied by where the target is not, and what other slopes are multiplied by.
  float of_probability, factor, rest;

  /// `factor` and `rest` are the upstream gradient, times what the reduction multiplies it by, over tau.
  DEVICE RowGradient(const Temperature& temperature, const LossState& saved, float factor, float rest)
      : scores(temperature, saved.max), state{saved.max, {saved.others, 0.0f}}, inverse(state.inverse().high),
        on_target(saved.on_target), spread(saved.spread), of_probability(factor * (saved.on_target + saved.spread)),
        factor(factor), rest(rest) {}

  /// With shares: every class has one of its own.
  DEVICE float at(float logit, bool is_target, float share) const {
    if (inverse == 0.0f) return 0.0f;
    const float p = scores.weight(logit) * inverse;
    const float along_lse = p == 0.0f ? 0.0f : spread * p;
    float slope = on_target * p;
    if (is_target) slope = on_target * (logit == state.max ? -(state.others.high * inverse) : p - 1.0f);
    slope = slope + (along_lse - share);
    return slope == 0.0f ? 0.0f : slope * factor * rest;
  }

  DEVICE float at(float logit, bool is_target) const {
    float slope = scores.weight(logit) * inverse, by = of_probability;
    // `inverse` is 0 for the row without anything visible, whose gradient is 0 everywhere.
    if (is_target && inverse != 0.0f) {
      const float less_one = logit == state.max ? -(state.others.high * inverse) : slope - 1.0f;
      slope = slope == 0.0f ? on_target * less_one : __fmaf_rn(on_target, less_one, spread * slope);
      by = factor;
    }
    // A hidden logit gets 0, whatever the upstream gradient is; only a NaN row stays NaN.
    return slope == 0.0f ? 0.0f : slope * by * rest;
  }
};

/// The gradient of the row at `position`, whose state is `saved`.
template <class T>
DEVICE RowGradient<T> row_gradient(const CrossEntropyBackwardParams& p, const LossState& saved, uint64_t position) {
  const uint64_t offset = position_offset(p.positions, p.upstream.strides, position);
  const float upstream = p.upstream.data == nullptr ? 1.0f : __ldg(static_cast<const float*>(p.upstream.data) + offset);
  const float weight = __ldg(p.states + SUMEXP_LOSS_STATE * p.positions.count);
  return RowGradient<T>(p.terms.temperature, saved, upstream * weight * p.scale, p.scale_rest);
}

/// Which of the lane's elements has this index in the piece (the inverse of RowPiece::index); -1 if none has.
template <int kLanes, uint32_t kElements>
DEVICE int owned(uint64_t index, uint32_t lane, uint32_t unit_log2) {
  if (index >= kLanes * kElements) return -1;
  const uint32_t unit = static_cast<uint32_t>(index) >> unit_log2;
  const uint32_t within = static_cast<uint32_t>(index) & ((1u << unit_log2) - 1u);
  return unit % kLanes == lane ? static_cast<int>(((unit / kLanes) << unit_log2) + within) : -1;
}

/// Puts the gradients in the place of the logits of a piece. `mine` is the lane's element of the target, or -1.
template <class T, class Piece>
DEVICE void replace_by_gradients(Piece& x, const RowGradient<T>& gradient, int mine, uint32_t length) {
#pragma unroll
  for (int i = 0; i < Piece::kElements; i += T::kPerWord) {
    if (i > 0 && i % T::kPerVector == 0 && Piece::ends_before(i, length)) break;
    const int last = i + T::kPerWord - 1;
    x.words[i / T::kPerWord] = T::pack(gradient.at(x.at(i), i == mine), gradient.at(x.at(last), last == mine));
  }
}
