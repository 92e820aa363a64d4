// The gradient of one logit from its result, the result's gradient and the row's sum.
#pragma once

#include "common/exact.cuh"
#include "params.h"

/// The packed result of hidden entries: what padding must look like.
template <class T>
DEVICE uint32_t hidden_word(uint32_t kind) {
  return kind == SOFTMAX_LOG_PROBABILITIES ? T::kMinusInfinity : 0u;
}

/// The sum that a row's gradients need. The products y * dy of f32 have digits that a Pair would drop, and where y is nearly 1
/// they are what is left of dy - sum(y * dy).
template <class T>
struct TermSumOf {
  using Type = Pair;
};
template <>
struct TermSumOf<F32> {
  using Type = Triple;
};
template <class T>
using TermSum = typename TermSumOf<T>::Type;

/// Gradients of softmax, or with `kLog` of log-softmax.
/// All 32 lanes of a warp must make every call together: the log form looks up a table by shuffles.
template <class T, bool kLog>
class Gradient {
 public:
  explicit DEVICE Gradient(const SoftmaxBackwardParams& p)
      : scale(p.scale), scale_rest(p.scale_rest), table(kLog && p.kind == SOFTMAX_LOG_PROBABILITIES) {}

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
  DEVICE float of_logit(float y, float dy, const TermSum<T>& sum) const {
    dy = hidden(y) ? 0.0f : dy;
    if constexpr (!kLog) {
      return y == 0.0f ? 0.0f : difference(dy, sum) * scale * y * scale_rest;
    }
    const PreciseExp p = table.exp(y);
    // p * sum = 2^exponent * (product + rest). The exponent is applied in two steps, since it may be below that of f32.
    const Pair product = two_product(p.mantissa.high, sum.high);
    const float rest = __fmaf_rn(p.mantissa.low, sum.high, __fmaf_rn(p.mantissa.high, sum.low, product.low));
    const int half = p.exponent >> 1;
    const float first = power_of_two(half), second = power_of_two(p.exponent - half);
    const Pair difference = two_sum(dy, -(product.high * first * second));
    const float exact = __fadd_rn(difference.high, __fsub_rn(difference.low, rest * first * second));
    // An infinite difference has no low part.
    const float value = fabsf(difference.high) < INFINITY ? exact : difference.high;
    return hidden(y) ? 0.0f : value * scale * scale_rest;
  }

 private:
  static DEVICE float power_of_two(int n) { return __int_as_float((n + 127) << 23); }
  static DEVICE bool hidden(float y) { return kLog ? y == -INFINITY : y == 0.0f; }

  const float scale, scale_rest;
  const PreciseExpTable table;
};
