// Binary cross-entropy from logits, forward and backward; probabilities are never written.
//
//   loss = w * (t * q * softplus(-x) + (1 - t) * softplus(x))      dx = g * w * ((1 - t) * sigmoid(x) - t * q * sigmoid(-x))
//
// x a logit, t its target, w its weight, q the weight of the event's happening. For targets from 0 to 1 the loss is a sum of terms
// that are never negative: it is right at any size of x. A factor of 0 takes its term out, so an infinite logit on the side
// of a certain target costs 0 and not 0 * inf.
//
// A thread holds four neighbouring elements at a time, a block a chunk of the batch (common/elementwise.cuh). Losses that are added
// up are never written: a block leaves one partial sum, and loss_finish (loss.cu) adds those.
#include "common/elementwise.cuh"
#include "common/entry.cuh"
#include "common/logistic.cuh"
#include "common/reduce.cuh"
#include "params/loss_binary.h"

constexpr int kUnit = SUMEXP_BINARY_UNIT;
constexpr int kThreadsOfBlock = SUMEXP_LOSS_THREADS;

/// factor * value, or 0 if the factor is 0.
DEVICE float term(float factor, float value) { return factor == 0.0f ? 0.0f : factor * value; }

/// What the gradients of a mean are multiplied by: a mean over nothing is 0, and so are its gradients.
DEVICE float inverse_divisor(float divisor) { return divisor == 0.0f ? 0.0f : 1.0f / divisor; }

/// A unit of weights; all 1 without any.
DEVICE void load_weights(float (&weights)[kUnit], const Operand& operand, const ElementRows& rows, const UnitPlace& place) {
  if (operand.data != nullptr) return load_unit<F32>(weights, operand, rows, place, false);
#pragma unroll
  for (int i = 0; i < kUnit; ++i) weights[i] = 1.0f;
}

template <class T>
DEVICE void binary_forward(const BinaryForwardParams& p) {
  __shared__ MergeSlots<double, kThreadsOfBlock> for_even_sum, for_odd_sum;
  constexpr uint32_t kUnits = SUMEXP_LOSS_CHUNK / kUnit;
  const uint64_t elements = p.rows.positions.count * p.rows.length;
  // All threads of a block take part in every round: the sum's barrier needs them.
  bool odd = false;
  for (uint64_t first = uint64_t{blockIdx.x} * SUMEXP_LOSS_CHUNK; first < elements; first += uint64_t{gridDim.x} * SUMEXP_LOSS_CHUNK) {
    double sum = 0.0;
    for (uint32_t unit = threadIdx.x; unit < kUnits && first + unit * kUnit < elements; unit += kThreadsOfBlock) {
      const UnitPlace place(p.rows, first / kUnit + unit, kUnit);
      const bool complete = place.count == kUnit;
      float x[kUnit], target[kUnit], weight[kUnit], pos_weight[kUnit];
      load_unit<T>(x, p.logits, p.rows, place, complete && p.logit_units != 0);
      load_unit<T>(target, p.targets, p.rows, place, complete && p.target_units != 0);
      load_weights(weight, p.weight, p.rows, place);
      load_weights(pos_weight, p.pos_weight, p.rows, place);
#pragma unroll
      for (int i = 0; i < kUnit; ++i) {
        const Logistic<T> logistic(x[i]);
        const float happens = term(target[i] * pos_weight[i], logistic.softplus_of_negated());
        x[i] = term(weight[i], happens + term(1.0f - target[i], logistic.softplus()));
        if (static_cast<uint32_t>(i) < place.count) accumulate(sum, x[i]);
      }
      if (p.losses != nullptr) store_unit<F32>(p.losses, place, x, complete && p.loss_units != 0);
    }
    if (p.partials == nullptr) continue;
    // The two sets of slots take turns, because a round has only this one barrier.
    sum = row_reduce<kThreadsOfBlock>(sum, Sum(), odd ? for_odd_sum : for_even_sum);
    odd = !odd;
    if (threadIdx.x > 0) continue;
    const uint64_t rest = elements - first;
    const uint64_t count = rest < SUMEXP_LOSS_CHUNK ? rest : SUMEXP_LOSS_CHUNK;
    const LossPartial partial = {sum, static_cast<double>(count), count, ~uint64_t{0}, 0};
    static_cast<LossPartial*>(p.partials)[first / SUMEXP_LOSS_CHUNK] = partial;
  }
}

template <class T>
DEVICE void binary_backward(const BinaryBackwardParams& p) {
  const uint64_t units = (p.rows.positions.count * p.rows.length + kUnit - 1) / kUnit;
  const float scale = p.divisor == nullptr ? p.scale : inverse_divisor(__ldg(p.divisor));
  for (uint64_t unit = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; unit < units; unit += uint64_t{gridDim.x} * blockDim.x) {
    const UnitPlace place(p.rows, unit, kUnit);
    const bool complete = place.count == kUnit;
    float x[kUnit], target[kUnit], weight[kUnit], pos_weight[kUnit], upstream[kUnit];
    load_unit<T>(x, p.logits, p.rows, place, complete && p.logit_units != 0);
    load_unit<T>(target, p.targets, p.rows, place, complete && p.target_units != 0);
    load_weights(weight, p.weight, p.rows, place);
    load_weights(pos_weight, p.pos_weight, p.rows, place);
    load_unit<F32>(upstream, p.upstream, p.rows, place, complete && p.upstream_units != 0);
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      const Logistic<T> logistic(x[i]);
      const float factor = weight[i] * (upstream[i] * scale);
      const float stays_out = term(1.0f - target[i], factor), happens = term(target[i] * pos_weight[i], factor);
      const float up = stays_out == 0.0f ? 0.0f : logistic.sigmoid(stays_out);
      const float down = happens == 0.0f ? 0.0f : logistic.sigmoid_of_negated(happens);
      x[i] = weight[i] == 0.0f ? 0.0f : up - down;
    }
    store_unit<T>(p.output, place, x, complete && p.output_units != 0);
  }
}

#define BINARY_FORWARD(name, T, threads)                                                                 \
  extern "C" __global__ void __launch_bounds__(threads, 4)                                               \
      binary_cross_entropy_forward_##name(const __grid_constant__ BinaryForwardParams p) {               \
    binary_forward<T>(p);                                                                                \
  }

#define BINARY_BACKWARD(name, T, threads)                                                                \
  extern "C" __global__ void __launch_bounds__(threads, 4)                                               \
      binary_cross_entropy_backward_##name(const __grid_constant__ BinaryBackwardParams p) {             \
    binary_backward<T>(p);                                                                               \
  }

FOR_EACH_DTYPE(BINARY_FORWARD, kThreadsOfBlock)
FOR_EACH_DTYPE(BINARY_BACKWARD, kThreadsOfBlock)
