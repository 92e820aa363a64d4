// Which keys a query sees, and what is added to its scores.
//
// A mask has two halves. Bands and lengths are ranges of keys (Bands), so a kernel knows where they begin, where they are whole and
// where they end. Bytes and segments were looked at before (attention_mask.cu): TileWalk goes from one tile of which they show
// something to the next, along keys or along queries, by what shown() says of tiles of any size. Of a tile that they show all of,
// nobody asks further; else Pairs has the bits of many keys of a query at once, and the segments of positions.
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
    // Bands may leave nothing between them.
    if (this->first > this->last) key_end = key_first;
  }

  DEVICE Interval of(int32_t query) const { return {max(query + first, key_first), min(query + last + 1, key_end)}; }
};

/// What bytes and segments show of a tile.
struct Shown {
  /// Whether a query may see a key of it; if not, none does.
  bool some;
  /// Whether every query of the sequence sees every key of it.
  bool all;
};

/// What bytes and segments show of the kQueries x kKeys pairs from `query` and `key` on, multiples of kQueries and kKeys; those are
/// multiples of what a cell has, and kKeys is a power of two. The tile has a query and a key of the sequence. Bands and lengths
/// of keys hide beyond that.
template <int kQueries, int kKeys>
DEVICE Shown shown(const AttentionCall& call, const Sequence& sequence, int32_t query, int32_t key) {
  static_assert(kQueries % ATTENTION_CELL_QUERIES == 0 && kKeys % ATTENTION_CELL_KEYS == 0 && 32 * ATTENTION_CELL_KEYS % kKeys == 0);
  const uint32_t query_end = min(query + kQueries, sequence.queries), key_end = min(key + kKeys, sequence.keys);
  Shown shown = {true, true};
  const AttentionBits& visible = call.mask.visible;
  if (visible.bits != nullptr) {
    const uint32_t first = key / ATTENTION_CELL_KEYS, cells = 0xffffffffu >> (32 - kKeys / ATTENTION_CELL_KEYS);
    const uint64_t of_head = sequence.batch * visible.cells_batch + sequence.head * visible.cells_head;
    uint32_t some = 0, all = key_end <= visible.keys && query_end <= visible.queries ? cells : 0;
    if (key < visible.keys) {
#pragma unroll
      for (int row = 0; row < kQueries; row += ATTENTION_CELL_QUERIES) {
        if (query + row >= min(query_end, visible.queries)) continue;
        const uint64_t at = of_head + (query + row) / ATTENTION_CELL_QUERIES * visible.cells_row + first / 32 * 2;
        const uint2 words = __ldg(reinterpret_cast<const uint2*>(visible.cells + at));
        some |= words.x >> first % 32;
        all &= words.y >> first % 32;
      }
    }
    shown = {(some & cells) != 0, all == cells};
  }
  if (call.mask.query_segments.data != nullptr) {
    const auto span = [&](const AttentionSegments& segments, uint32_t from, uint32_t end) {
      AttentionSpan span = {0x7fffffff, -0x7fffffff - 1};
      const AttentionSpan* spans = segments.spans + sequence.batch * segments.spans_batch;
      for (uint32_t at = from; at < min(end, segments.positions); at += ATTENTION_CELL_KEYS) {
        const uint2 words = __ldg(reinterpret_cast<const uint2*>(spans + at / ATTENTION_CELL_KEYS));
        span = {min(span.smallest, static_cast<int32_t>(words.x)), max(span.largest, static_cast<int32_t>(words.y))};
      }
      return span;
    };
    const AttentionSegments &of_q = call.mask.query_segments, &of_k = call.mask.key_segments;
    const AttentionSpan q = span(of_q, query, query_end), k = span(of_k, key, key_end);
    const bool one = q.smallest == q.largest && k.smallest == k.largest && q.smallest == k.smallest;
    shown.some &= q.smallest <= k.largest && k.smallest <= q.largest;
    shown.all &= one && query_end <= of_q.positions && key_end <= of_k.positions;
  }
  return shown;
}

