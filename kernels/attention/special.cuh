// Infinite and NaN elements of v in tiles where some queries do not see some keys.
//
// A hidden key has weight 0, and 0 * NaN is NaN: in an mma it would reach every query. Here what such elements do to the queries
// that see them is counted, in one more product of small powers of two, and then they are taken for 0. Rare, so it may be slow.
#pragma once

#include "attention/product.cuh"

/// The weight of a hidden key: a 0 that no exponential gives, and that sums and products take as any other.
constexpr float kHiddenWeight = -0.0f;

/// Operations on all elements that are packed in a word at once. A flag is the highest bit of an element.
template <class T>
struct Packed {
  static constexpr bool kWide = T::kBytes == 4;
  static constexpr uint32_t kFlags = kWide ? 0x80000000u : 0x80008000u;
  static constexpr uint32_t kInfinity = T::kMinusInfinity & ~kFlags;

  static DEVICE constexpr uint32_t power_of_two(int exponent) {
    if (kWide) return static_cast<uint32_t>(exponent + 127) << 23;
    const uint32_t half = T::kSmallest < 0x1p-126f ? static_cast<uint32_t>(exponent + 127) << 7 : static_cast<uint32_t>(exponent + 15) << 10;
    return half << 16 | half;
  }
  static DEVICE uint32_t all_bits(uint32_t flags) {
    return kWide ? (flags != 0 ? 0xffffffffu : 0u) : (flags >> 15) * 0xffffu;
  }
  static DEVICE uint32_t nonzero(uint32_t word) {
    // Adding all ones below the flag carries into it for everything but 0.
    return ((word & ~kFlags) + (kWide ? 0x7fffffffu : 0x7fff7fffu)) & kFlags;
  }
};

/// The sum over a tile's keys of code_of_weight * code_of_value says which elements that are not finite a query sees: the count of
/// +inf in units of 2^-7, that of -inf in units of 1, and 2^8 or more for a NaN, or an infinity whose weight is 0 after all.
template <class T>
DEVICE uint32_t code_of_value(uint32_t word) {
  using P = Packed<T>;
  const uint32_t special = not_finite<T>(word), nan = special & P::nonzero(word ^ P::kInfinity), infinite = special & ~nan;
  return (P::all_bits(nan) & P::power_of_two(8)) | (P::all_bits(infinite & ~word) & P::power_of_two(-7)) |
         (P::all_bits(infinite & word) & P::power_of_two(0));
}
template <class T>
DEVICE uint32_t code_of_weight(uint32_t word) {
  using P = Packed<T>;
  const uint32_t some = P::nonzero(word), vanished = ~word & ~some & P::kFlags;
  return (P::all_bits(some) & P::power_of_two(0)) | (P::all_bits(vanished) & P::power_of_two(15));
}

/// Adds to one warp's part of the output what it sees of infinite and NaN elements of v. Weights of hidden keys are kHiddenWeight.
/// All 32 lanes must call.
///
/// Not inlined, and on copies in local memory: the registers of the main loop are none of its business.
template <class S>
__device__ __noinline__ void add_special_values(float* output, const uint32_t* weights, uint32_t v_tile) {
  using T = typename S::T;
  // Of so many keys at once a count does not reach the next unit.
  constexpr int kPart = S::kKeys < 64 ? S::kKeys : 64, kPartSteps = kPart / S::kDepth;
  static_assert(S::kKeys % kPart == 0);
  const ValueAddress<S> v(v_tile);
#pragma unroll 1
  for (int t = 0; t < S::kRowTiles; ++t) {
#pragma unroll 1
    for (int pair = 0; pair < S::kHead / 16; ++pair) {
#pragma unroll 1
      for (int part = 0; part < Weights<S>::kSteps; part += kPartSteps) {
        float sums[2][4] = {};
#pragma unroll 1
        for (int step = part; step < part + kPartSteps; ++step) {
          uint32_t b[4], a[4];
          v.load(b, step, pair);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            a[i] = code_of_weight<T>(weights[(t * Weights<S>::kSteps + step) * 4 + i]);
            b[i] = code_of_value<T>(b[i]);
          }
          multiply_add<T>(sums[0], a, b[0], b[1]);
          multiply_add<T>(sums[1], a, b[2], b[3]);
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const float sum = sums[i / 4][i % 4], below = truncf(sum);
          float element = output[(t * (S::kHead / 16) + pair) * 8 + i];
          if (sum > below) element += INFINITY;
          if (below > 0.0f) element -= INFINITY;
          output[(t * (S::kHead / 16) + pair) * 8 + i] = below >= 128.0f ? NAN : element;
        }
      }
    }
  }
}

/// add_special_values on copies.
template <class S>
DEVICE void add_special(float (&output)[S::kRowTiles][S::kHead / 8][4], const Weights<S>& weights, uint32_t v_tile) {
  constexpr int kOutput = sizeof(output) / 4, kWeights = sizeof(weights) / 4;
  float outputs[kOutput];
  uint32_t words[kWeights];
#pragma unroll
  for (int i = 0; i < kOutput; ++i) outputs[i] = (&output[0][0][0])[i];
#pragma unroll
  for (int i = 0; i < kWeights; ++i) words[i] = (&weights.words[0][0][0])[i];
  add_special_values<S>(outputs, words, v_tile);
#pragma unroll
  for (int i = 0; i < kOutput; ++i) (&output[0][0][0])[i] = outputs[i];
}

/// Takes elements of a tile that are infinite or NaN for 0, those that the calling thread loaded.
template <class T, class Tile, int kRows, int kThreads>
DEVICE void clear_own_special(uint32_t tile) {
  using P = Packed<T>;
  own_chunks<kRows, Tile::kChunks, kThreads, 1>([&](uint32_t row, uint32_t chunk) {
    const uint32_t at = tile + Tile::at(row, chunk);
    uint4 words = load_shared(at);
    words.x &= ~P::all_bits(not_finite<T>(words.x));
    words.y &= ~P::all_bits(not_finite<T>(words.y));
    words.z &= ~P::all_bits(not_finite<T>(words.z));
    words.w &= ~P::all_bits(not_finite<T>(words.w));
    store_shared(at, words);
  });
}
