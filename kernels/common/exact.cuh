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

/// A double as two words: a struct of it and a float has no padding, and lies in shared memory without bank conflicts.
struct Words {
  int low, high;

  static DEVICE Words of(double value) { return {__double2loint(value), __double2hiint(value)}; }
  DEVICE double value() const { return __hiloint2double(high, low); }
};

/// A running sum good to about 2^-75 of its largest term: the plain sum of the terms in f32, and what its roundings lost.
/// `high` keeps the sign of an infinity, whatever becomes of the rest.
struct LongSum {
  float high;
  Words lost;
};

/// Adds `value` to a running sum.
DEVICE void accumulate(double& sum, float value) { sum = __dadd_rn(sum, static_cast<double>(value)); }
DEVICE void accumulate_low(LongSum& sum, float value) {
  sum.lost = Words::of(__dadd_rn(sum.lost.value(), static_cast<double>(value)));
}
DEVICE void accumulate(LongSum& sum, float value) {
  const Pair exact = two_sum(sum.high, value);
  sum.high = exact.high;
  accumulate_low(sum, exact.low);
}

DEVICE LongSum add(LongSum a, LongSum b) {
  accumulate(a, b.high);
  a.lost = Words::of(__dadd_rn(a.lost.value(), b.lost.value()));
  return a;
}

/// The unevaluated sum `high + low + lowest`, each part at most half a unit in the last place of the one before. An infinite or
/// NaN sum has nothing but `high`.
struct Triple {
  float high, low, lowest;
};

DEVICE Triple settled(LongSum sum) {
  const double high = sum.high, lost = fabsf(sum.high) < INFINITY ? sum.lost.value() : 0.0;
  // The sum of the two, in two doubles.
  const double total = __dadd_rn(high, lost);
  const double lost_part = __dsub_rn(total, high);
  const double rest = __dadd_rn(__dsub_rn(high, __dsub_rn(total, lost_part)), __dsub_rn(lost, lost_part));
  const float first = __double2float_rn(total);
  if (!(fabsf(first) < INFINITY)) return {first, 0.0f, 0.0f};
  const double left = __dadd_rn(__dsub_rn(total, static_cast<double>(first)), rest);
  const float second = __double2float_rn(left);
  return {first, second, __double2float_rn(__dsub_rn(left, static_cast<double>(second)))};
}

/// minuend - sum, for a settled sum. Where the two cancel the differences are exact, and the lower parts bring back what the
/// high part had rounded away.
DEVICE float difference(float minuend, Pair sum) { return __fsub_rn(__fsub_rn(minuend, sum.high), sum.low); }
DEVICE float difference(float minuend, Triple sum) {
  return __fsub_rn(__fsub_rn(__fsub_rn(minuend, sum.high), sum.low), sum.lowest);
}

