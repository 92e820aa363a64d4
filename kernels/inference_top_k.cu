// The k largest elements of every row, largest first, and where they are: of equal ones the first come first; a NaN is larger than
// any number, and -0 equals +0.
//
// An element's rank is one integer: its bits mapped so that they compare as the numbers do, and below them its index counted from
// the end. Ranks differ, so whatever order they are met in, the k largest are the same, and nothing but integers is added.
//
// A block works on a row, which lanes hold as in common/row.cuh; rows of one piece stay in registers, longer ones are read twice.
//   1. Each lane finds its largest rank. The k-th largest of these is a bound: k elements reach it.
//   2. Ranks that reach the bound are gathered in shared memory, in any order: on most rows few more than k.
//   3. If they do not fit, the k-th largest of all ranks is the bound instead, and exactly k reach it.
//   4. They are sorted (bitonic), and the first k written. Neither the row nor its ranks are ever sorted or written whole.
// The k-th largest is found byte by byte from the top: 256 counters, and the byte in which the k-th lies; the next bytes of ranks
// that begin otherwise no longer count.
#include "common/entry.cuh"
#include "common/reduce.cuh"
#include "common/row.cuh"
#include "params/inference.h"

/// Ranks that fit in shared memory.
constexpr uint32_t kGathered = 2 * SUMEXP_TOP_K_MOST;

/// Shared memory of a row.
struct TopKSlots {
  uint64_t gathered[kGathered];
  uint32_t counts[256];
  unsigned int found;
};

/// The bits of element `i` of packed words.
template <class T>
DEVICE uint32_t bits_of(const uint32_t* words, int i) {
  if constexpr (T::kPerWord == 1) return words[i];
  return i % 2 == 0 ? words[i / 2] & 0xffffu : words[i / 2] >> 16;
}

/// An integer above 0 that is larger the larger the element is.
template <class T>
DEVICE uint32_t key_of(uint32_t bits) {
  constexpr uint32_t kSign = 1u << (8 * T::kBytes - 1), kMagnitude = kSign - 1, kInfinity = T::kMinusInfinity & kMagnitude;
  const uint32_t magnitude = bits & kMagnitude;
  if (magnitude > kInfinity) return kSign | kMagnitude;
  if (magnitude == 0) return kSign;
  return bits & kSign ? kMagnitude - magnitude : bits | kSign;
}

/// Where the byte of a counter lies: the eight counters that a lane reads are 32 words apart, so lanes meet different banks.
DEVICE uint32_t counter_of(uint32_t byte) { return byte % 8 * 32 + byte / 8; }

/// The number that exactly `wanted` of the ranks reach, for ranks of so many bits. each_rank(f) calls f with ranks, of which there
/// must be `wanted` or more in the block. All threads of the block must call, and get the result. Contains three barriers per byte.
template <class EachRank>
DEVICE uint64_t bound_of(uint32_t wanted, uint32_t bits, uint32_t (&counts)[256], EachRank each_rank) {
  const uint32_t lane = threadIdx.x % 32;
  uint64_t prefix = 0;
  for (uint32_t shift = bits - 8;; shift -= 8) {
    for (uint32_t i = threadIdx.x; i < 256; i += blockDim.x) counts[i] = 0;
    __syncthreads();
    each_rank([&](uint64_t rank) {
      if (rank >> shift >> 8 == prefix) atomicAdd(&counts[counter_of(static_cast<uint32_t>(rank >> shift) & 255u)], 1u);
    });
    __syncthreads();
    // Every warp looks for the byte; lane l at bytes 255 - 8l down to 248 - 8l.
    uint32_t of_lane = 0;
    for (uint32_t i = 0; i < 8; ++i) of_lane += counts[counter_of(255 - 8 * lane - i)];
    uint32_t reached = of_lane;
    for (uint32_t step = 1; step < 32; step *= 2) {
      const uint32_t of_lower = __shfl_up_sync(0xffffffffu, reached, step);
      if (lane >= step) reached += of_lower;
    }
    const bool here = reached - of_lane < wanted && wanted <= reached;
    uint32_t above = reached - of_lane, count = counts[counter_of(255 - 8 * lane)], byte = 255 - 8 * lane;
    for (uint32_t i = 1; here && i < 8 && above + count < wanted; ++i) {
      above += count;
      count = counts[counter_of(--byte)];
    }
    const int owner = __ffs(__ballot_sync(0xffffffffu, here)) - 1;
    byte = __shfl_sync(0xffffffffu, byte, owner);
    wanted -= __shfl_sync(0xffffffffu, above, owner);
    count = __shfl_sync(0xffffffffu, count, owner);
    prefix = prefix << 8 | byte;
    __syncthreads();
    // Ranks differ, so at the last byte there is one.
    if (count == wanted || shift == 0) return prefix << shift;
  }
}

/// Sorts `count` ranks, a power of two, largest first. All threads of the block must call. Contains a barrier behind each step.
DEVICE void sort_descending(uint64_t* ranks, uint32_t count) {
  for (uint32_t size = 2; size <= count; size *= 2) {
    for (uint32_t stride = size / 2; stride > 0; stride /= 2) {
      for (uint32_t pair = threadIdx.x; pair < count / 2; pair += blockDim.x) {
        const uint32_t first = 2 * pair - (pair & (stride - 1));
        const uint64_t a = ranks[first], b = ranks[first + stride];
        if ((a < b) == ((first & size) == 0)) ranks[first] = b, ranks[first + stride] = a;
      }
      __syncthreads();
    }
  }
}

