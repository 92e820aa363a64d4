// What the backward kernels of attention need to know of each query beside its row of the operands:
//
//   delta = dot(dout, out) - dlse        origin = lse as a score, +inf in place of -inf        share = 1
//
// With p the weights of a query and dp_j = dot(dout, v_j), dot(dout, out) is sum(p_j dp_j): what every key has to share in. A query that
// sees nothing gets weights exp(score - inf) = 0.
//
// kLanes lanes share a query: lane l has the 16-byte chunks l, l + kLanes, ... of its two rows. The order of the sum is that of
// chunks, however they lie in memory.
#include "attention/copy.cuh"
#include "common/entry.cuh"
#include "params/attention.h"

constexpr int kThreads = 128;
constexpr int kLanes = 8;

template <class T>
DEVICE uint4 chunk_of(const AttentionMatrix& matrix, uint64_t row, uint32_t chunk, uint32_t bytes) {
  const char* from = static_cast<const char*>(matrix.data) + row * T::kBytes + chunk * 16;
  const uint32_t left = bytes - chunk * 16;
  return matrix.vectors != 0 && left >= 16 ? __ldg(reinterpret_cast<const uint4*>(from)) : gather<T>(from, left);
}

template <class T>
DEVICE void attention_backward_rows(const AttentionBackwardParams& p) {
  const AttentionSizes& sizes = p.call.sizes;
  const uint32_t lane = threadIdx.x % kLanes, bytes = sizes.value_size * T::kBytes;
  const uint64_t of_batch = uint64_t{sizes.heads} * sizes.queries;
  const uint64_t rows = (p.call.query_offsets == nullptr ? sizes.batch : 1) * of_batch;
  // All lanes of a warp take part in every shuffle, also those behind the last row.
  for (uint64_t first = uint64_t{blockIdx.x} * (kThreads / kLanes); first < rows; first += uint64_t{gridDim.x} * (kThreads / kLanes)) {
    const uint64_t row = first + threadIdx.x / kLanes;
    const bool there = row < rows;
    const uint64_t batch = row / of_batch, head = row % of_batch / sizes.queries, query = row % sizes.queries;
    const auto at = [&](const auto& x) { return batch * x.batch + head * x.head + query * x.row; };
    float sum = 0.0f;
    for (uint32_t chunk = lane; there && chunk * 16 < bytes; chunk += kLanes) {
      const uint4 a = chunk_of<T>(p.dout, at(p.dout), chunk, bytes), b = chunk_of<T>(p.out, at(p.out), chunk, bytes);
      const uint32_t of_a[4] = {a.x, a.y, a.z, a.w}, of_b[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < T::kPerVector; ++i) sum = __fmaf_rn(element<T>(of_a, i), element<T>(of_b, i), sum);
    }
#pragma unroll
    for (int distance = 1; distance < kLanes; distance *= 2) {
      sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, distance));
    }
    if (lane != 0 || !there) continue;
    const float lse = p.lse.data[at(p.lse)], dlse = p.dlse.data == nullptr ? 0.0f : p.dlse.data[at(p.dlse)];
    const bool empty = lse == -INFINITY;
    const float origin = empty ? INFINITY : __fdiv_rn(lse, p.call.scores.natural_factor);
    // In one piece: written field by field, a sector is written four times.
    static_assert(sizeof(AttentionRow) == sizeof(float4));
    reinterpret_cast<float4*>(p.rows)[row] = make_float4(origin, empty ? 0.0f : __fsub_rn(sum, dlse), 1.0f, 0.0f);
  }
}

#define ATTENTION_BACKWARD_ROWS(name, T, ...)                                                \
  extern "C" __global__ void __launch_bounds__(kThreads)                                     \
      attention_backward_rows_##name(const __grid_constant__ AttentionBackwardParams p) {    \
    attention_backward_rows<T>(p);                                                           \
  }

FOR_EACH_DTYPE(ATTENTION_BACKWARD_ROWS)
