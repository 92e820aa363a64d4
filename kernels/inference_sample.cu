// Draws an index of every row with the probabilities of its softmax, after cuts that leave out unlikely entries.
//
//   mass_i = round(2^s * exp((x_i - max) / tau))     an integer; s = 62 less the bits of the row's length
//   kept   = { i : x_i >= threshold }                by top-k, then top-p, then min-p; equal logits stay or go together
//   target = floor(bits * sum(mass_i of kept) / 2^64),  bits 64 random ones
//   id     = the first kept i for which the masses of kept entries up to i, in the order of the row, add up to more than target
//
// Masses are integers, so sums are exact in any order: nothing shows which lane holds which element, and no sum that a threshold
// is compared with depends on how it was added up. A mass of 0 is never drawn, and no rounding can lead past the end.
//
// Nothing is materialised and nothing is sorted. Thresholds are found by narrowing an interval of keys (integers in the order of
// the logits): three pivots at a time, whose counts and masses one pass over the row adds up. Rows that fit in registers are read
// once for that; of longer ones, what lies between the pivots is put into shared memory as soon as it fits there, and narrowed
// there. Without cuts, a row is read twice: once for the maximum and once for the masses.
//
// kLanes lanes share a row (common/row.cuh says which holds what); the largest kernel takes longer rows piece by piece and keeps
// running sums by groups of pieces, so that only the piece with the target is looked at again, in the order of the row.
#include "common/entry.cuh"
#include "common/philox.cuh"
#include "common/reduce.cuh"
#include "common/row.cuh"

/// An integer of 64 bits as two words: in a struct without padding.
struct Mass {
  uint32_t low, high;

  static DEVICE Mass of(uint64_t value) { return {static_cast<uint32_t>(value), static_cast<uint32_t>(value >> 32)}; }
  DEVICE uint64_t value() const { return uint64_t{high} << 32 | low; }
};
DEVICE Mass shuffle_xor(Mass m, int mask) {
  return {__shfl_xor_sync(0xffffffffu, m.low, mask), __shfl_xor_sync(0xffffffffu, m.high, mask)};
}
struct AddMass {
  DEVICE Mass operator()(Mass a, Mass b) const { return Mass::of(a.value() + b.value()); }
};

/// Pivots of a pass.
constexpr int kPivots = 3;

/// What lies between each pivot and the end of the interval. 9 words: an odd number meets no bank twice.
struct Tally {
  struct {
    Mass mass;
    uint32_t count;
  } of[kPivots];
};
DEVICE Tally shuffle_xor(Tally t, int mask) {
#pragma unroll
  for (int i = 0; i < kPivots; ++i) {
    t.of[i] = {shuffle_xor(t.of[i].mass, mask), __shfl_xor_sync(0xffffffffu, t.of[i].count, mask)};
  }
  return t;
}
struct AddTally {
  DEVICE Tally operator()(Tally a, const Tally& b) const {
#pragma unroll
    for (int i = 0; i < kPivots; ++i) a.of[i] = {AddMass()(a.of[i].mass, b.of[i].mass), a.of[i].count + b.of[i].count};
    return a;
  }
};

/// The larger one; NaN if there is one.
struct LargerOrNan {
  DEVICE float operator()(float a, float b) const {
    asm("max.NaN.f32 %0, %0, %1;" : "+f"(a) : "f"(b));
    return a;
  }
};

/// Bits of an f32 that are the same in every key of T: keys leave them out.
template <class T>
constexpr int kSpareBits = 0;
template <>
constexpr int kSpareBits<F16> = 13;
template <>
constexpr int kSpareBits<BF16> = 16;

/// An integer in the order of the numbers; -0 and +0 are one.
DEVICE uint32_t ordered(float x) {
  const uint32_t bits = __float_as_uint(__fadd_rn(x, 0.0f));
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
}
template <class T>
DEVICE uint32_t key_of(float x) {
  return ordered(x) >> kSpareBits<T>;
}
/// The smallest key of a T that is not below x, any f32 but NaN.
template <class T>
DEVICE uint32_t key_from(float x) {
  const uint32_t up = ordered(x) & 0x80000000u ? (1u << kSpareBits<T>) - 1u : 0u;
  return (ordered(x) + up) >> kSpareBits<T>;
}
/// A number about where the key lies.
template <class T>
DEVICE float about(uint32_t key) {
  const uint32_t order = key << kSpareBits<T>;
  return __uint_as_float(order & 0x80000000u ? order ^ 0x80000000u : ~order);
}