/// `x` as an unevaluated sum, good to 2^-48. What f32 cannot hold becomes infinite, and has no low part.
DEVICE Pair split(double x) {
  const float high = __double2float_rn(x);
  const float low = __double2float_rn(__dsub_rn(x, static_cast<double>(high)));
  return {high, fabsf(high) < INFINITY ? low : 0.0f};
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

/// 2^(24 + high + low) for high + low <= 0, within 0.6 units in the last place; 0 below 2^-150, where 2^24 times the result
/// leaves the normal numbers. 2^0 is exactly 1, NaN stays NaN.
///
/// high is cut into the nearest integer n and f in [-0.5, 0.5]; 2^f is 1 + f * q(f), q the minimax polynomial of degree 5 for
/// (2^f - 1) / f (largest error 2e-9 of 2^f); n goes to the exponent.
DEVICE float exp2_times_2_24(float high, float low) {
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
  const float scale = __uint_as_float((__float_as_uint(shifted) << 23) + ((127u + 24u) << 23));
  // The comparison is false for NaN, which must come through; it also catches -inf, whose f is NaN.
  return high < -150.0f ? 0.0f : __fmul_rn(mantissa, scale);
}

/// ln(y + low) for a settled y above 0 (not subnormal), within about one unit in the last place; NaN stays NaN.
///
/// y = 2^k * (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), and with s = f / (2 + f) the series of atanh gives
/// ln(1 + f) = 2s + s^3 * r(s^2) = f - s * (f - s^2 * r(s^2)), r the minimax polynomial of degree 3 (largest error 4e-11).
///
/// What `low` adds changes that by low / y, and matters only where the logarithm is small and 1 + f is y.
DEVICE float log_accurate(Pair y, float low) {
  // Adding the bits of 1 less those of sqrt(1/2) carries into the exponent exactly when the mantissa is sqrt(2) or more.
  const uint32_t k = ((__float_as_uint(y.high) + (0x3f800000u - 0x3f3504f3u)) >> 23) - 127u;
  const float scale = __uint_as_float((127u - k) << 23);  // 2^-k
  // The second term is what y.high leaves out: where y is 1 + x and k = 0, f is x again.
  const float f = __fmaf_rn(y.low, scale, __fmaf_rn(y.high, scale, -1.0f));
  const float s = quotient(f, __fadd_rn(2.0f, f));
  const float z = __fmul_rn(s, s);
  float r = 0x1.decc6ep-3f;
  r = __fmaf_rn(r, z, 0x1.245778p-2f);
  r = __fmaf_rn(r, z, 0x1.9999f6p-2f);
  r = __fmaf_rn(r, z, 0x1.555556p-1f);
  const float rest = __fmul_rn(low, scale);
  const float log_mantissa = __fadd_rn(f, __fmaf_rn(-s, __fmaf_rn(-z, r, f), __fmaf_rn(-f, rest, rest)));
  const float kLn2High = 0x1.62e400p-1f, kLn2Low = 0x1.7f7d1cp-20f;  // k * high is exact
  const float n = static_cast<float>(static_cast<int>(k));
  return __fmaf_rn(n, kLn2High, __fmaf_rn(n, kLn2Low, log_mantissa));
}

/// ln(1 + x) for a settled x >= 0, within about one unit in the last place; NaN stays NaN.
DEVICE float log1p_accurate(Pair x) { return log_accurate(two_sum(1.0f, x.high), x.low); }

DEVICE float log1p_accurate(float x) { return log1p_accurate(Pair{x, 0.0f}); }

/// 2^(k/32) as high + low, k = 0 to 31. Each lane of a warp reads another entry: constant memory would take 32 turns for that.
__device__ const float2 kRootsOfTwo[32] = {
    {0x1p+0f, 0.0f}, {0x1.059b0ep+0f, -0x1.9d4f52p-25f}, {0x1.0b5586p+0f, 0x1.9f3122p-25f}, {0x1.11301ep+0f, -0x1.fdb496p-25f},
    {0x1.172b84p+0f, -0x1.c15742p-27f}, {0x1.1d4874p+0f, -0x1.d2e8cap-25f}, {0x1.2387a6p+0f, 0x1.ceac48p-25f}, {0x1.29e9ep+0f, -0x1.5c0424p-25f},
    {0x1.306fep+0f, 0x1.4636e2p-25f}, {0x1.371a74p+0f, -0x1.18aac6p-25f}, {0x1.3dea64p+0f, 0x1.824684p-25f}, {0x1.44e086p+0f, 0x1.8624b4p-30f},
    {0x1.4bfdaep+0f, -0x1.593abcp-25f}, {0x1.5342b6p+0f, -0x1.2c561p-25f}, {0x1.5ab07ep+0f, -0x1.5bd5ecp-27f}, {0x1.6247ecp+0f, -0x1.f8b55p-25f},
    {0x1.6a09e6p+0f, 0x1.9fcef4p-26f}, {0x1.71f75ep+0f, 0x1.1d8beep-25f}, {0x1.7a1148p+0f, -0x1.829fdp-25f}, {0x1.82589ap+0f, -0x1.accc7cp-26f},
    {0x1.8ace54p+0f, 0x1.15506ep-27f}, {0x1.93737cp+0f, -0x1.e64744p-25f}, {0x1.9c4918p+0f, 0x1.51f848p-27f}, {0x1.a5503cp+0f, -0x1.b83b54p-25f},
    {0x1.ae89fap+0f, -0x1.a94b14p-26f}, {0x1.b7f77p+0f, -0x1.a09438p-25f}, {0x1.c199bep+0f, -0x1.3d56b2p-27f}, {0x1.cb720ep+0f, -0x1.8837ccp-27f},
    {0x1.d5818ep+0f, -0x1.822dbcp-27f}, {0x1.dfc974p+0f, -0x1.908c94p-25f}, {0x1.ea4afap+0f, 0x1.52486cp-27f}, {0x1.f50766p+0f, -0x1.246ebp-26f}};

/// exp(x) to about 2^-44, as `mantissa` * `scale`, a power of two; a scale of 0 where exp(x) is below the normal numbers, and
/// an infinite one where it is above. Near x = 0, mantissa - 1 is that precise too: mantissa.high is 1 and mantissa.low is x.
struct PreciseExp {
  Pair mantissa;
  float scale;
};

/// `x`, or the nearer end of what exp can tell apart: exponents from -127 to 128. NaN stays NaN.
DEVICE float within_exp(float x) {
  asm("max.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(-88.0f));
  asm("min.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(88.75f));
  return x;
}

/// Computes PreciseExp. x is cut into j * ln(2) / 32 and a rest h below 0.011; exp(h) - 1 takes three exact terms and a short
/// polynomial, and each lane of the warp keeps one entry of the table 2^(k/32), which is looked up by shuffles.
class PreciseExpTable {
 public:
  /// A table that is not `used` is not read.
  explicit DEVICE PreciseExpTable(bool used) : entry{0.0f, 0.0f} {
    // The lane, also in blocks with rows of threads.
    if (used) entry = __ldg(kRootsOfTwo + (threadIdx.y * blockDim.x + threadIdx.x) % 32);
  }

  /// All 32 lanes of the warp must call. NaN stays NaN.
  DEVICE PreciseExp exp(float x) const {
    x = within_exp(x);
    const float kToInteger = 12582912.0f;  // 1.5 * 2^23: adding it leaves j in the low bits, with nothing but zeros up to bit 22
    const float shifted = __fmaf_rn(x, 0x1.715476p+5f, kToInteger);
    const uint32_t j = __float_as_uint(shifted);
    const float n = __fsub_rn(shifted, kToInteger);
    // ln(2) / 32 in two parts. x less n times the first is exact: it has no bits below both 2^-24 of x and 2^-29.
    const Pair h = fast_two_sum(__fmaf_rn(-n, 0x1.62e43p-6f, x), __fmul_rn(-n, -0x1.05c61p-34f));
    const Pair square = two_product(h.high, h.high);
    const float cubic = __fmul_rn(
        __fmul_rn(h.high, square.high),
        __fmaf_rn(__fmaf_rn(0x1.111152p-7f, h.high, 0x1.55559ap-5f), h.high, 0x1.555556p-3f));
    // expm1(h) = h + h^2 / 2 + cubic
    const Pair minus_one = fast_two_sum(h.high, 0.5f * square.high);
    const float minus_one_low = __fadd_rn(
        minus_one.low, __fadd_rn(__fmaf_rn(h.high, h.low, __fmaf_rn(0.5f, square.low, h.low)), cubic));
    // A shuffle takes the lane modulo 32.
    const Pair root = {__shfl_sync(0xffffffffu, entry.x, j), __shfl_sync(0xffffffffu, entry.y, j)};
    const Pair product = two_product(root.high, minus_one.high);
    const Pair mantissa = fast_two_sum(root.high, product.high);
    const float low = __fmaf_rn(root.high, minus_one_low, __fmaf_rn(root.low, minus_one.high, __fadd_rn(root.low, product.low)));
    const float scale = __uint_as_float(((j & ~31u) << 18) + (127u << 23));  // 2^(j / 32, rounded down)
    return {{mantissa.high, __fadd_rn(mantissa.low, low)}, scale};
  }

 private:
  float2 entry;
};
