// Attention over many keys that were split between blocks: from what each split left to out and lse.
//
//   max = largest max of a split        out = sum(exp(max of split - max) * output of split) / sum(exp(max of split - max) * sum of split)
//
// A warp has a query; lane l has columns l, l + 32, ... of its row. Splits are added in order.
#include "attention/softmax.cuh"
#include "common/entry.cuh"
#include "params/attention.h"

/// Columns of a lane, for rows of up to 256.
constexpr int kColumns = 8;
constexpr int kWarps = 4;

template <class T>
DEVICE void attention_merge(const AttentionForwardParams& p) {
  const uint32_t lane = threadIdx.x % 32, size = p.call.sizes.value_size;
  const uint64_t rows = uint64_t{p.call.sizes.batch} * p.call.sizes.heads * p.call.sizes.queries;
  for (uint64_t row = uint64_t{blockIdx.x} * kWarps + threadIdx.x / 32; row < rows; row += uint64_t{gridDim.x} * kWarps) {
    float max = -INFINITY;
    for (uint32_t split = 0; split < p.splits; ++split) max = fmaxf(max, p.split_states[split * rows + row].max);
    const float origin = max == -INFINITY ? 0.0f : max;
    float sum = 0.0f, out[kColumns] = {};
    for (uint32_t split = 0; split < p.splits; ++split) {
      const uint64_t at = split * rows + row;
      const AttentionState state = p.split_states[at];
      // Without a key there is no output. NaN is not nothing.
      if (state.max == -INFINITY && state.sum == 0.0f) continue;
      const float weight = weight_of<T>(__fsub_rn(state.max, origin), p.call.scores);
      sum = __fmaf_rn(weight, state.sum, sum);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const uint32_t column = lane + 32 * i;
        if (column < size) out[i] = __fmaf_rn(weight, p.split_outputs[at * size + column], out[i]);
      }
    }
    const bool empty = max == -INFINITY && sum == 0.0f;
    const float inverse = empty ? 0.0f : quotient(1.0f, sum);
    const uint64_t query = row % p.call.sizes.queries, of_head = row / p.call.sizes.queries;
    const uint64_t head = of_head % p.call.sizes.heads, batch = of_head / p.call.sizes.heads;
    if (lane == 0 && p.lse != nullptr) {
      const float lse = empty ? -INFINITY : __fmaf_rn(max, p.call.scores.natural_factor, log1p_accurate(sum - 1.0f));
      p.lse[batch * p.lse_batch + head * p.lse_head + query * p.lse_row] = lse;
    }
    const uint64_t first = batch * p.out.batch + head * p.out.head + query * p.out.row;
    char* to = static_cast<char*>(const_cast<void*>(p.out.data)) + first * T::kBytes;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const uint32_t column = lane + 32 * i;
      if (column >= size) continue;
      const uint32_t word = T::pack(__fmul_rn(out[i], inverse), 0.0f);
      if constexpr (T::kBytes == 2) {
        reinterpret_cast<uint16_t*>(to)[column] = static_cast<uint16_t>(word);
      } else {
        reinterpret_cast<uint32_t*>(to)[column] = word;
      }
    }
  }
}

#define ATTENTION_MERGE(name, T, ...)                                                    \
  extern "C" __global__ void __launch_bounds__(32 * kWarps)                              \
      attention_merge_##name(const __grid_constant__ AttentionForwardParams p) {         \
    attention_merge<T>(p);                                                               \
  }

FOR_EACH_DTYPE(ATTENTION_MERGE)