/// Entries of a long row that wait in shared memory for their threshold.
constexpr uint32_t kCandidates = 4096;
/// Running sums of a long row.
constexpr uint32_t kGroups = 128;

/// Shared memory beyond that of the collectives. Rows of a single piece need none.
template <bool kLong>
struct LongRowSlots {
  float candidates[kCandidates];
  Slot<uint64_t> running[kGroups];
  uint32_t candidate_count;
};
template <>
struct LongRowSlots<false> {};

/// Shared memory of a block. Of each pair, the collectives of one kind take turns.
template <int kLanes>
struct Slots {
  MergeSlots<float, kLanes> for_max[2];
  MergeSlots<Mass, kLanes> for_mass[2];
  MergeSlots<Tally, kLanes> for_tally[2];
  MergeSlots<Mass, kLanes> for_scan;
  LongRowSlots<kLanes == 1024> of_long_row;
};

/// What a search for a threshold knows: the entries with keys from `low` on suffice, those from `high` on do not.
struct Interval {
  uint32_t low, high;
  /// Entries from `low` and from `high` on.
  uint32_t low_count, high_count;
  uint64_t high_mass;
};

/// One row after the other, seen by one of the lanes that share it.
template <class T, int kLanes, int kVectors>
class Sampler {
  using Piece = RowPiece<T, kLanes, kVectors>;
  static constexpr bool kLong = kLanes == 1024;
  static constexpr uint32_t kCapacity = kLanes * Piece::kElements;
  /// No piece.
  static constexpr uint32_t kNothing = ~0u;

 public:
  DEVICE Sampler(const SampleParams& p, Slots<kLanes>& slots) : p(p), slots(slots), lane(threadIdx.x % kLanes), turn(0) {
    if constexpr (kLong) {
      if (threadIdx.x == 0) slots.of_long_row.candidate_count = 0;
    }
  }

  /// All lanes that share the row must call.
  DEVICE void draw(uint64_t at) {
    position = at, held = kNothing;
    float largest = -INFINITY;
    each([&](float x) { largest = LargerOrNan()(largest, x); });
    const float max = row_reduce<kLanes>(largest, LargerOrNan(), slots.for_max[next_turn()]);
    if (!(fabsf(max) < INFINITY)) return refuse();

    const Scores<T> scores(p.tau, max);
    const float scale = p.one * (1.0f / Scores<T>::kScale);
    const auto mass_of = [&](float x) { return static_cast<uint64_t>(__float2ull_rn(scores.scaled_weight(x) * scale)); };
    const uint32_t threshold = find_threshold(max, mass_of);
    uint64_t all, kept;
    add_up(threshold, mass_of, all, kept);
    const RowRandom random(p.random, p.positions, position);
    const uint64_t bits = philox(random.seed, random.offset, random.row).first();
    pick(threshold, mass_of, scores, __umul64hi(bits, kept), all, kept);
  }

 private:
  DEVICE uint32_t next_turn() { return turn ^= 1u; }

  /// Nothing can be drawn.
  DEVICE void refuse() const {
    if (lane == 0) {
      p.ids[position] = 0, p.valid[position] = 0;
      if (p.log_probabilities != nullptr) p.log_probabilities[position] = NAN;
      if (p.kept_masses != nullptr) p.kept_masses[position] = 0.0f;
    }
  }

  /// Has the piece from element `begin` on in registers, the rest of it hidden. Returns its length.
  DEVICE uint32_t hold(uint32_t begin) {
    const uint32_t length = min(p.length - begin, kCapacity);
    if (held != begin) {
      piece.fill(T::kMinusInfinity);
      load(piece, p.input, p.input_units, p, position, begin, length, lane);
      held = begin;
    }
    return length;
  }

  template <class F>
  DEVICE void each_held(uint32_t length, F visit) const {
#pragma unroll
    for (int i = 0; i < Piece::kElements; ++i) {
      if (i > 0 && i % T::kPerVector == 0 && Piece::ends_before(i, length)) break;
      visit(piece.at(i));
    }
  }

