// Loss of log-probabilities on class targets, forward and backward.
//
//   loss = -w * y[target]      dy[i] = -g * w * (i == target)           w the class weight of the target
//
// A thread has one position, and of its row only the element at the target is read. A gradient is zeros, which a kernel of their
// own writes 16 bytes at a time, and then one element per row.
//
// A target is compared before it is used as an index (common/cross_entropy.cuh).
#include "common/cross_entropy.cuh"
#include "common/entry.cuh"
#include "params/loss_nll.h"

constexpr int kThreadsOfBlock = SUMEXP_LOSS_THREADS;

DEVICE float class_weight(const float* weights, uint64_t stride, const Target& target) {
  return weights == nullptr ? 1.0f : __ldg(weights + static_cast<uint64_t>(target.value) * stride);
}

template <class T>
DEVICE void nll_forward(const NllForwardParams& p) {
  const uint64_t step = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t position = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; position < p.positions.count; position += step) {
    const Target target = load_target(p.targets, p.positions, position);
    float loss = target.bad ? NAN : 0.0f;
    if (target.counts()) {
      const float weight = class_weight(p.class_weights, p.class_weight_stride, target);
      const uint64_t row = position_offset(p.positions, p.log_probabilities.strides, position);
      const uint64_t at = row + static_cast<uint64_t>(target.value) * p.log_probabilities.stride;
      // With a weight of 0 the target costs nothing, whatever its log-probability is.
      if (weight != 0.0f) loss = -weight * load_element<T>(p.log_probabilities.data, at);
    }
    p.losses[position] = loss;
  }
}

template <class T>
DEVICE void nll_backward(const NllBackwardParams& p) {
  const float scale = p.weight == nullptr ? 1.0f : __ldg(p.weight);
  const uint64_t step = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t position = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; position < p.positions.count; position += step) {
    const Target target = load_target(p.targets, p.positions, position);
    if (!target.counts()) continue;
    const float weight = class_weight(p.class_weights, p.class_weight_stride, target);
    const uint64_t offset = position_offset(p.positions, p.upstream.strides, position);
    const float slope = weight == 0.0f ? 0.0f : -weight * (__ldg(static_cast<const float*>(p.upstream.data) + offset) * scale);
    const uint64_t outer = position / p.inner;
    const uint64_t row = outer * p.targets.classes + static_cast<uint64_t>(target.value);
    const uint64_t to = row * p.inner + (position - outer * p.inner);
    const uint32_t word = T::pack(slope, slope);
    if constexpr (T::kBytes == 4) {
      static_cast<uint32_t*>(p.output)[to] = word;
    } else {
      static_cast<uint16_t*>(p.output)[to] = static_cast<uint16_t>(word);
    }
  }
}

extern "C" __global__ void __launch_bounds__(kThreadsOfBlock) nll_zeros(const __grid_constant__ NllZerosParams p) {
  char* output = static_cast<char*>(p.output);
  const uint64_t misaligned = reinterpret_cast<uint64_t>(output) % 16;
  const uint64_t to_aligned = misaligned == 0 ? 0 : 16 - misaligned;
  const uint64_t head = to_aligned < p.bytes ? to_aligned : p.bytes;
  const uint64_t vectors = (p.bytes - head) / 16, tail = head + vectors * 16;
  const uint64_t thread = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x, step = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t i = thread; i < vectors; i += step) {
    reinterpret_cast<uint4*>(output + head)[i] = {0, 0, 0, 0};
  }
  // At most seven elements of two bytes at either end.
  if (thread < head / 2) reinterpret_cast<uint16_t*>(output)[thread] = 0;
  if (thread < (p.bytes - tail) / 2) reinterpret_cast<uint16_t*>(output + tail)[thread] = 0;
}

#define NLL(name, T, threads)                                                                       \
  extern "C" __global__ void __launch_bounds__(threads)                                             \
      nll_forward_##name(const __grid_constant__ NllForwardParams p) { nll_forward<T>(p); }         \
  extern "C" __global__ void __launch_bounds__(threads)                                             \
      nll_backward_##name(const __grid_constant__ NllBackwardParams p) { nll_backward<T>(p); }

FOR_EACH_DTYPE(NLL, kThreadsOfBlock)
