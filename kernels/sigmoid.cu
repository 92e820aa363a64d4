// sigmoid and log-sigmoid, forward and backward: one element in, one element out.
//
//   sigmoid       y = 1 / (1 + exp(-x))         dx = dy * sigmoid(x) * sigmoid(-x)
//   log-sigmoid   y = -ln(1 + exp(-x))          dx = dy * sigmoid(-x)
//
// Gradients are taken from x, not from y: a y that was rounded to 1 has forgotten how far from 1 it was.
// A thread holds 16 bytes of the result at a time (common/elementwise.cuh).
#include "common/elementwise.cuh"
#include "common/entry.cuh"
#include "common/logistic.cuh"
#include "params/sigmoid.h"

template <class T>
DEVICE float sigmoid_of(uint32_t kind, float x, float upstream) {
  const Logistic<T> logistic(x);
  if (kind == SIGMOID) return logistic.sigmoid();
  if (kind == LOG_SIGMOID) return -logistic.softplus_of_negated();
  if (kind == SIGMOID_GRADIENT) return logistic.slope(upstream);
  return logistic.sigmoid_of_negated(upstream);
}

template <class T>
DEVICE void sigmoid(const SigmoidParams& p) {
  const uint64_t units = (p.rows.positions.count * p.rows.length + T::kPerVector - 1) / T::kPerVector;
  const bool gradient = p.kind == SIGMOID_GRADIENT || p.kind == LOG_SIGMOID_GRADIENT;
  for (uint64_t unit = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; unit < units; unit += uint64_t{gridDim.x} * blockDim.x) {
    const UnitPlace place(p.rows, unit, T::kPerVector);
    const bool complete = place.count == T::kPerVector;
    float x[T::kPerVector], upstream[T::kPerVector] = {};
    load_unit<T>(x, p.input, p.rows, place, complete && p.input_units != 0);
    if (gradient) load_unit<T>(upstream, p.upstream, p.rows, place, complete && p.upstream_units != 0);
#pragma unroll
    for (int i = 0; i < T::kPerVector; ++i) x[i] = sigmoid_of<T>(p.kind, x[i], upstream[i]);
    store_unit<T>(p.output, place, x, complete && p.output_units != 0);
  }
}

#define SIGMOID_KERNEL(name, T, threads)                                                                              \
  extern "C" __global__ void __launch_bounds__(threads, 4) sigmoid_##name(const __grid_constant__ SigmoidParams p) { \
    sigmoid<T>(p);                                                                                                    \
  }

FOR_EACH_DTYPE(SIGMOID_KERNEL, 256)