  template <class F>
  DEVICE void each(F visit) {
#pragma unroll 1
    for (uint32_t begin = 0; begin < p.length; begin += kCapacity) each_held(hold(begin), visit);
  }

  /// The smallest key that stays. All lanes get the same.
  template <class MassOf>
  DEVICE uint32_t find_threshold(float max, MassOf mass_of) {
    const uint32_t end = key_of<T>(max) + 1;
    Interval kept = {key_of<T>(-INFINITY) + 1, end, p.length, 0, 0};
    if (p.top_k != 0) search<false>(kept, max, mass_of);
    kept = {kept.low, end, kept.low_count, 0, 0};
    if (p.top_p_share != 0) search<true>(kept, max, mass_of);
    const float least = __double2float_ru(__dadd_rn(max, p.min_p_margin));
    return ::max(kept.low, key_from<T>(least));
  }

  /// Narrows the interval until `low` is the largest key from which on entries suffice: as many as top-k asks for, or with the
  /// part of the mass from the first `low` on that top-p asks for. If nothing suffices, `low` stays.
  template <bool kByMass, class MassOf>
  DEVICE void search(Interval& interval, float max, MassOf mass_of) {
    uint64_t need = p.top_k;
    uint32_t candidates = 0;
    bool first = true, collected = false;
#pragma unroll 1
    while (first || interval.high - interval.low > 1) {
      if constexpr (kLong) {
        // Rows of one piece are in registers, and the count of longer ones is exact once it is this small.
        if (!collected && p.length > kCapacity && interval.low_count - interval.high_count <= kCandidates) {
          candidates = interval.low_count - interval.high_count;
          collect(interval);
          collected = true;
        }
      }
      uint32_t pivots[kPivots];
      choose(pivots, interval, max, first);
      Tally tally = {};
      const auto count = [&](float x) {
        const uint32_t key = key_of<T>(x);
        if (key < pivots[0] || key >= interval.high) return;
        const uint64_t mass = kByMass ? mass_of(x) : 0;
#pragma unroll
        for (int i = 0; i < kPivots; ++i) {
          if (key < pivots[i]) continue;
          if (kByMass) tally.of[i].mass = Mass::of(tally.of[i].mass.value() + mass);
          ++tally.of[i].count;
        }
      };
      if (kLong && collected) {
        if constexpr (kLong) {
          for (uint32_t i = lane; i < candidates; i += kLanes) count(slots.of_long_row.candidates[i]);
        }
      } else {
        each(count);
      }
      tally = row_reduce<kLanes>(tally, AddTally(), slots.for_tally[next_turn()]);

      const uint32_t high_count = interval.high_count;
      const uint64_t high_mass = interval.high_mass;
      if (first) {
        // The first pivot is `low` itself: what there is in all.
        interval.low_count = high_count + tally.of[0].count;
        if (kByMass) {
          const uint64_t all = tally.of[0].mass.value();
          need = __umul64hi(all, p.top_p_share) + (all * p.top_p_share != 0 ? 1 : 0);
        } else if (interval.low_count < need) {
          return;
        }
        first = false;
      }
      bool enough = true;
#pragma unroll
      for (int i = 0; i < kPivots; ++i) {
        const uint32_t entries = high_count + tally.of[i].count;
        const uint64_t mass = high_mass + tally.of[i].mass.value();
        if (!enough) continue;
        enough = (kByMass ? mass : entries) >= need;
        if (enough) {
          interval.low = pivots[i], interval.low_count = entries;
        } else {
          interval.high = pivots[i], interval.high_count = entries, interval.high_mass = mass;
        }
      }
    }
  }

  /// Three pivots in ascending order, at most one of them at `low` and none outside the interval. Any would give the same
  /// threshold; one of these halves the keys, and the others are where logits that are about as far apart as the temperature
  /// would have it.
  DEVICE void choose(uint32_t (&pivots)[kPivots], const Interval& interval, float max, bool first) const {
    const uint32_t low = interval.low, high = interval.high, half = low + (high - low) / 2;
    if (first) {
      pivots[0] = low, pivots[1] = inside(max - 4.0f * p.spread, interval), pivots[2] = high - 1;
      return;
    }
    const float low_value = about<T>(low), high_value = about<T>(high);
    const float step = max - high_value + p.spread;
    const bool far = max - low_value > 8.0f * step;
    const uint32_t a = inside(far ? max - 4.0f * step : low_value + (high_value - low_value) * (1.0f / 3.0f), interval);
    const uint32_t b = inside(far ? max - 2.0f * step : low_value + (high_value - low_value) * (2.0f / 3.0f), interval);
    pivots[0] = min(a, half), pivots[1] = min(::max(a, half), b), pivots[2] = ::max(b, half);
    if (pivots[0] > pivots[1]) {
      const uint32_t swapped = pivots[0];
      pivots[0] = pivots[1], pivots[1] = swapped;
    }
  }

