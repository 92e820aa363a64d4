// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011):
// 128 random bits that depend on a key of 64 bits and a counter of 128, and on nothing else. Any lane can draw anyone's bits.
#pragma once

#include "common/index.cuh"
#include "params/inference_sample.h"

/// 128 random bits.
struct RandomWords {
  uint32_t words[4];

  /// The first 64 bits.
  DEVICE uint64_t first() const { return uint64_t{words[1]} << 32 | words[0]; }
};

/// Ten rounds. The counter's words are, in order, the lower and upper halves of `low`, then of `high`; the key's those of `key`.
DEVICE RandomWords philox(uint64_t key, uint64_t low, uint64_t high) {
  uint32_t c0 = static_cast<uint32_t>(low), c1 = static_cast<uint32_t>(low >> 32);
  uint32_t c2 = static_cast<uint32_t>(high), c3 = static_cast<uint32_t>(high >> 32);
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * c0, b = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

/// The random bits of one row: key and first half of the counter; `row` is what the row puts into the second half.
struct RowRandom {
  uint64_t seed, offset, row;

  DEVICE RowRandom(const RandomSource& source, const Positions& positions, uint64_t position)
      : seed(source.seed), offset(source.offset), row(position) {
    if (source.call.data != nullptr) {
      const unsigned long long* call = static_cast<const unsigned long long*>(source.call.data);
      seed = __ldg(call), offset = __ldg(call + source.call.stride);
    } else if (source.seeds.data != nullptr) {
      seed = __ldg(static_cast<const unsigned long long*>(source.seeds.data) + position_offset(positions, source.seeds.strides, position));
      row = 0;
    }
  }
};
