// Element types: how 32-bit words of memory become f32 and back. No CUDA header: a word holds one f32 or two 16-bit elements,
// the element with the lower index in the lower half.
#pragma once

#include <stdint.h>

#define DEVICE __device__ __forceinline__

struct F32 {
  static constexpr int kBytes = 4;
  static constexpr int kPerWord = 1;
  static constexpr int kPerVector = 4;  // elements in 16 bytes
  static constexpr uint32_t kMinusInfinity = 0xff800000u;
  static constexpr float kSmallest = 0x1p-149f;

  static DEVICE float low(uint32_t word) { return __uint_as_float(word); }
  static DEVICE float high(uint32_t word) { return __uint_as_float(word); }
  static DEVICE uint32_t pack(float low, float) { return __float_as_uint(low); }
  /// Element-wise maximum; a NaN loses against a number.
  static DEVICE uint32_t max(uint32_t a, uint32_t b) { return __float_as_uint(fmaxf(__uint_as_float(a), __uint_as_float(b))); }
};

struct F16 {
  static constexpr int kBytes = 2;
  static constexpr int kPerWord = 2;
  static constexpr int kPerVector = 8;
  static constexpr uint32_t kMinusInfinity = 0xfc00fc00u;
  static constexpr float kSmallest = 0x1p-24f;  // above 0

  static DEVICE float low(uint32_t word) {
    float value;
    asm("{\n\t.reg .b16 low, high;\n\tmov.b32 {low, high}, %1;\n\tcvt.f32.f16 %0, low;\n\t}" : "=f"(value) : "r"(word));
    return value;
  }
  static DEVICE float high(uint32_t word) {
    float value;
    asm("{\n\t.reg .b16 low, high;\n\tmov.b32 {low, high}, %1;\n\tcvt.f32.f16 %0, high;\n\t}" : "=f"(value) : "r"(word));
    return value;
  }
  static DEVICE uint32_t pack(float low, float high) {
    uint32_t word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
  }
  static DEVICE uint32_t max(uint32_t a, uint32_t b) {
    uint32_t word;
    asm("max.f16x2 %0, %1, %2;" : "=r"(word) : "r"(a), "r"(b));
    return word;
  }
};

struct BF16 {
  static constexpr int kBytes = 2;
  static constexpr int kPerWord = 2;
  static constexpr int kPerVector = 8;
  static constexpr uint32_t kMinusInfinity = 0xff80ff80u;
  static constexpr float kSmallest = 0x1p-133f;

  static DEVICE float low(uint32_t word) { return __uint_as_float(word << 16); }
  static DEVICE float high(uint32_t word) { return __uint_as_float(word & 0xffff0000u); }
  static DEVICE uint32_t pack(float low, float high) {
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
  }
  static DEVICE uint32_t max(uint32_t a, uint32_t b) {
    uint32_t word;
    asm("max.bf16x2 %0, %1, %2;" : "=r"(word) : "r"(a), "r"(b));
    return word;
  }
};

/// Element `i` of packed words. `i` must be a constant after unrolling, so that the words stay in registers.
template <class T>
DEVICE float element(const uint32_t* words, int i) {
  if constexpr (T::kPerWord == 1) return T::low(words[i]);
  return i % 2 == 0 ? T::low(words[i / 2]) : T::high(words[i / 2]);
}

/// The largest element of packed words. A NaN loses against a number; the sum of exponentials keeps it.
template <class T, int kWords>
DEVICE float largest(const uint32_t (&words)[kWords]) {
  uint32_t best = words[0];
#pragma unroll
  for (int i = 1; i < kWords; ++i) best = T::max(best, words[i]);
  return T::kPerWord == 1 ? T::low(best) : fmaxf(T::low(best), T::high(best));
}