  static DEVICE uint32_t inside(float value, const Interval& interval) {
    return min(::max(key_of<T>(value), interval.low + 1), interval.high - 1);
  }

  /// Puts what lies in the interval into shared memory, in any order.
  DEVICE void collect(const Interval& interval) {
    if constexpr (kLong) {
      each([&](float x) {
        const uint32_t key = key_of<T>(x);
        if (key >= interval.low && key < interval.high) {
          slots.of_long_row.candidates[atomicAdd(&slots.of_long_row.candidate_count, 1u)] = x;
        }
      });
      __syncthreads();
      // The collectives in between have their own barriers.
      if (threadIdx.x == 0) slots.of_long_row.candidate_count = 0;
    }
  }

  /// Pieces with one running sum.
  DEVICE uint32_t pieces_together() const { return (p.length - 1) / (kCapacity * kGroups) + 1; }

  /// Adds up the masses of all entries and of those that stay. All lanes get both.
  template <class MassOf>
  DEVICE void add_up(uint32_t threshold, MassOf mass_of, uint64_t& all, uint64_t& kept) {
    uint64_t own_all = 0, running = 0;
    const uint32_t together = kLong ? pieces_together() * kCapacity : kCapacity;
    uint32_t group = 0;
#pragma unroll 1
    for (uint32_t begin = 0; begin < p.length; begin += together, ++group) {
      uint64_t own_kept = 0;
#pragma unroll 1
      for (uint32_t part = begin; part < begin + together && part < p.length; part += kCapacity) {
        each_held(hold(part), [&](float x) {
          const uint64_t mass = mass_of(x);
          own_all += mass;
          if (key_of<T>(x) >= threshold) own_kept += mass;
        });
      }
      running += row_reduce<kLanes>(Mass::of(own_kept), AddMass(), slots.for_mass[next_turn()]).value();
      if constexpr (kLong) {
        if (threadIdx.x == 0) slots.of_long_row.running[group].value = running;
      }
    }
    // Also makes the running sums visible.
    all = row_reduce<kLanes>(Mass::of(own_all), AddMass(), slots.for_mass[next_turn()]).value();
    kept = running;
  }

  /// Finds the entry with the target, and writes what is asked for.
  template <class MassOf>
  DEVICE void pick(uint32_t threshold, MassOf mass_of, const Scores<T>& scores, uint64_t target, uint64_t all, uint64_t kept) {
    uint32_t begin = 0;
    if constexpr (kLong) begin = piece_with(threshold, mass_of, target);
    const uint32_t length = min(p.length - begin, kCapacity);

    // A lane has neighbouring elements here, so that a scan over the lanes is one along the row.
    const uint32_t share = (length + kLanes - 1) / kLanes;
    const uint32_t from = lane * share, to = min(from + share, length);
    const uint64_t offset = position_offset(p.positions, p.input.strides, position) + uint64_t{begin} * p.input.stride;
    const char* data = static_cast<const char*>(p.input.data) + offset * T::kBytes;
    const auto element_at = [&](uint32_t i) {
      const char* at = data + i * p.input.stride * T::kBytes;
      if constexpr (T::kBytes == 4) return T::low(__ldg(reinterpret_cast<const unsigned int*>(at)));
      return T::low(__ldg(reinterpret_cast<const unsigned short*>(at)));
    };
    const auto kept_mass = [&](uint32_t i) {
      const float x = element_at(i);
      return key_of<T>(x) >= threshold ? mass_of(x) : uint64_t{0};
    };
    uint64_t own = 0;
    for (uint32_t i = from; i < to; ++i) own += kept_mass(i);
    const uint64_t before = sum_before(own);
    if (target < before || target - before >= own) return;
    uint64_t left = target - before;
    uint32_t i = from;
    for (uint64_t mass = kept_mass(i); left >= mass; mass = kept_mass(i)) left -= mass, ++i;

    p.ids[position] = begin + i, p.valid[position] = 1;
    if (p.log_probabilities != nullptr) {
      // What is kept weighs one largest entry, which is exact, and the others.
      const float unit = __uint_as_float((127u - p.one_log2) << 23);
      const Pair others = split(__ull2double_rn(kept - (uint64_t{1} << p.one_log2)) * unit);
      p.log_probabilities[position] = scores.log_probability(element_at(i), log1p_accurate(others));
    }
    if (p.kept_masses != nullptr) {
      p.kept_masses[position] = kept == all ? 1.0f : quotient(__ull2float_rn(kept), __ull2float_rn(all));
    }
  }

