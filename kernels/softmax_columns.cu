// The softmax family and its gradients along any dim but the last: the formulae of softmax_forward.cu and softmax_backward.cu
// on columns (common/columns.cuh says which thread holds what).
//
// A column of up to kDepth * blockDim.y elements is read once and stays in registers. A longer one is read once for the
// maximum, once for the sum and once for the results (gradients: once less).
#include "common/columns.cuh"
#include "common/entry.cuh"
#include "common/gradient.cuh"
#include "common/reduce.cuh"
#include "params/softmax.h"

template <class T, int kColumns>
DEVICE void load_logits(ColumnPiece<T, kColumns>& x, const SoftmaxForwardParams& p, uint64_t position, uint64_t chunk) {
  const bool present = position < p.positions.count;
  const char* column = nullptr;
  if (present) {
    column = static_cast<const char*>(p.input.data) + position_offset(p.positions, p.input.strides, position) * T::kBytes;
  }
  x.load(column, p.input.stride, chunk, p.length, T::kMinusInfinity ^ p.sign_flip);
#pragma unroll
  for (int k = 0; k < kDepth; ++k) {
#pragma unroll
    for (int w = 0; w < x.kWordsPerElement; ++w) x.words[k][w] ^= p.sign_flip;
  }
  if (p.mask.data == nullptr || !present) return;
  const uint8_t* mask = static_cast<const uint8_t*>(p.mask.data) + position_offset(p.positions, p.mask.strides, position);
  const uint64_t to_next_column = p.mask.strides[p.positions.rank - 1];
#pragma unroll
  for (int k = 0; k < kDepth; ++k) {
    const uint64_t n = x.index(chunk, k);
    if (n >= p.length) break;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      if ((__ldg(mask + n * p.mask.stride + c * to_next_column) != 0) == (p.mask_hides != 0)) x.hide(k, c);
    }
  }
}

template <class T, int kColumns>
DEVICE void finish_columns(ColumnPiece<T, kColumns>& x, const SoftmaxForwardParams& p, const float (&max)[kColumns],
                           const Pair (&factor)[kColumns], uint64_t position) {
  if (p.kind == SOFTMAX_LOG_PROBABILITIES) {
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      x.set(k, [&](int c) { return Scores<T>(p.temperature, max[c]).log_probability(x.at(k, c), factor[c].high); });
    }
    return;
  }
  if (p.kind == SOFTMAX_PROBABILITIES) {
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      x.set(k, [&](int c) { return scaled<T>(Scores<T>(p.temperature, max[c]).weight(x.at(k, c)), factor[c]); });
    }
    return;
  }
  float upstream[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    upstream[c] = 0.0f;
    if (position + c >= p.positions.count) continue;
    const uint64_t offset = position_offset(p.positions, p.upstream.strides, position + c);
    upstream[c] = __ldg(static_cast<const float*>(p.upstream.data) + offset) * p.upstream_scale;
  }
#pragma unroll
  for (int k = 0; k < kDepth; ++k) {
    x.set(k, [&](int c) {
      const float logit = x.at(k, c);
      // Whatever the upstream gradient is, a hidden logit gets 0; only a NaN row stays NaN.
      if (logit == -INFINITY) return 0.0f * factor[c].high;
      const Pair gradient = {factor[c].high * upstream[c], factor[c].low * upstream[c]};
      return Scores<T>(p.temperature, max[c]).weighted(logit, gradient) * p.upstream_scale_rest;
    });
  }
}

template <class T, int kColumns>
DEVICE void forward_columns(const SoftmaxForwardParams& p) {
  const ColumnSlots<float, kColumns> for_max(0);
  const ColumnSlots<WeightSum, kColumns> for_sum(for_max.end());
  const uint64_t chunks = chunks_of(p.length);
  const uint64_t width = uint64_t{blockDim.x} * kColumns;

  // All threads of a block take part in every round: the reductions contain barriers.
  for (uint64_t first = blockIdx.x * width; first < p.positions.count; first += gridDim.x * width) {
    const uint64_t position = first + threadIdx.x * kColumns;
    ColumnPiece<T, kColumns> x;
    float max[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) max[c] = -INFINITY;
#pragma unroll 1
    for (uint64_t chunk = 0; chunk < chunks; ++chunk) {
      load_logits(x, p, position, chunk);
#pragma unroll
      for (int k = 0; k < kDepth; ++k) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) max[c] = fmaxf(max[c], x.at(k, c));
      }
    }
    column_reduce<FoldMax>(max, for_max);

    WeightSum sum[kColumns] = {};
