// Reductions over the lanes that share a row: 8 or 32 lanes of a warp, or a whole block.
//
// Every reduction combines its values in an order that depends on the number of lanes alone, and every lane gets the
// same bits: in each butterfly step the two partners add the same two numbers, and addition commutes.
#pragma once

#include "common/state.cuh"

/// Lanes of one warp that share a row of `kLanes`.
template <int kLanes>
constexpr int kWarpLanes = kLanes < 32 ? kLanes : 32;

/// Warps that share a row of `kLanes`.
template <int kLanes>
constexpr int kRowWarps = kLanes < 32 ? 1 : kLanes / 32;

/// Threads of a block of a row kernel: 128, or as many as share a row.
template <int kLanes>
constexpr int kThreads = kLanes < 128 ? 128 : kLanes;

/// A value in shared memory. 8 bytes are aligned so that they move in one access: the two of an unaligned pair would each use
/// every other bank only. One word and three words meet no bank twice anyway.
template <class Value>
struct alignas(sizeof(Value) == 8 ? 8 : 4) Slot {
  Value value;
};

/// Shared memory of one collective: a value per warp. One object per call of a collective within the loop over rows: the
/// barrier of each of two collectives that take turns separates the reads of the other's slots from their next writes.
template <class Value, int kLanes>
struct MergeSlots {
  Slot<Value> of_warp[kRowWarps<kLanes>];
};

struct Larger {
  DEVICE float operator()(float a, float b) const { return fmaxf(a, b); }
};

struct Sum {
  DEVICE WeightSum operator()(WeightSum a, WeightSum b) const { return add(a, b); }
  DEVICE double operator()(double a, double b) const { return a + b; }
  DEVICE LongSum operator()(LongSum a, LongSum b) const { return add(a, b); }
};

DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
DEVICE double shuffle_xor(double value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
DEVICE WeightSum shuffle_xor(WeightSum value, int mask) {
  return WeightSum::of(shuffle_xor(value.below(), mask), shuffle_xor(value.ties, mask));
}
DEVICE LongSum shuffle_xor(LongSum value, int mask) {
  return {shuffle_xor(value.high, mask), Words::of(shuffle_xor(value.lost.value(), mask))};
}

/// Combines the values of each group of `kLanes` (a power of two up to 32) neighbouring lanes of a warp.
/// All 32 lanes must call; every lane gets the result of its group. Contains no barrier.
template <int kLanes, class Value, class Combine>
DEVICE Value warp_reduce(Value value, Combine combine) {
#pragma unroll
  for (int mask = 1; mask < kLanes; mask *= 2) value = combine(value, shuffle_xor(value, mask));
  return value;
}

/// Combines the values of all lanes that share a row. All threads of the block must call; every lane gets the result of its
/// row. Contains one barrier if a row has more than one warp, else none; `slots` must not be used by another collective
/// until the next barrier has passed.
template <int kLanes, class Value, class Combine>
DEVICE Value row_reduce(Value value, Combine combine, MergeSlots<Value, kLanes>& slots) {
  value = warp_reduce<kWarpLanes<kLanes>>(value, combine);
  if constexpr (kRowWarps<kLanes> > 1) {
    const int lane = threadIdx.x % 32;
    if (lane == 0) slots.of_warp[threadIdx.x / 32] = {value};
    __syncthreads();
    // Every warp combines all slots; with fewer than 32 of them, groups of lanes do the same work side by side.
    value = warp_reduce<kRowWarps<kLanes>>(slots.of_warp[lane % kRowWarps<kLanes>].value, combine);
  }
  return value;
}

/// Sum of value(0) ... value(kCount - 1) as a balanced tree, so that the rounding error grows with the depth only.
template <int kCount, class F>
DEVICE float tree_sum(F value, int first = 0) {
  if constexpr (kCount == 1) {
    return value(first);
  } else {
    const float low = tree_sum<kCount / 2>(value, first);
    return __fadd_rn(low, tree_sum<kCount - kCount / 2>(value, first + kCount / 2));
  }
}

/// Combines values[0] ... values[kCount - 1] as a balanced tree.
template <int kCount, class Value, class Combine>
DEVICE Value tree_of(const Value (&values)[kCount], Combine combine) {
  Value tree[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) tree[i] = values[i];
#pragma unroll
  for (int width = 1; width < kCount; width *= 2) {
#pragma unroll
    for (int i = 0; i + width < kCount; i += 2 * width) tree[i] = combine(tree[i], tree[i + width]);
  }
  return tree[0];
}