/// Finds the tiles of a row or column of tiles of which something is shown, looking at 32 of them at once.
class TileWalk {
 public:
  /// Whether all of the tile that was found last is shown.
  bool all = false;

  /// The first tile at `position` or behind it, in steps of kStep, of which something is shown; `end` or more if there is none.
  /// `look(position)` says what is shown of the tile there. Positions must not decrease from call to call. All 32 lanes of a warp must
  /// call, all with the same arguments; all get the same.
  template <int kStep, class Look>
  DEVICE int32_t next(int32_t position, int32_t end, Look look) {
    while (position < end) {
      if (!looked || position >= first + 32 * kStep) {
        looked = true;
        first = position;
        // Unsigned, so that a position behind the largest one is no overflow.
        const uint32_t own = static_cast<uint32_t>(position) + threadIdx.x % 32 * kStep;
        Shown shown = {false, false};
        if (own < static_cast<uint32_t>(end)) shown = look(static_cast<int32_t>(own));
        some_of = __ballot_sync(0xffffffffu, shown.some);
        all_of = __ballot_sync(0xffffffffu, shown.all);
      }
      const uint32_t past = static_cast<uint32_t>(position - first) / kStep, rest = some_of >> past;
      if (rest != 0) {
        const uint32_t found = past + __ffs(rest) - 1;
        all = all_of >> found & 1;
        return first + static_cast<int32_t>(found * kStep);
      }
      position = first + 32 * kStep;
    }
    return position;
  }

 private:
  bool looked = false;
  int32_t first = 0;
  uint32_t some_of = 0, all_of = 0;
};

/// What a mask and the options say about single pairs of a query and a key, beyond the bands.
class Pairs {
 public:
  DEVICE Pairs(const AttentionCall& call, const Sequence& sequence) : call(call), sequence(sequence) {}

  /// Whether there is a part of the mask that knows single pairs.
  DEVICE bool masked() const { return by_bytes() || by_segments(); }
  DEVICE bool by_bytes() const { return call.mask.visible.bits != nullptr; }
  DEVICE bool by_segments() const { return call.mask.query_segments.data != nullptr; }

  /// Whether bytes and segments show `key` to `query`, positions in the sequence.
  DEVICE bool visible(int32_t query, int32_t key) const {
    bool visible = true;
    if (by_bytes()) {
      uint32_t word[1];
      load_bits<32>(word, query, key / 32 * 32);
      visible = word[0] >> key % 32 & 1;
    }
    if (by_segments()) {
      const Segment of_q = query_segment(query), of_k = key_segment(key);
      visible = visible && of_q.there && of_k.there && of_q.number == of_k.number;
    }
    return visible;
  }

  /// Which of kKeys keys from `key` on, a multiple of kKeys, bytes show to `query`: bit 0 of the first word is `key`. kKeys is a
  /// power of two from 16 to 128.
  template <int kKeys>
  DEVICE void load_bits(uint32_t (&words)[(kKeys + 31) / 32], int32_t query, int32_t key) const {
    const AttentionBits& visible = call.mask.visible;
    const uint64_t row = sequence.batch * visible.bits_batch + sequence.head * visible.bits_head + query * visible.bits_query;
    const bool there = query < visible.queries && key < visible.keys;
#pragma unroll
    for (int w = 0; w < (kKeys + 31) / 32; ++w) words[w] = there ? __ldg(visible.bits + row + key / 32 + w) >> key % 32 : 0;
  }

  /// The segment of a position, if it has one.
  struct Segment {
    bool there;
    int32_t number;
  };
  DEVICE Segment query_segment(int32_t query) const { return segment(call.mask.query_segments, query); }
  DEVICE Segment key_segment(int32_t key) const { return segment(call.mask.key_segments, key); }

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
  DEVICE Segment segment(const AttentionSegments& segments, int32_t position) const {
    if (position >= segments.positions) return {false, 0};
    return {true, __ldg(segments.data + sequence.batch * segments.batch + position * segments.position)};
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
