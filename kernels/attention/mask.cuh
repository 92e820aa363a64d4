// Which keys a query sees, and what is added to its scores.
#pragma once

#include "attention/sequence.cuh"
#include "common/exact.cuh"

/// The bands of a mask and the length of the keys, as a range of keys for every query. Lengths are at most 2^30, so sums of a
/// position and a limit fit.
struct Bands {
  int32_t first, last, key_first, key_end;

  DEVICE Bands(const AttentionMask& mask, const Sequence& sequence) : key_first(mask.first_key), key_end(sequence.key_end) {
    const int64_t lower = int64_t{sequence.keys} - sequence.queries;
    const int64_t first = max(mask.top_left.first, mask.bottom_right.first + lower);
    const int64_t last = min(mask.top_left.last, mask.bottom_right.last + lower);
    this->first = clamped(first, -(1 << 30), 1 << 30);
    this->last = clamped(last, -(1 << 30) - 1, (1 << 30) - 1);
  }

  DEVICE Interval of(int32_t query) const { return {max(query + first, key_first), min(query + last + 1, key_end)}; }
};

/// What a mask and the options say about single pairs of a query and a key, beyond the bands.
class Pairs {
 public:
  DEVICE Pairs(const AttentionCall& call, const Sequence& sequence) : call(call), sequence(sequence) {}

  /// Whether there is a part of the mask that knows single pairs.
  DEVICE bool masked() const { return call.mask.bytes.data != nullptr || call.mask.query_segments.data != nullptr; }

  /// Whether bytes and segments show `key` to `query`, positions in the sequence.
  DEVICE bool visible(int32_t query, int32_t key) const {
    const AttentionMask& mask = call.mask;
    bool visible = true;
    if (mask.bytes.data != nullptr) {
      visible = known(mask.bytes, query, key) &&
                (__ldg(static_cast<const uint8_t*>(mask.bytes.data) + offset(mask.bytes, query, key)) != 0) != (mask.bytes_hide != 0);
    }
    if (mask.query_segments.data != nullptr) {
      const AttentionPositions &of_q = mask.query_segments, &of_k = mask.key_segments;
      visible = visible && query < of_q.positions && key < of_k.positions && segment(of_q, query) == segment(of_k, key);
    }
    return visible;
  }

  /// The bias of a pair; -inf where there is none.
  DEVICE float bias(int32_t query, int32_t key) const {
    if (!known(call.scores.bias, query, key)) return -INFINITY;
    const uint64_t at = offset(call.scores.bias, query, key);
    if (call.scores.bias_type == ATTENTION_F32) return __ldg(static_cast<const float*>(call.scores.bias.data) + at);
    const uint32_t word = __ldg(static_cast<const uint16_t*>(call.scores.bias.data) + at);
    return call.scores.bias_type == ATTENTION_F16 ? F16::low(word) : BF16::low(word);
  }

  /// What the distance from the diagonal is multiplied with.
  DEVICE float slope() const { return __ldg(call.scores.slopes + sequence.batch * call.scores.slopes_batch + sequence.head * call.scores.slopes_head); }
  DEVICE float distance(int32_t query, int32_t key) const {
    const int32_t own = query + (call.scores.slopes_bottom_right != 0 ? sequence.keys - sequence.queries : 0);
    return fabsf(static_cast<float>(own - key));
  }

 private:
  static DEVICE bool known(const AttentionPairs& pairs, int32_t query, int32_t key) { return query < pairs.queries && key < pairs.keys; }
  DEVICE uint64_t offset(const AttentionPairs& pairs, int32_t query, int32_t key) const {
    return sequence.batch * pairs.batch + sequence.head * pairs.head + query * pairs.query + key * pairs.key;
  }
  DEVICE int32_t segment(const AttentionPositions& positions, int32_t position) const {
    return __ldg(positions.data + sequence.batch * positions.batch + position * positions.position);
  }

  const AttentionCall& call;
  const Sequence& sequence;
};

/// cap * tanh(score / cap), from the exponential of the negative magnitude.
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
  return copysignf(__fmul_rn(x < 0.25f ? near : far, cap), score);
}
