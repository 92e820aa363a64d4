// The softmax of a set of scores, as a value that can be merged. -inf, the empty set, NaN and +inf are handled here only.
#pragma once

#include "common/exact.cuh"
#include "params/common.h"

/// What a set of weights relative to its maximum adds up to, in two parts, so that a sum close to 1 keeps its digits:
/// `ties` counts the weights that are exactly 1 (the maximum and its equals), `below` is the sum of all others.
///
/// `below` is a double: in f32 every merge of two sums would cost half a unit in the last place of the logarithm.
struct WeightSum {
  float ties;
  Words below_words;

  static DEVICE WeightSum of(double below, float ties) { return {ties, Words::of(below)}; }
  DEVICE double below() const { return below_words.value(); }

  /// The sum of the same set relative to another maximum, relative to which the present one weighs `weight`.
  DEVICE WeightSum relative_to(float weight) const { return weight == 1.0f ? *this : of((below() + ties) * weight, 0.0f); }
};

DEVICE WeightSum add(WeightSum a, WeightSum b) { return WeightSum::of(a.below() + b.below(), a.ties + b.ties); }

/// Softmax of a set: its largest score, and the sum of the weights exp((x - max) / tau) of all its members but one largest.
///
/// | set                    | max                     | others |
/// | nothing visible        | -inf                    | 0      |
/// | with a NaN or a +inf   | anything                | NaN    |
/// | any other              | finite                  | >= 0   |
struct SoftmaxState {
  float max;
  Pair others;

  /// `max` is the largest score of the set, `sum` its weights relative to that maximum. A set without any weight of 1 is
  /// empty or holds a NaN or +inf (whose own weight is +inf - +inf = NaN), and then `below` says which.
  static DEVICE SoftmaxState of(float max, WeightSum sum) { return {max, split(sum.below() + fmaxf(sum.ties - 1.0f, 0.0f))}; }

  /// The sum that `of` takes; of the empty set any will do, since its maximum weighs 0.
  DEVICE WeightSum sum() const { return WeightSum::of(static_cast<double>(others.high) + others.low, 1.0f); }

  /// Whether no member is visible. A NaN among nothing but hidden scores is not nothing.
  DEVICE bool empty() const { return max == -INFINITY && others.high == 0.0f; }

  /// The inverse of the sum of all weights as an unevaluated sum; 0 for the empty set, so that its probabilities are 0.
  DEVICE Pair inverse() const {
    const Pair sum = two_sum(1.0f, others.high);
    const float inverse = quotient(1.0f, sum.high);
    const float residual = __fmaf_rn(-(sum.low + others.low), inverse, __fmaf_rn(-sum.high, inverse, 1.0f));
    return empty() ? Pair{0.0f, 0.0f} : Pair{inverse, __fmul_rn(residual, inverse)};
  }

  /// ln(sum of all weights); 0 for the empty set, whose scores and maximum already are -inf.
  DEVICE float log_sum() const { return log1p_accurate(others); }
};

/// weight * factor, rounded once for f32.
template <class T>
DEVICE float scaled(float weight, Pair factor) {
  if constexpr (T::kPerWord == 2) return weight * factor.high;
  return __fmaf_rn(weight, factor.high, weight * factor.low);
}

/// Scores of one row relative to the row's maximum, for elements of type T: weights, log-probabilities and the lse.
///
/// f32 rows carry (x - max) / tau as a Pair and use the polynomial; 16-bit rows take one rounding for each step and the
/// hardware's exp2, which is a hundred times finer than their results. x - max comes first in either case: folding the
/// maximum into a fused multiply-add loses the digits of x when |max| is large.
template <class T>
struct Scores {
  /// What scaled weights are multiplied by: a power of two that keeps the smallest results of T among the normal numbers, since
  /// exp2 gives 0 instead of smaller ones.
  static constexpr float kScale = T::kPerWord == 1 ? 0x1p24f : T::kSmallest < 0x1p-126f ? 0x1p8f : 1.0f;

  const Temperature& tau;
  float scaled_max;
  /// 16 bit only: log2(e) / (tau * pre), or the largest number, from which on every weight but 1 is 0 anyway.
  float factor;

  /// A row whose maximum is -inf is measured from 0: every score is hidden (or NaN), and (-inf) - (-inf) never happens.
  DEVICE Scores(const Temperature& tau, float max)
      : tau(tau), scaled_max(max == -INFINITY ? 0.0f : max * tau.pre), factor(fminf(tau.log2_high * tau.post, 0x1.fffffep+127f)) {}

  /// (x - max) * pre * post; the second part is not a number where the first is infinite.
  DEVICE Pair difference(float x) const {
    if constexpr (T::kPerWord == 2) return {__fmaf_rn(x, tau.pre, -scaled_max) * tau.post, 0.0f};
    const Pair exact = two_sum(__fmul_rn(x, tau.pre), -scaled_max);
    return {exact.high * tau.post, exact.low * tau.post};
  }

  /// exp((x - max) / tau): 0 for a hidden score, exactly 1 for the maximum, NaN for NaN and for +inf - +inf.
  DEVICE float weight(float x) const { return scaled_weight(x) * (1.0f / kScale); }

  /// weight(x) * kScale, one instruction less.
  DEVICE float scaled_weight(float x) const {
    if constexpr (T::kPerWord == 1) {
      const Pair d = difference(x);
      const Pair t = two_product(d.high, tau.log2_high);
      return exp2_times_2_24(t.high, __fmaf_rn(d.high, tau.log2_low, __fmaf_rn(d.low, tau.log2_high, t.low)));
    }
    const float d = __fmaf_rn(x, tau.pre, -scaled_max);
    const float t = kScale == 1.0f ? __fmul_rn(d, factor) : __fmaf_rn(d, factor, 8.0f);
    static_assert(T::kPerWord == 1 || kScale == 1.0f || kScale == 0x1p8f);
    float weight;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(weight) : "f"(t));
    return weight;
  }

  /// weight(x) * factor, rounded once for f32, also where the weight alone would lose digits below the normal numbers.
  DEVICE float weighted(float x, Pair factor) const {
    if constexpr (T::kPerWord == 2) return scaled<T>(weight(x), factor);
    const float weight = scaled_weight(x);
    // Large weights must not carry the 2^24 into the product, small ones must.
    return weight < 0x1p-90f ? scaled<T>(weight, factor) * 0x1p-24f : scaled<T>(weight * 0x1p-24f, factor);
  }

  /// (x - max) / tau - log_sum; -inf for a hidden score unless log_sum is NaN.
  DEVICE float log_probability(float x, float log_sum) const {
    const Pair d = difference(x);
    if constexpr (T::kPerWord == 2) return __fmaf_rn(d.high, tau.natural_high, -log_sum);
    const float low = __fmaf_rn(d.high, tau.natural_low, __fmaf_rn(d.low, tau.natural_high, -log_sum));
    return d.high == -INFINITY ? d.high - log_sum : __fmaf_rn(d.high, tau.natural_high, low);
  }

  /// ln(sum(exp(x / tau))) = max / tau + log_sum; -inf for the empty set.
  static DEVICE float lse(const Temperature& tau, SoftmaxState state) {
    const float scaled = state.max * tau.pre * tau.post;
    const float log_sum = state.log_sum();
    if (fabsf(scaled) == INFINITY) return scaled + log_sum;
    return __fmaf_rn(scaled, tau.natural_high, __fmaf_rn(scaled, tau.natural_low, log_sum));
  }
};