#pragma unroll 1
    for (uint64_t chunk = 0; chunk < chunks; ++chunk) {
      // With a single chunk the elements are still there.
      if (chunks > 1) load_logits(x, p, position, chunk);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const Scores<T> scores(p.temperature, max[c]);
        float ties = 0.0f;
        const float below = tree_sum<kDepth>([&](int k) {
          const float weight = scores.weight(x.at(k, c));
          ties += weight == 1.0f ? 1.0f : 0.0f;
          return weight == 1.0f ? 0.0f : weight;
        });
        sum[c] = add(sum[c], WeightSum::of(below, ties));
      }
    }
    column_reduce<FoldSum<WeightSum>>(sum, for_sum);

    if (p.kind == SOFTMAX_LSE) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        if (threadIdx.y != 0 || position + c >= p.positions.count) continue;
        static_cast<float*>(p.output)[position + c] = Scores<T>::lse(p.temperature, SoftmaxState::of(max[c], sum[c]));
      }
      continue;
    }
    // Each column's constants, so that the loops over elements only multiply and add.
    Pair factor[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const SoftmaxState state = SoftmaxState::of(max[c], sum[c]);
      factor[c] = p.kind == SOFTMAX_LOG_PROBABILITIES ? Pair{state.log_sum(), 0.0f} : state.inverse();
    }
    char* const column = position < p.positions.count ? output_column(p.output, position, p.length, p.inner, T::kBytes) : nullptr;
#pragma unroll 1
    for (uint64_t chunk = 0; chunk < chunks; ++chunk) {
      if (chunks > 1) load_logits(x, p, position, chunk);
      finish_columns(x, p, max, factor, position);
      x.store(column, p.inner, chunk, p.length);
    }
  }
}

template <class T, int kColumns>
DEVICE void load_operand(ColumnPiece<T, kColumns>& piece, const Operand& operand, const SoftmaxBackwardParams& p,
                         uint64_t position, uint64_t chunk, uint32_t filler) {
  const char* column = nullptr;
  if (position < p.positions.count) {
    column = static_cast<const char*>(operand.data) + position_offset(p.positions, operand.strides, position) * T::kBytes;
  }
  piece.load(column, operand.stride, chunk, p.length, filler);
}

template <int kColumns, class T, bool kLog>
DEVICE void backward_columns(const SoftmaxBackwardParams& p, const Gradient<T, kLog>& gradient) {
  const ColumnSlots<TermSum<T>, kColumns> for_sum(0);
  const uint64_t chunks = chunks_of(p.length);
  const uint64_t width = uint64_t{blockDim.x} * kColumns;

  for (uint64_t first = blockIdx.x * width; first < p.positions.count; first += gridDim.x * width) {
    const uint64_t position = first + threadIdx.x * kColumns;
    ColumnPiece<T, kColumns> y, dy;
    TermSum<T> sum[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) sum[c] = {};
#pragma unroll 1
    for (uint64_t chunk = 0; chunk < chunks; ++chunk) {
      load_operand(y, p.result, p, position, chunk, hidden_word<T>(p.kind));
      load_operand(dy, p.upstream, p, position, chunk, 0);
#pragma unroll
      for (int k = 0; k < kDepth; ++k) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) gradient.add_term(sum[c], y.at(k, c), dy.at(k, c));
      }
    }
    column_reduce<FoldSum<TermSum<T>>>(sum, for_sum);
    SettledSum<T> settled_sum[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) settled_sum[c] = settled(sum[c]);
    char* const column = position < p.positions.count ? output_column(p.output, position, p.length, p.inner, T::kBytes) : nullptr;
#pragma unroll 1
    for (uint64_t chunk = 0; chunk < chunks; ++chunk) {
      if (chunks > 1) {
        load_operand(y, p.result, p, position, chunk, hidden_word<T>(p.kind));
        load_operand(dy, p.upstream, p, position, chunk, 0);
      }
#pragma unroll
      for (int k = 0; k < kDepth; ++k) {
        dy.set(k, [&](int c) { return gradient.of_logit(y.at(k, c), dy.at(k, c), settled_sum[c]); });
      }
      dy.store(column, p.inner, chunk, p.length);
    }
  }
}

// The blocks that a multiprocessor must be able to hold leave each kernel the registers for what it keeps: gradients hold twice
// as much, and in wide columns four to eight sums beside it.
#define SOFTMAX_COLUMNS(name, T, suffix, columns, threads, forward_blocks, backward_blocks)            \
  extern "C" __global__ void __launch_bounds__(threads, forward_blocks)                             \
      softmax_forward_##name##_##suffix(const __grid_constant__ SoftmaxForwardParams p) {           \
    forward_columns<T, columns>(p);                                                                 \
  }                                                                                                 \
  extern "C" __global__ void __launch_bounds__(threads, backward_blocks)                            \
      softmax_backward_##name##_##suffix(const __grid_constant__ SoftmaxBackwardParams p) {         \
    with_gradient<T>(p, [&](const auto& gradient) { backward_columns<columns>(p, gradient); });     \
  }

// 16 bytes of columns per thread where the tensor allows, else one column.
SOFTMAX_COLUMNS(f32, F32, wide_columns, 4, 128, 4, 3)
SOFTMAX_COLUMNS(f16, F16, wide_columns, 8, 128, 3, 2)
SOFTMAX_COLUMNS(bf16, BF16, wide_columns, 8, 128, 3, 2)
FOR_EACH_DTYPE(SOFTMAX_COLUMNS, columns, 1, 256, 2, 2)
