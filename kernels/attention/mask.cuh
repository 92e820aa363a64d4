// Which keys a query sees, and what is added to its scores.
#pragma once

#include "attention/fragment.cuh"
#include "common/exact.cuh"
#include "params/attention.h"

/// Positions from `first` to `end`, without `end`; none if it is not above `first`.
struct Interval {
  int32_t first, end;
};

/// What one work item works on: a head of a batch entry, or of a packed sequence.
struct Sequence {
  uint32_t batch, head;
  /// Queries and keys of the sequence, and where they start in packed data, else 0.
  int32_t queries, keys;
  uint32_t first_query, first_key;
  /// Keys from this one on are hidden for all queries; at most `keys`.
  int32_t key_end;
};

/// Within what fits, `value`.
DEVICE int32_t clamped(int64_t value, int32_t low, int32_t high) {
  return static_cast<int32_t>(value < low ? low : value > high ? high : value);
}

/// The bands of a mask and the length of the keys, as a range of keys for every query. Lengths are at most 2^30, so sums of a
/// position and a limit fit.
struct Bands {
  int32_t first, last, key_end;

  DEVICE Bands(const AttentionMask& mask, const Sequence& sequence) : key_end(sequence.key_end) {
    const int64_t lower = int64_t{sequence.keys} - sequence.queries;
    const int64_t first = max(mask.top_left.first, mask.bottom_right.first + lower);
    const int64_t last = min(mask.top_left.last, mask.bottom_right.last + lower);
    this->first = clamped(first, -(1 << 30), 1 << 30);
    this->last = clamped(last, -(1 << 30) - 1, (1 << 30) - 1);
  }

  DEVICE Interval of(int32_t query) const { return {max(query + first, 0), min(query + last + 1, key_end)}; }
};

/// What a mask and the options say about single pairs of a query and a key, beyond the bands.
class Pairs {
 public:
  DEVICE Pairs(const AttentionForwardParams& p, const Sequence& sequence) : p(p), sequence(sequence) {}

  /// Whether there is a part of the mask that knows single pairs.
  DEVICE bool masked() const { return p.mask.bytes.data != nullptr || p.mask.query_segments.data != nullptr; }

  /// Whether bytes and segments show `key` to `query`; both are positions in the sequence, and there.
  DEVICE bool visible(int32_t query, int32_t key) const {
    const AttentionMask& mask = p.mask;
    const uint64_t q = uint64_t{sequence.first_query} + query, k = uint64_t{sequence.first_key} + key;
    bool visible = true;
    if (mask.bytes.data != nullptr) {
      const uint64_t at = start(mask.bytes) + q * mask.bytes.query + k * mask.bytes.key;
      visible = (__ldg(static_cast<const uint8_t*>(mask.bytes.data) + at) != 0) != (mask.bytes_hide != 0);
    }
    if (mask.query_segments.data != nullptr) {
      const AttentionRows &of_q = mask.query_segments, &of_k = mask.key_segments;
      visible = visible && __ldg(of_q.data + sequence.batch * of_q.batch + q * of_q.row) ==
                               __ldg(of_k.data + sequence.batch * of_k.batch + k * of_k.row);
    }
    return visible;
  }

  /// The bias of a pair that is there.
  DEVICE float bias(int32_t query, int32_t key) const {
    const uint64_t q = uint64_t{sequence.first_query} + query, k = uint64_t{sequence.first_key} + key;
    const uint64_t at = start(p.bias) + q * p.bias.query + k * p.bias.key;
    if (p.bias_type == ATTENTION_F32) return __ldg(static_cast<const float*>(p.bias.data) + at);
    const uint32_t word = __ldg(static_cast<const uint16_t*>(p.bias.data) + at);
    return p.bias_type == ATTENTION_F16 ? F16::low(word) : BF16::low(word);
  }

  /// What the distance from the lower diagonal is multiplied with.
  DEVICE float slope() const { return __ldg(p.slopes + sequence.batch * p.slopes_batch + sequence.head * p.slopes_head); }
  DEVICE float distance(int32_t query, int32_t key) const {
    return fabsf(static_cast<float>(query + sequence.keys - sequence.queries - key));
  }

 private:
  DEVICE uint64_t start(const AttentionPairs& pairs) const {
    return sequence.batch * pairs.batch + sequence.head * pairs.head;
  }

  const AttentionForwardParams& p;
  const Sequence& sequence;
};

/// cap * tanh(score / cap), from the exponential of the negative magnitude. -inf stays hidden.
DEVICE float capped(float score, float cap) {
  const float x = fabsf(score) / cap;
  // The series of tanh to x^9, where 1 - exp would cancel.
  const float square = __fmul_rn(x, x);
  float series = 0x1.664f48p-6f;
  series = __fmaf_rn(series, square, -0x1.ba1ba2p-5f);
  series = __fmaf_rn(series, square, 0x1.111112p-3f);
  series = __fmaf_rn(series, square, -0x1.555556p-2f);
  const float near = __fmaf_rn(__fmul_rn(x, square), series, x);
  float small;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(small) : "f"(__fmul_rn(x, -2.8853900817779268f)));
  const float far = quotient(__fsub_rn(1.0f, small), __fadd_rn(1.0f, small));
  const float result = copysignf(__fmul_rn(x < 0.25f ? near : far, cap), score);
  return score == -INFINITY ? score : result;
}