  /// The first element of the piece with the target, which becomes one within the piece.
  template <class MassOf>
  DEVICE uint32_t piece_with(uint32_t threshold, MassOf mass_of, uint64_t& target) {
    const auto& running = slots.of_long_row.running;
    const uint32_t together = pieces_together() * kCapacity;
    // The first group whose running sum is above the target.
    uint32_t group = 0, end = (p.length - 1) / together + 1;
    while (group < end) {
      const uint32_t middle = (group + end) / 2;
      if (running[middle].value > target) {
        end = middle;
      } else {
        group = middle + 1;
      }
    }
    if (group > 0) target -= running[group - 1].value;
    uint32_t begin = group * together;
    if (together == kCapacity) return begin;
    while (true) {
      uint64_t own = 0;
      each_held(hold(begin), [&](float x) {
        if (key_of<T>(x) >= threshold) own += mass_of(x);
      });
      const uint64_t sum = row_reduce<kLanes>(Mass::of(own), AddMass(), slots.for_mass[next_turn()]).value();
      if (target < sum) return begin;
      target -= sum, begin += kCapacity;
    }
  }

  /// The sum of the values of the lanes before this one. All lanes that share the row must call. Contains a barrier if a row has
  /// more than one warp.
  DEVICE uint64_t sum_before(uint64_t own) {
    const uint32_t in_warp = threadIdx.x % 32;
    uint64_t sum = own;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const uint64_t other = __shfl_up_sync(0xffffffffu, static_cast<unsigned long long>(sum), distance);
      if (in_warp >= distance) sum += other;
    }
    if constexpr (kRowWarps<kLanes> > 1) {
      if (in_warp == 31) slots.for_scan.of_warp[threadIdx.x / 32] = {Mass::of(sum)};
      __syncthreads();
      const uint32_t warp = in_warp % kRowWarps<kLanes>;
      const Mass of_warp = slots.for_scan.of_warp[warp].value;
      const Mass counted = warp < threadIdx.x / 32 ? of_warp : Mass{0, 0};
      return sum - own + warp_reduce<kRowWarps<kLanes>>(counted, AddMass()).value();
    }
    return sum - own;
  }

  const SampleParams& p;
  Slots<kLanes>& slots;
  const uint32_t lane;
  uint32_t turn;
  uint64_t position;
  Piece piece;
  /// First element of the piece in registers.
  uint32_t held;
};

template <class T, int kLanes, int kVectors>
DEVICE void sample(const SampleParams& p) {
  constexpr int kRows = kThreads<kLanes> / kLanes;
  __shared__ Slots<kLanes> slots;
  Sampler<T, kLanes, kVectors> sampler(p, slots);
  // Lanes that share a row come and go together; rows that share a block have warps of their own, and no barriers.
  for (uint64_t row = uint64_t{blockIdx.x} * kRows + threadIdx.x / kLanes; row < p.positions.count; row += uint64_t{gridDim.x} * kRows) {
    sampler.draw(row);
  }
}

// kLanes x kVectors x 16 bytes is a piece. Rows of the largest kernel may have many.
#define SAMPLE(name, T, lanes, vectors)                                                      \
  extern "C" __global__ void __launch_bounds__(kThreads<lanes>)                              \
      sample_##name##_##lanes##x##vectors(const __grid_constant__ SampleParams p) {          \
    sample<T, lanes, vectors>(p);                                                            \
  }

FOR_EACH_DTYPE(SAMPLE, 32, 4)
FOR_EACH_DTYPE(SAMPLE, 256, 4)
FOR_EACH_DTYPE(SAMPLE, 1024, 2)
