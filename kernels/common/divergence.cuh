// Two rows of logits side by side: the logarithm of the ratio of their probabilities, and the terms of their divergence.
//
//   KL(p || q) = sum of p * ln(p / q) = sum of (p * ln(p / q) - p + q)
//
// The terms of the second sum are never negative: none cancels another, and an error that all logarithms share (that of the ratio
// of the two sums of weights) shows only by its square. Probabilities alone could not do it: where p and q nearly agree they
// have no right digit of their difference, and where they are far apart they are 0.
#pragma once

#include "common/softmax_row.cuh"

/// (exp(-d) - 1 + d) / d^2 for |d| <= 1: the minimax polynomial of degree 7 (largest error 2e-8 of it).
DEVICE float exp_remainder(float d) {
  float r = -0x1.798214p-19f;
  r = __fmaf_rn(r, d, 0x1.a9728cp-16f);
  r = __fmaf_rn(r, d, -0x1.a00302p-13f);
  r = __fmaf_rn(r, d, 0x1.6bff4ep-10f);
  r = __fmaf_rn(r, d, -0x1.11112ap-7f);
  r = __fmaf_rn(r, d, 0x1.55557ap-5f);
  r = __fmaf_rn(r, d, -0x1.555556p-3f);
  return __fmaf_rn(r, d, 0.5f);
}

/// p * ln(p / q) - p + q, given `log_ratio` = ln(p / q), whose size matters more than the probabilities themselves.
DEVICE float divergence_term(float p, float q, float log_ratio) {
  const float close = p * (log_ratio * log_ratio * exp_remainder(log_ratio));
  const float apart = __fmaf_rn(p, log_ratio, q - p);
  // Without p there is no logarithm to look at.
  return p == 0.0f ? q : fabsf(log_ratio) <= 1.0f ? close : apart;
}

/// Logarithms of the probabilities p and q relative to their mixture m = beta * p + (1 - beta) * q.
struct Mixture {
  float log_first, log_second;

  /// `log_ratio` = ln(p / q), which may be infinite. m lies between the two: the logarithm of the nearer one is computed (a
  /// log-sum-exp of two terms), the further one's is `log_ratio` away from it, on the other side of 0.
  static DEVICE Mixture of(float log_ratio, float beta, float one_minus_beta) {
    const bool first_is_larger = log_ratio > 0.0f;
    const float distance = fabsf(log_ratio);
    const float of_larger = first_is_larger ? beta : one_minus_beta, of_smaller = first_is_larger ? one_minus_beta : beta;
    // smaller / larger = exp(-distance) = 1 - gap
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(distance * -0x1.715476p+0f));
    const float gap = distance <= 1.0f ? distance * __fmaf_rn(-distance, exp_remainder(distance), 1.0f) : 1.0f - power;
    const float smaller = distance <= 1.0f ? 1.0f - gap : power;
    // m / larger = of_larger + of_smaller * (1 - gap) = 1 - of_smaller * gap, and m / smaller = 1 + of_larger * gap / (1 - gap)
    const float mean = __fmaf_rn(of_smaller, smaller, of_larger);
    const float below_larger = -of_smaller * gap;
    const bool smaller_is_nearer = mean * mean < smaller;
    const float distinct = smaller_is_nearer ? of_larger * quotient(gap, smaller) : below_larger;
    const Pair ratio = !smaller_is_nearer && below_larger < -0.5f ? Pair{mean, 0.0f} : two_sum(1.0f, distinct);
    const float log = -log_accurate(ratio, 0.0f);
    const float of_log_larger = smaller_is_nearer ? log + distance : log, of_log_smaller = smaller_is_nearer ? log : log - distance;
    return first_is_larger ? Mixture{of_log_larger, of_log_smaller} : Mixture{of_log_smaller, of_log_larger};
  }
};

/// Two rows whose states are known.
template <class T>
class Couple {
 public:
  DEVICE Couple(const Temperature& tau, SoftmaxState first, SoftmaxState second)
      : tau(tau), first(tau, first.max), second(tau, second.max) {
    // The sums nearly agree where the rows do. Their difference is exact.
    const Pair apart = two_sum(first.others.high, -second.others.high);
    const float difference = apart.high + (apart.low + (first.others.low - second.others.low));
    const float smaller = 1.0f + fminf(first.others.high, second.others.high);
    const float log = log1p_accurate(quotient(fabsf(difference), smaller));
    log_sums = difference < 0.0f ? -log : log;
  }

  /// ln(p / q) of an entry with the logits x and y. Infinite where one is hidden; NaN where both are.
  DEVICE float log_ratio(float x, float y) const {
    const Pair a = first.difference(x), b = second.difference(y);
    if constexpr (T::kPerWord == 2) return __fmaf_rn(a.high - b.high, tau.natural_high, -log_sums);
    const Pair between = two_sum(a.high, -b.high);
    const Pair t = two_product(between.high, tau.natural_high);
    const float low = __fmaf_rn(between.low + (a.low - b.low), tau.natural_high, __fmaf_rn(between.high, tau.natural_low, t.low));
    const Pair log = two_sum(t.high, -log_sums);
    // An infinite one has no low part.
    return fabsf(t.high) < INFINITY ? log.high + (log.low + low) : t.high;
  }

  const Temperature& tau;
  const Scores<T> first, second;

 private:
  /// ln of the ratio of the two sums of weights.
  float log_sums;
};

/// The softmax of a row that is read piece by piece: the largest score so far, and the lane's part of the sum of weights.
struct RunningState {
  float max = -INFINITY;
  WeightSum sum = {};

  /// All threads of the block must call. Contains one barrier if a row has more than one warp.
  template <class T, int kLanes, int kVectors>
  DEVICE void add_piece(RowPiece<T, kLanes, kVectors>& x, const Temperature& tau, uint32_t length, MergeSlots<float, kLanes>& slots) {
    const float largest_here = row_reduce<kLanes>(largest<T>(x.words), Larger(), slots);
    if (largest_here > max) {
      sum = sum.relative_to(Scores<T>(tau, largest_here).weight(max));
      max = largest_here;
    }
    sum = add(sum, sum_of_weights(x, Scores<T>(tau, max), length, false));
  }

  /// All threads of the block must call; every lane gets the state of its row. Contains one barrier if a row has more than one warp.
  template <int kLanes>
  DEVICE SoftmaxState settle(MergeSlots<WeightSum, kLanes>& slots) const {
    return SoftmaxState::of(max, row_reduce<kLanes>(sum, Sum(), slots));
  }
};
