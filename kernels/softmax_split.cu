// The softmax family and its gradients for rows that are too long for the registers of one block.
//
// A row is cut into slices, and a slice into chunks that fit in registers; one block works on a slice. The first kernel leaves
// the state (the sum) of every slice in a workspace. Every block of the second kernel merges the states of its row, in the
// order of the slices, reads its slice again and writes the results. The cut depends on the length and the type alone, so
// the bits of a row do not depend on how many rows there are.
#include "common/entry.cuh"
#include "common/softmax_row.cuh"
#include "params/softmax.h"

constexpr int kSplitLanes = 512;

/// A block's part of a row at a time. Backward holds two of them, and so half as much in each.
template <class T>
using Chunk = RowPiece<T, kSplitLanes, 4>;
template <class T>
using GradientChunk = RowPiece<T, kSplitLanes, 2>;

/// What a block holds while it writes gradients: element by element, so any part of the row will do, and this one leaves
/// registers for the exponential.
template <class T>
using GradientPart = RowPiece<T, kSplitLanes, 1>;

// States and sums of slices in the workspace. Each moves in one aligned access; the intrinsics keep the compiler from taking it
// apart.
DEVICE void keep(void* kept, uint64_t slice, SoftmaxState state) {
  static_cast<float4*>(kept)[slice] = {state.max, state.others.high, state.others.low, 0.0f};
}
DEVICE void keep(void* kept, uint64_t slice, double sum) { static_cast<double*>(kept)[slice] = sum; }
DEVICE void keep(void* kept, uint64_t slice, LongSum sum) {
  static_cast<int4*>(kept)[slice] = {__float_as_int(sum.high), sum.lost.low, sum.lost.high, 0};
}
DEVICE void take(const void* kept, uint64_t slice, SoftmaxState& state) {
  const float4 four = __ldcg(static_cast<const float4*>(kept) + slice);
  state = {four.x, {four.y, four.z}};
}
DEVICE void take(const void* kept, uint64_t slice, double& sum) { sum = __ldcg(static_cast<const double*>(kept) + slice); }
DEVICE void take(const void* kept, uint64_t slice, LongSum& sum) {
  const int4 four = __ldcg(static_cast<const int4*>(kept) + slice);
  sum = {__int_as_float(four.x), {four.y, four.z}};
}

/// Which part of which row a block works on.
struct Slice {
  uint64_t number, position;
  uint32_t index;
};

/// Calls body(slice) for every slice of the block, if every row has `slices`.
template <class F>
DEVICE void for_each_slice(const Positions& positions, uint32_t slices, F body) {
  const uint64_t all = positions.count * slices;
  for (uint64_t number = blockIdx.x; number < all; number += gridDim.x) {
    body(Slice{number, number / slices, static_cast<uint32_t>(number % slices)});
  }
}

/// Calls body(first element, length) for every part of a slice that fits a `Part`. Slices are cut in chunks of `Chunk`.
template <class Chunk, class Part = Chunk, class Params, class F>
DEVICE void for_each_part(const Params& p, const Slice& slice, F body) {
  constexpr uint64_t kLength = uint64_t{kSplitLanes} * Part::kElements;
  const uint64_t slice_length = p.chunks_per_slice * (uint64_t{kSplitLanes} * Chunk::kElements);
  const uint64_t begin = slice.index * slice_length;
  const uint64_t slice_end = begin + slice_length;
  const uint64_t end = slice_end < p.length ? slice_end : p.length;
#pragma unroll 1
  for (uint64_t first = begin; first < end; first += kLength) {
    const uint64_t rest = end - first;
    body(first, static_cast<uint32_t>(rest < kLength ? rest : kLength));
  }
}

template <class T>
DEVICE void forward_states(const SoftmaxForwardParams& p) {
  __shared__ MergeSlots<float, kSplitLanes> for_even_max, for_odd_max;
  __shared__ MergeSlots<WeightSum, kSplitLanes> for_sum;

  // A chunk has one barrier, so the slots for the maximum take turns over all chunks of all slices.
  bool odd = false;
  for_each_slice(p.positions, p.slices, [&](const Slice& slice) {
    float max = -INFINITY;
    WeightSum sum = {};
    for_each_part<Chunk<T>>(p, slice, [&](uint64_t first, uint32_t length) {
      Chunk<T> x;
      load_logits(x, p, slice.position, first, length, threadIdx.x);
      const float of_lane = largest<T>(x.words);
      const float of_chunk = row_reduce<kSplitLanes>(of_lane, Larger(), odd ? for_odd_max : for_even_max);
      odd = !odd;
      const float before = max;
      max = fmaxf(max, of_chunk);
      const Scores<T> scores(p.temperature, max);
      if (max != before) sum = sum.relative_to(scores.weight(before));
      sum = add(sum, sum_of_weights(x, scores, length, false, of_lane == max));
    });
    sum = row_reduce<kSplitLanes>(sum, Sum(), for_sum);
    if (threadIdx.x == 0) keep(p.states, slice.number, SoftmaxState::of(max, sum));
  });
}

