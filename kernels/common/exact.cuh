// f32 arithmetic with its rounding errors kept, and the elementary functions that an f32 result needs.
//
// The intrinsics (__fadd_rn and the like) keep the compiler from contracting a product into one of these additions: a
// contracted sum is rounded differently from the one whose error is computed here.
#pragma once

#include "common/dtype.cuh"

/// The unevaluated sum `high + low`, |low| at most half a unit in the last place of `high`.
struct Pair {
  float high, low;
};

/// a + b exactly.
DEVICE Pair two_sum(float a, float b) {
  const float sum = __fadd_rn(a, b);
  const float b_part = __fsub_rn(sum, a);
  const float a_part = __fsub_rn(sum, b_part);
  return {sum, __fadd_rn(__fsub_rn(a, a_part), __fsub_rn(b, b_part))};
}

/// a + b exactly, if |a| >= |b| or a is 0.
DEVICE Pair fast_two_sum(float a, float b) {
  const float sum = __fadd_rn(a, b);
  return {sum, __fsub_rn(b, __fsub_rn(sum, a))};
}

/// a * b exactly (unless the error underflows).
DEVICE Pair two_product(float a, float b) {
  const float product = __fmul_rn(a, b);
  return {product, __fmaf_rn(a, b, -product)};
}

/// Sum of two pairs, good to about 2^-46.
DEVICE Pair add(Pair a, Pair b) {
  const Pair sum = two_sum(a.high, b.high);
  return fast_two_sum(sum.high, __fadd_rn(sum.low, __fadd_rn(a.low, b.low)));
}

/// numerator / denominator to within one unit in the last place, without the branches of an IEEE division.
/// The denominator is positive and, like its inverse, normal; a NaN stays NaN.
DEVICE float quotient(float numerator, float denominator) {
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(denominator));
  inverse = __fmaf_rn(__fmaf_rn(-denominator, inverse, 1.0f), inverse, inverse);
  const float guess = __fmul_rn(numerator, inverse);
  return __fmaf_rn(__fmaf_rn(-denominator, guess, numerator), inverse, guess);
}

/// 2^(high + low) for high + low <= 0, within 0.6 units in the last place, 0 below 2^-126. 2^0 is exactly 1, NaN stays NaN.
///
/// high is cut into the nearest integer n and f in [-0.5, 0.5]; 2^f is 1 + f * q(f), q the minimax polynomial of degree 5 for
/// (2^f - 1) / f (largest error 2e-9 of 2^f); n goes to the exponent.
DEVICE float exp2_accurate(float high, float low) {
  const float kToInteger = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const float shifted = __fadd_rn(high, kToInteger);
  const float f = __fadd_rn(__fsub_rn(high, __fsub_rn(shifted, kToInteger)), low);
  float q = 0x1.448e68p-13f;
  q = __fmaf_rn(q, f, 0x1.5f442ep-10f);
  q = __fmaf_rn(q, f, 0x1.3b29acp-7f);
  q = __fmaf_rn(q, f, 0x1.c6aedap-5f);
  q = __fmaf_rn(q, f, 0x1.ebfbe0p-3f);
  q = __fmaf_rn(q, f, 0x1.62e430p-1f);
  const float mantissa = __fmaf_rn(q, f, 1.0f);
  const float scale = __uint_as_float((__float_as_uint(shifted) << 23) + 0x3f800000u);
  // The comparison is false for NaN, which must come through; it also catches -inf, whose f is NaN.
  return high < -126.0f ? 0.0f : __fmul_rn(mantissa, scale);
}

/// ln(1 + x) for x >= 0, within about one unit in the last place; NaN stays NaN.
///
/// 1 + x = 2^k * (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), and with s = f / (2 + f) the series of atanh gives
/// ln(1 + f) = 2s + s^3 * r(s^2) = f - s * (f - s^2 * r(s^2)), r the minimax polynomial of degree 3 (largest error 4e-11).
DEVICE float log1p_accurate(float x) {
  const Pair one_plus = two_sum(1.0f, x);
  // Adding the bits of 1 less those of sqrt(1/2) carries into the exponent exactly when the mantissa is sqrt(2) or more.
  const uint32_t k = ((__float_as_uint(one_plus.high) + (0x3f800000u - 0x3f3504f3u)) >> 23) - 127u;
  const float scale = __uint_as_float((127u - k) << 23);  // 2^-k
  // The second term is what 1 + x rounded away: for k = 0, f is x again.
  const float f = __fmaf_rn(one_plus.low, scale, __fmaf_rn(one_plus.high, scale, -1.0f));
  const float s = quotient(f, __fadd_rn(2.0f, f));
  const float z = __fmul_rn(s, s);
  float r = 0x1.decc6ep-3f;
  r = __fmaf_rn(r, z, 0x1.245778p-2f);
  r = __fmaf_rn(r, z, 0x1.9999f6p-2f);
  r = __fmaf_rn(r, z, 0x1.555556p-1f);
  const float log_mantissa = __fmaf_rn(-s, __fmaf_rn(-z, r, f), f);
  const float kLn2High = 0x1.62e400p-1f, kLn2Low = 0x1.7f7d1cp-20f;  // k * high is exact
  const float n = static_cast<float>(static_cast<int>(k));
  return __fmaf_rn(n, kLn2High, __fmaf_rn(n, kLn2Low, log_mantissa));
}
