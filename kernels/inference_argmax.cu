// The index of the largest element of every row: of equal ones the first; a NaN is larger than any number, and -0 equals +0.
//
//   best = (-inf, 0);  an element replaces it if it is larger, so a row of nothing but -inf has index 0
//
// Nothing is materialised. Every element is read once; a lane compares its own elements in the order of the row and keeps the
// first largest, and lanes compare what they kept once, at the end of the row. Comparing is exact: which lane holds which
// element does not show in the result.
//
// Rows along the last dim are shared by kLanes lanes (common/row.cuh says which lane holds what), longer rows piece by piece.
// Other rows are columns (common/columns.cuh): neighbouring threads at neighbouring columns, blockDim.y threads to a column.
#include "common/columns.cuh"
#include "common/entry.cuh"
#include "params/inference.h"

/// The largest element of a part of a row, and where it is. The index is cut in two so that no part of it is padding.
struct Best {
  float value;
  uint32_t index_low, index_high;

  static DEVICE Best of(float value, uint64_t index) {
    return {value, static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32)};
  }
  /// What any element but -inf replaces.
  static DEVICE Best none() { return {-INFINITY, 0, 0}; }

  DEVICE uint64_t index() const { return uint64_t{index_high} << 32 | index_low; }
};

/// Whether `a` replaces `b`, which comes before it.
DEVICE bool larger(float a, float b) { return !(a <= b) && b == b; }

struct BetterOf {
  DEVICE Best operator()(Best a, Best b) const {
    if (larger(a.value, b.value)) return a;
    if (larger(b.value, a.value)) return b;
    return a.index() <= b.index() ? a : b;
  }
};

DEVICE Best shuffle_xor(Best best, int mask) {
  return {shuffle_xor(best.value, mask), __shfl_xor_sync(0xffffffffu, best.index_low, mask),
          __shfl_xor_sync(0xffffffffu, best.index_high, mask)};
}

template <class T, int kLanes, int kVectors>
DEVICE void argmax(const ArgmaxParams& p) {
  using Piece = RowPiece<T, kLanes, kVectors>;
  constexpr int kGroups = kThreads<kLanes> / kLanes;
  constexpr uint64_t kCapacity = uint64_t{kLanes} * Piece::kElements;
  __shared__ MergeSlots<Best, kLanes> for_even, for_odd;
  const uint32_t lane = threadIdx.x % kLanes;

  // All threads of a block take part in every round: barriers and shuffles need them.
  bool odd = false;
  for (uint64_t first = uint64_t{blockIdx.x} * kGroups; first < p.positions.count; first += uint64_t{gridDim.x} * kGroups) {
    const uint64_t position = first + threadIdx.x / kLanes;
    Best best = Best::none();
    for (uint64_t begin = 0; begin < p.length && position < p.positions.count; begin += kCapacity) {
      const uint64_t rest = p.length - begin;
      const uint32_t length = static_cast<uint32_t>(rest < kCapacity ? rest : kCapacity);
      Piece x;
      x.fill(T::kMinusInfinity);
      load(x, p.input, p.input_units, p, position, begin, length, lane);
      float value = best.value;
      int which = -1;
#pragma unroll
      for (int i = 0; i < Piece::kElements; ++i) {
        if (i > 0 && i % T::kPerVector == 0 && Piece::ends_before(i, length)) break;
        if (larger(x.at(i), value)) value = x.at(i), which = i;
      }
      if (which >= 0) best = Best::of(value, begin + Piece::index(which, lane, p.unit_log2));
    }
    // The two sets of slots take turns, because a round has only this one barrier.
    best = row_reduce<kLanes>(best, BetterOf(), odd ? for_odd : for_even);
    odd = !odd;
    if (lane == 0 && position < p.positions.count) p.indices[position] = static_cast<int64_t>(best.index());
  }
}

struct FoldBest {
  Best best = Best::none();
  DEVICE void add(Best value) { best = BetterOf()(best, value); }
  DEVICE Best result() const { return best; }
};

template <class T>
DEVICE void argmax_columns(const ArgmaxParams& p) {
  const ColumnSlots<Best, 1> for_best(0);
  const uint64_t chunks = chunks_of(p.length);
  // All threads of a block take part in every round: the reduction contains barriers.
  for (uint64_t first = uint64_t{blockIdx.x} * blockDim.x; first < p.positions.count; first += uint64_t{gridDim.x} * blockDim.x) {
    const uint64_t position = first + threadIdx.x;
    const char* column = nullptr;
    if (position < p.positions.count) {
      column = static_cast<const char*>(p.input.data) + position_offset(p.positions, p.input.strides, position) * T::kBytes;
    }
    Best best[1] = {Best::none()};
#pragma unroll 1
    for (uint64_t chunk = 0; chunk < chunks; ++chunk) {
      ColumnPiece<T, 1> x;
      x.load(column, p.input.stride, chunk, p.length, T::kMinusInfinity);
      float value = best[0].value;
      int which = -1;
#pragma unroll
      for (int k = 0; k < kDepth; ++k) {
        if (larger(x.at(k, 0), value)) value = x.at(k, 0), which = k;
      }
      if (which >= 0) best[0] = Best::of(value, x.index(chunk, which));
    }
    column_reduce<FoldBest>(best, for_best);
    if (threadIdx.y == 0 && position < p.positions.count) p.indices[position] = static_cast<int64_t>(best[0].index());
  }
}

/// Blocks that a multiprocessor must be able to hold: 80 registers a thread, 64 for the largest blocks.
template <int kLanes>
constexpr int kBlocks = kLanes < 128 ? 6 : kLanes == 1024 ? 1 : 768 / kLanes;

// kLanes x kVectors x 16 bytes is a piece. Rows of the largest kernel may have many.
#define ARGMAX(name, T, lanes, vectors)                                                      \
  extern "C" __global__ void __launch_bounds__(kThreads<lanes>, kBlocks<lanes>)              \
      argmax_##name##_##lanes##x##vectors(const __grid_constant__ ArgmaxParams p) {          \
    argmax<T, lanes, vectors>(p);                                                            \
  }

#define ARGMAX_COLUMNS(name, T, threads)                                                     \
  extern "C" __global__ void __launch_bounds__(threads)                                      \
      argmax_##name##_columns(const __grid_constant__ ArgmaxParams p) {                      \
    argmax_columns<T>(p);                                                                    \
  }

FOR_EACH_DTYPE(ARGMAX, 8, 1)
FOR_EACH_DTYPE(ARGMAX, 32, 4)
FOR_EACH_DTYPE(ARGMAX, 256, 4)
FOR_EACH_DTYPE(ARGMAX, 1024, 4)
FOR_EACH_DTYPE(ARGMAX_COLUMNS, 1024)