/// The state of the row at `position`. All threads of the block must call; every thread gets it. Contains two barriers.
template <class T>
DEVICE SoftmaxState merged_state(const SoftmaxForwardParams& p, uint64_t position, MergeSlots<float, kSplitLanes>& for_max,
                                 MergeSlots<WeightSum, kSplitLanes>& for_sum) {
  SoftmaxState of_slice = {-INFINITY, {0.0f, 0.0f}};
  if (threadIdx.x < p.slices) take(p.states, position * p.slices + threadIdx.x, of_slice);
  const float max = row_reduce<kSplitLanes>(of_slice.max, Larger(), for_max);
  const WeightSum sum = of_slice.sum().relative_to(Scores<T>(p.temperature, max).weight(of_slice.max));
  return SoftmaxState::of(max, row_reduce<kSplitLanes>(sum, Sum(), for_sum));
}

template <class T>
DEVICE void forward_results(const SoftmaxForwardParams& p) {
  __shared__ MergeSlots<float, kSplitLanes> for_max;
  __shared__ MergeSlots<WeightSum, kSplitLanes> for_sum;
  // An lse is written once per row, everything else slice by slice.
  const uint32_t slices = p.kind == SOFTMAX_LSE ? 1 : p.slices;

  for_each_slice(p.positions, slices, [&](const Slice& slice) {
    const SoftmaxState state = merged_state<T>(p, slice.position, for_max, for_sum);
    if (p.kind == SOFTMAX_LSE) {
      if (threadIdx.x == 0) static_cast<float*>(p.output)[slice.position] = Scores<T>::lse(p.temperature, state);
      return;
    }
    const Scores<T> scores(p.temperature, state.max);
    for_each_part<Chunk<T>>(p, slice, [&](uint64_t first, uint32_t length) {
      Chunk<T> x;
      load_logits(x, p, slice.position, first, length, threadIdx.x);
      finish_row<T, false>(x, p, scores, state, slice.position, length);
      x.store(static_cast<char*>(p.output) + (slice.position * p.length + first) * T::kBytes, length, threadIdx.x, p.unit_log2,
              p.output_units != 0);
    });
  });
}

template <class T, class Piece>
DEVICE void load_both(Piece& y, Piece& dy, const SoftmaxBackwardParams& p, uint64_t position, uint64_t first,
                      uint32_t length) {
  y.fill(hidden_word<T>(p.kind));
  dy.fill(0);
  load(y, p.result, p.result_units, p, position, first, length, threadIdx.x);
  load(dy, p.upstream, p.upstream_units, p, position, first, length, threadIdx.x);
}

template <class T>
DEVICE void backward_sums(const SoftmaxBackwardParams& p) {
  __shared__ MergeSlots<TermSum<T>, kSplitLanes> for_even_sum, for_odd_sum;
  bool odd = false;
  with_gradient<T>(p, [&](const auto& gradient) {
    for_each_slice(p.positions, p.slices, [&](const Slice& slice) {
      TermSum<T> sum = {};
      for_each_part<GradientChunk<T>>(p, slice, [&](uint64_t first, uint32_t length) {
        GradientChunk<T> y, dy;
        load_both<T>(y, dy, p, slice.position, first, length);
        sum = Sum()(sum, sum_of_terms(gradient, y, dy, length));
      });
      sum = row_reduce<kSplitLanes>(sum, Sum(), odd ? for_odd_sum : for_even_sum);
      odd = !odd;
      if (threadIdx.x == 0) keep(p.sums, slice.number, sum);
    });
  });
}

template <class T>
DEVICE void backward_results(const SoftmaxBackwardParams& p) {
  __shared__ MergeSlots<TermSum<T>, kSplitLanes> for_even_sum, for_odd_sum;
  bool odd = false;
  with_gradient<T>(p, [&](const auto& gradient) {
    for_each_slice(p.positions, p.slices, [&](const Slice& slice) {
      TermSum<T> of_slice = {};
      if (threadIdx.x < p.slices) take(p.sums, slice.position * p.slices + threadIdx.x, of_slice);
      const SettledSum<T> sum = settled(row_reduce<kSplitLanes>(of_slice, Sum(), odd ? for_odd_sum : for_even_sum));
      odd = !odd;
      for_each_part<GradientChunk<T>, GradientPart<T>>(p, slice, [&](uint64_t first, uint32_t length) {
        GradientPart<T> y, dy;
        load_both<T>(y, dy, p, slice.position, first, length);
        replace_by_gradients(gradient, y, dy, sum, length);
        dy.store(static_cast<char*>(p.output) + (slice.position * p.length + first) * T::kBytes, length, threadIdx.x,
                 p.unit_log2, p.output_units != 0);
      });
    });
  });
}

#define SPLIT_KERNEL extern "C" __global__ void __launch_bounds__(kSplitLanes, 2)

#define SOFTMAX_SPLIT(name, T, ...)                                                                                             \
  SPLIT_KERNEL softmax_forward_##name##_states(const __grid_constant__ SoftmaxForwardParams p) { forward_states<T>(p); }        \
  SPLIT_KERNEL softmax_forward_##name##_results(const __grid_constant__ SoftmaxForwardParams p) { forward_results<T>(p); }      \
  SPLIT_KERNEL softmax_backward_##name##_sums(const __grid_constant__ SoftmaxBackwardParams p) { backward_sums<T>(p); }         \
  SPLIT_KERNEL softmax_backward_##name##_results(const __grid_constant__ SoftmaxBackwardParams p) { backward_results<T>(p); }

FOR_EACH_DTYPE(SOFTMAX_SPLIT, )