template <class T, int kLanes, int kVectors>
DEVICE void top_k(const TopKParams& p) {
  using Piece = RowPiece<T, kLanes, kVectors>;
  constexpr uint64_t kCapacity = uint64_t{kLanes} * Piece::kElements;
  __shared__ TopKSlots slots;
  const uint32_t lane = threadIdx.x;
  const uint32_t index_bits = 8 * p.index_bytes, bits = 8 * T::kBytes + index_bits;
  const uint32_t last = static_cast<uint32_t>(p.length - 1);

  for (uint64_t position = blockIdx.x; position < p.positions.count; position += gridDim.x) {
    const uint64_t offset = position_offset(p.positions, p.input.strides, position);
    Piece x;
    x.fill(0);
    if (p.length <= kCapacity) load(x, p.input, p.input_units, p, position, 0, static_cast<uint32_t>(p.length), lane);
    // Calls f(key, index) with the lane's elements, in the order of the row.
    const auto each_element = [&](auto f) {
      for (uint64_t begin = 0; begin < p.length; begin += kCapacity) {
        const uint64_t rest = p.length - begin;
        const uint32_t length = static_cast<uint32_t>(rest < kCapacity ? rest : kCapacity);
        // A row of one piece is still there.
        if (p.length > kCapacity) load(x, p.input, p.input_units, p, position, begin, length, lane);
        const uint32_t opaque_lane = Piece::opaque(lane);
#pragma unroll
        for (int i = 0; i < Piece::kElements; ++i) {
          if (i > 0 && i % T::kPerVector == 0 && Piece::ends_before(i, length)) break;
          const uint32_t at = Piece::index(i, opaque_lane, p.unit_log2);
          if (at < length) f(key_of<T>(bits_of<T>(x.words, i)), static_cast<uint32_t>(begin) + at);
        }
      }
    };
    const auto rank_of = [&](uint32_t key, uint32_t index) { return uint64_t{key} << index_bits | (last - index); };
    const auto gather = [&](uint64_t bound) {
      const uint32_t least = static_cast<uint32_t>(bound >> index_bits);
      each_element([&](uint32_t key, uint32_t index) {
        if (key < least || rank_of(key, index) < bound) return;
        const uint32_t slot = atomicAdd(&slots.found, 1u);
        if (slot < kGathered) slots.gathered[slot] = rank_of(key, index);
      });
    };

    uint32_t best = 0, best_index = 0;
    each_element([&](uint32_t key, uint32_t index) {
      if (key > best) best = key, best_index = index;
    });
    if (threadIdx.x == 0) slots.found = 0;
    uint64_t bound = 0;
    // Where fewer lanes than k have an element, no element is below the bound.
    if (__syncthreads_count(best != 0) >= p.k) {
      bound = bound_of(p.k, bits, slots.counts, [&](auto f) {
        if (best != 0) f(rank_of(best, best_index));
      });
    }
    gather(bound);
    __syncthreads();
    uint32_t count = slots.found;
    // The small kernel has no rows that long.
    if (kCapacity > kGathered && count > kGathered) {
      bound = bound_of(p.k, bits, slots.counts,
                       [&](auto f) { each_element([&](uint32_t key, uint32_t index) { f(rank_of(key, index)); }); });
      if (threadIdx.x == 0) slots.found = 0;
      __syncthreads();
      gather(bound);
      count = p.k;
    }
    uint32_t sorted = 1;
    while (sorted < count) sorted *= 2;
    for (uint32_t i = count + threadIdx.x; i < sorted; i += kLanes) slots.gathered[i] = 0;
    __syncthreads();
    sort_descending(slots.gathered, sorted);

    const uint64_t outer = position / p.inner;
    const uint64_t to = outer * p.k * p.inner + (position - outer * p.inner);
    for (uint32_t i = threadIdx.x; i < p.k; i += kLanes) {
      const uint64_t mask = (uint64_t{1} << index_bits) - 1;
      // Every rank holds an index of the row; what is read depends on none, should one not.
      const uint64_t back = slots.gathered[i] & mask;
      const uint64_t index = last - (back < last ? back : last), from = offset + index * p.input.stride, at = to + i * p.inner;
      p.indices[at] = static_cast<int64_t>(index);
      if constexpr (T::kBytes == 4) {
        static_cast<uint32_t*>(p.values)[at] = __ldg(static_cast<const unsigned int*>(p.input.data) + from);
      } else {
        static_cast<uint16_t*>(p.values)[at] = __ldg(static_cast<const unsigned short*>(p.input.data) + from);
      }
    }
  }
}

// kLanes x kVectors x 16 bytes is a piece. Rows of the larger kernel may have many. Six of the small blocks, or one of the large,
// fit on a multiprocessor with 80 or 64 registers a thread.
#define TOP_K(name, T, lanes, vectors)                                               \
  extern "C" __global__ void __launch_bounds__(lanes, lanes == 128 ? 6 : 1)                                \
      top_k_##name##_##lanes##x##vectors(const __grid_constant__ TopKParams p) {     \
    top_k<T, lanes, vectors>(p);                                                     \
  }

FOR_EACH_DTYPE(TOP_K, 128, 1)
FOR_EACH_DTYPE(TOP_K, 1024, 4)
