// The logistic function and its relatives, for arguments of either sign and any size.
//
//   sigmoid(x) = 1 / (1 + exp(-x))      softplus(x) = ln(1 + exp(x)) = -ln(sigmoid(-x))
//
// Everything is computed from e = exp(-|x|), which is at most 1: nothing overflows, and no digit is lost for large |x|.
#pragma once

#include "common/exact.cuh"
#include "common/state.cuh"

/// exp(-|x|) and 1 / (1 + exp(-|x|)), for elements of type T: f32 within a unit in the last place, else to about 2^-20.
template <class T>
class Logistic {
 public:
  explicit DEVICE Logistic(float x) : x(x) {
    const float size = fabsf(x);
    if constexpr (T::kPerWord == 1) {
      // -size * log2(e) in two parts; the second one is not read where the first is infinite.
      const Pair t = two_product(size, -0x1.715476p+0f);
      e_times_2_24 = exp2_times_2_24(t.high, __fmaf_rn(size, -0x1.4ae0cp-26f, t.low));
      inverse = SoftmaxState{0.0f, e_times_2_24 * 0x1p-24f}.inverse();
    } else {
      float e;
      asm("ex2.approx.f32 %0, %1;" : "=f"(e) : "f"(size * -0x1.715476p+0f));
      e_times_2_24 = e * 0x1p24f;
      asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse.high) : "f"(1.0f + e));
      inverse.low = 0.0f;
    }
  }

  /// sigmoid(x) * factor, and sigmoid(-x) * factor.
  DEVICE float sigmoid(float factor = 1.0f) const { return x >= 0.0f ? inverse.high * factor : small(factor); }
  DEVICE float sigmoid_of_negated(float factor) const { return x < 0.0f ? inverse.high * factor : small(factor); }
  /// sigmoid(x) * sigmoid(-x) * factor: the derivative of the sigmoid times a gradient.
  DEVICE float slope(float factor) const { return small(inverse.high * factor); }

  /// softplus(x) and softplus(-x): the smaller is ln(1 + e), the larger |x| more. Both are sums of terms that are never negative.
  DEVICE float softplus() const { return x > 0.0f ? x + log_sum() : log_sum(); }
  DEVICE float softplus_of_negated() const { return x < 0.0f ? log_sum() - x : log_sum(); }

 private:
  /// sigmoid(-|x|) * factor, also where only the factor brings it back to the normal numbers. A NaN comes here.
  DEVICE float small(float factor) const {
    // Large values must not carry the 2^24 into the product, small ones must.
    return e_times_2_24 < 1.0f ? scaled<T>(e_times_2_24, inverse) * factor * 0x1p-24f
                               : scaled<T>(e_times_2_24 * 0x1p-24f, inverse) * factor;
  }
  DEVICE float log_sum() const { return log1p_accurate(e_times_2_24 * 0x1p-24f); }

  const float x;
  float e_times_2_24;
  Pair inverse;
};
