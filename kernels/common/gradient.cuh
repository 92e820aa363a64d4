// The gradient of one logit from its result, the result's gradient and the row's sum.
#pragma once

#include "common/exact.cuh"
#include "params/softmax.h"

/// The packed result of hidden entries: what padding must look like.
template <class T>
DEVICE uint32_t hidden_word(uint32_t kind) {
  return kind == SOFTMAX_LOG_PROBABILITIES ? T::kMinusInfinity : 0u;
}

/// The sum that a row's gradients need, while it grows and when it is complete. The products y * dy of f32 have digits that a
/// double would drop, and where y is nearly 1 they are what is left of dy - sum(y * dy).
template <class T>
struct SumOf {
  using Growing = double;
  using Settled = Pair;
};
template <>
struct SumOf<F32> {
  using Growing = LongSum;
  using Settled = Triple;
};
template <class T>
using TermSum = typename SumOf<T>::Growing;
template <class T>
using SettledSum = typename SumOf<T>::Settled;

DEVICE Pair settled(double sum) { return split(sum); }

/// exp(y) of a 16-bit y <= 0 to 2^-22, that is, to the accuracy of the hardware's exp2: what rounding y * log2(e) loses is put
/// back by a factor of 1 + rest. 0 where exp(y) is below the normal numbers.
template <class T>
DEVICE float exp_of_half(float y) {
  float t, rest;
  if constexpr (T::kSmallest < 0x1p-126f) {
    // 8 digits times 15 are exact; the rest of log2(e), times ln(2), is small enough for any y that counts.
    t = __fmul_rn(y, 0x1.7154p+0f);
    rest = __fmul_rn(y, 0x1.480fb6p-18f);
  } else {
    t = __fmul_rn(y, 0x1.715476p+0f);
    rest = __fmaf_rn(-t, 0x1.62e430p-1f, y);
  }
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(t));
  return __fmaf_rn(power, rest, power);
}

/// Gradients of softmax, or with `kLog` of log-softmax.
/// All 32 lanes of a warp must make every call together: the log form looks up a table by shuffles.
template <class T, bool kLog>
class Gradient {
 public:
  explicit DEVICE Gradient(const SoftmaxBackwardParams& p)
      : scale(p.scale), scale_rest(p.scale_rest), table(kLog && T::kPerWord == 1 && p.kind == SOFTMAX_LOG_PROBABILITIES) {}

  /// Adds the entry's term to a sum: y * dy, or dy for the log form; nothing if the entry is hidden, whatever dy is.
  DEVICE void add_term(TermSum<T>& sum, float y, float dy) const {
    dy = hidden(y) ? 0.0f : dy;
    if constexpr (kLog) return accumulate(sum, dy);
    const Pair term = two_product(y, dy);
    accumulate(sum, term.high);
    // The product of two 16-bit elements is exact.
    if constexpr (T::kPerWord == 1) accumulate_low(sum, term.low);
  }

  /// The gradient of the entry's logit; `sum` is settled.
  DEVICE float of_logit(float y, float dy, const SettledSum<T>& sum) const {
    float value;
    if constexpr (!kLog) {
      value = difference(dy, sum) * scale * y * scale_rest;
    } else if constexpr (T::kPerWord == 2) {
      value = log_difference(y, dy, sum) * scale * scale_rest;
    } else {
      value = exact_log_difference(y, dy, sum) * scale * scale_rest;
    }
    return hidden(y) ? 0.0f : value;
  }

 private:
  /// dy - exp(y) * sum for 16-bit elements, good to 2^-21 of the larger term. Where exp(y) is nearly 1 and dy perhaps nearly
  /// the sum, it is (dy - sum) - (exp(y) - 1) * sum: exact differences, and 0 where both are.
  static DEVICE float log_difference(float y, float dy, Pair sum) {
    // An infinite sum would be subtracted from itself.
    const bool near = fabsf(y) < (fabsf(sum.high) < INFINITY ? 0x1p-5f : 0.0f);
    // exp(y) - 1 to 2^-21: the minimax polynomial of degree 3 that begins with y.
    const float less_one = __fmul_rn(__fmaf_rn(__fmaf_rn(0x1.5556p-3f, y, 0x1.0004p-1f), y, 1.0f), y);
    const float factor = near ? less_one : exp_of_half<T>(y);
    return __fmaf_rn(-factor, sum.high, near ? difference(dy, sum) : dy);
  }

  DEVICE float exact_log_difference(float y, float dy, const Triple& sum) const {
    const PreciseExp p = table.exp(y);
    const float high = __fmul_rn(sum.high, p.scale), low = __fmul_rn(sum.low, p.scale);
    const Pair product = two_product(p.mantissa.high, high);
    const float rest = __fmaf_rn(p.mantissa.low, high, __fmaf_rn(p.mantissa.high, low, product.low));
    // Where the two cancel their difference is exact.
    const float difference = __fsub_rn(dy, product.high);
    // An infinite difference has no low part.
    return fabsf(difference) < INFINITY ? __fsub_rn(difference, rest) : difference;
  }

  static DEVICE bool hidden(float y) { return kLog ? y == -INFINITY : y == 0.0f; }

  const float scale, scale_rest;
  const PreciseExpTable table;
};

/// Calls body(gradient) with the gradient of the kind that `p` names.
template <class T, class F>
DEVICE void with_gradient(const SoftmaxBackwardParams& p, F body) {
  if (p.kind == SOFTMAX_LOG_PROBABILITIES) {
    body(Gradient<T, true>(p));
  } else {
    body(Gradient<T, false>(p));
  }
}
