// Gradients of softmax (and softmin) and log-softmax along the last dim, for rows that fit in the registers of one block.
//
//   softmax       dx[i] = y[i] * (dy[i] - sum(y * dy)) / tau
//   log-softmax   dx[i] = (dy[i] - exp(log y[i]) * sum(dy)) / tau
//
// The result of the forward operation and its gradient are read once, dx is written once; the product y * dy and the
// exponentials are never materialised. Lanes hold a row as in the forward kernels (common/row.cuh), twice.
//
// Both differences cancel: an f32 sum would leave no right digit where dy is nearly constant or a probability nearly 1. So
// sums keep what rounding would lose (double, LongSum), and exp(log y) of f32 its low part. Entries that the forward operation
// hid (y = 0, log y = -inf) take no part: their dy is replaced before it is used, and their dx is 0.
#include "common/entry.cuh"
#include "common/softmax_row.cuh"
#include "params/softmax.h"

/// Blocks that a multiprocessor must be able to hold: 80 registers a thread for rows of one warp, 64 for longer ones.
template <int kLanes>
constexpr int kBlocks = kLanes < 128 ? 6 : 1024 / kLanes;

template <class T, int kLanes, int kVectors, int kRows>
DEVICE void softmax_backward(const SoftmaxBackwardParams& p) {
  using Piece = RowPiece<T, kLanes, kVectors>;
  constexpr int kGroups = kThreads<kLanes> / kLanes;
  __shared__ MergeSlots<TermSum<T>, kLanes> for_even_sum, for_odd_sum;
  const uint32_t lane = threadIdx.x % kLanes;
  const uint32_t length = static_cast<uint32_t>(p.length);
  const bool log = p.kind == SOFTMAX_LOG_PROBABILITIES;
  const Gradient<T, false> linear_gradient(p);
  const Gradient<T, true> log_gradient(p);

  // All threads of a block take part in every round: barriers and shuffles need them. A lane without a row holds hidden entries.
  bool odd = false;
  for (uint64_t first = uint64_t{blockIdx.x} * kGroups * kRows; first < p.positions.count;
       first += uint64_t{gridDim.x} * kGroups * kRows) {
    const uint64_t position = first + threadIdx.x / kLanes * kRows;
    Piece y[kRows], dy[kRows];
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      y[row].fill(hidden_word<T>(p.kind));
      dy[row].fill(0);
      if (position + row >= p.positions.count) continue;
      load(y[row], p.result, p.result_units, p, position + row, 0, length, lane);
      load(dy[row], p.upstream, p.upstream_units, p, position + row, 0, length, lane);
    }
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      // The same for all threads: not even the first of the rows that are in flight together is there.
      if (first + row >= p.positions.count) break;
      const TermSum<T> sum = log ? sum_of_terms(log_gradient, y[row], dy[row], length)
                     : sum_of_terms(linear_gradient, y[row], dy[row], length);
      // The two sets of slots take turns, because a round has only this one barrier.
      const SettledSum<T> of_row = settled(row_reduce<kLanes>(sum, Sum(), odd ? for_odd_sum : for_even_sum));
      if (log) {
        replace_by_gradients(log_gradient, y[row], dy[row], of_row, length);
      } else {
        replace_by_gradients(linear_gradient, y[row], dy[row], of_row, length);
      }
      if (position + row >= p.positions.count) continue;
      dy[row].store(static_cast<char*>(p.output) + (position + row) * p.length * T::kBytes, length, lane, p.unit_log2,
                    p.output_units != 0);
    }
    odd = !odd;
  }
}

// lanes x vectors is the longest row in units of 16 bytes.
#define SOFTMAX_BACKWARD(name, T, lanes, vectors, rows)                                               \
  extern "C" __global__ void __launch_bounds__(kThreads<lanes>, kBlocks<lanes>)                       \
      softmax_backward_##name##_##lanes##x##vectors(const __grid_constant__ SoftmaxBackwardParams p) { \
    softmax_backward<T, lanes, vectors, rows>(p);                                                     \
  }

FOR_EACH_DTYPE(SOFTMAX_BACKWARD, 8, 1, 2)
FOR_EACH_DTYPE(SOFTMAX_BACKWARD, 32, 1, 2)
FOR_EACH_DTYPE(SOFTMAX_BACKWARD, 32, 4, 1)
FOR_EACH_DTYPE(SOFTMAX_BACKWARD, 128, 4, 1)
FOR_EACH_DTYPE(SOFTMAX_BACKWARD, 512, 4, 1)
FOR_EACH_DTYPE(SOFTMAX_BACKWARD, 1024, 4, 1)
