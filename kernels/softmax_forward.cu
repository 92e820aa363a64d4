// softmax, log-softmax, logsumexp (and its gradient) along the last dim, for rows that fit in the registers of one block.
//
//   y[i] = exp((x[i] - max) / tau) / sum        log y[i] = (x[i] - max) / tau - ln(sum)        lse = max / tau + ln(sum)
//
// Each logit is read once and each result written once; nothing else touches global memory. A row is shared by kLanes
// lanes, which hold it as packed words (common/row.cuh says which lane holds what): 8 or 32 lanes of a warp, or a block.
// The maximum comes first, then the weights relative to it, so each row costs two reductions and its bits do not depend
// on how rows are dealt to blocks. f32 rows keep their weights in the place of the logits; 16-bit rows compute them twice,
// which costs less than the registers.
//
// Softmin flips the signs as the logits arrive, and a mask puts -inf there; from then on both are like any other row.
#include "common/entry.cuh"
#include "common/softmax_row.cuh"
#include "params/softmax.h"


/// Blocks that a multiprocessor must be able to hold: 64 registers a thread for rows of a block, 80 for those of a warp.
template <int kLanes>
constexpr int kBlocks = kLanes < 128 ? 6 : 1024 / kLanes;

template <class T, int kLanes, int kVectors, int kRows>
DEVICE void softmax_forward(const SoftmaxForwardParams& p) {
  constexpr int kGroups = kThreads<kLanes> / kLanes;
  __shared__ MergeSlots<float, kLanes> for_max;
  __shared__ MergeSlots<WeightSum, kLanes> for_sum;
  const uint32_t lane = threadIdx.x % kLanes;
  const uint32_t length = static_cast<uint32_t>(p.length);
  const bool keep_weights = T::kPerWord == 1 && p.kind == SOFTMAX_PROBABILITIES;

  // All threads of a block take part in every round, those without a row with hidden logits: barriers and shuffles need them.
  for (uint64_t first = uint64_t{blockIdx.x} * kGroups * kRows; first < p.positions.count;
       first += uint64_t{gridDim.x} * kGroups * kRows) {
    const uint64_t position = first + threadIdx.x / kLanes * kRows;
    RowPiece<T, kLanes, kVectors> x[kRows];
    float max[kRows];
    bool holds_max[kRows];
    WeightSum sum[kRows];
#pragma unroll
    for (int row = 0; row < kRows; ++row) load_logits(x[row], p, position + row, 0, length, lane);
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const float of_lane = largest<T>(x[row].words);
      max[row] = row_reduce<kLanes>(of_lane, Larger(), for_max);
      holds_max[row] = of_lane == max[row];
    }
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const Scores<T> scores(p.temperature, max[row]);
      const WeightSum of_lane = sum_of_weights(x[row], scores, length, keep_weights, holds_max[row]);
      sum[row] = row_reduce<kLanes>(of_lane, Sum(), for_sum);
    }
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      if (position + row >= p.positions.count) continue;
      const SoftmaxState state = SoftmaxState::of(max[row], sum[row]);
      if (p.kind == SOFTMAX_LSE) {
        if (lane == 0) static_cast<float*>(p.output)[position + row] = Scores<T>::lse(p.temperature, state);
        continue;
      }
      finish_row<T, T::kPerWord == 1>(x[row], p, Scores<T>(p.temperature, max[row]), state, position + row, length);
      x[row].store(static_cast<char*>(p.output) + (position + row) * p.length * T::kBytes, length, lane, p.unit_log2,
                   p.output_units != 0);
    }
  }
}

// kLanes x kVectors is the longest row in units of 16 bytes; short rows come several to a lane, so that enough loads are in flight.
#define SOFTMAX_FORWARD(name, T, lanes, vectors, rows)                                              \
  extern "C" __global__ void __launch_bounds__(kThreads<lanes>, kBlocks<lanes>)                                     \
      softmax_forward_##name##_##lanes##x##vectors(const __grid_constant__ SoftmaxForwardParams p) { \
    softmax_forward<T, lanes, vectors, rows>(p);                                                    \
  }

FOR_EACH_DTYPE(SOFTMAX_FORWARD, 8, 1, 4)
FOR_EACH_DTYPE(SOFTMAX_FORWARD, 32, 1, 4)
FOR_EACH_DTYPE(SOFTMAX_FORWARD, 32, 4, 1)
FOR_EACH_DTYPE(SOFTMAX_FORWARD, 128, 4, 1)
FOR_EACH_DTYPE(SOFTMAX_FORWARD, 512, 4, 1)
FOR_EACH_DTYPE(SOFTMAX_FORWARD, 1024, 8, 1)
