// Two attentions of the same queries over different keys, merged into the one over all of these keys, and the gradients of that.
//
//   w_a = 1 / (1 + exp(lse_b - lse_a))    lse = larger + ln(1 + exp(smaller - larger))    out = w_a out_a + w_b out_b
//
//   dout_a = w_a dout    dlse_a = w_a (dlse + w_b dot(dout, out_a - out_b))               and the same with a and b exchanged
//
// A part with lse -inf saw no key: nothing of it is looked at, and the other one is the result, to the bit. A NaN or +inf makes its row
// NaN. Exchanging the parts changes no bit.
//
// A warp has a row; lane l has elements l, l + 32, ... of it.
#include "common/entry.cuh"
#include "common/exact.cuh"
#include "common/index.cuh"
#include "common/reduce.cuh"
#include "params/attention_partial.h"

constexpr int kWarps = 4;

/// What the two parts of a row weigh.
struct PartWeights {
  float a, b, lse;
  bool a_empty, b_empty;

  DEVICE PartWeights(float lse_a, float lse_b) : a_empty(lse_a == -INFINITY), b_empty(lse_b == -INFINITY) {
    if (a_empty || b_empty) {
      a = a_empty ? 0.0f : 1.0f;
      b = b_empty ? 0.0f : 1.0f;
      lse = a_empty ? lse_b : lse_a;
      return;
    }
    if (!(lse_a < INFINITY) || !(lse_b < INFINITY)) {
      a = b = lse = NAN;
      return;
    }
    const float larger = fmaxf(lse_a, lse_b), below = __fsub_rn(fminf(lse_a, lse_b), larger);
    // log2(e) in two parts, so that the exponent keeps the digits of `below`.
    const Pair exponent = two_product(below, 0x1.715476p+0f);
    const float smaller = __fmul_rn(exp2_times_2_24(exponent.high, __fmaf_rn(below, 0x1.4ae0cp-26f, exponent.low)), 0x1p-24f);
    const float of_larger = quotient(1.0f, __fadd_rn(1.0f, smaller)), of_smaller = __fmul_rn(smaller, of_larger);
    a = lse_a < lse_b ? of_smaller : of_larger;
    b = lse_b < lse_a ? of_smaller : of_larger;
    lse = __fadd_rn(larger, log1p_accurate(smaller));
  }
};

/// A row of an operand.
template <class T>
struct Row {
  const char* first;
  uint64_t stride;

  DEVICE Row(const Operand& operand, const Positions& positions, uint64_t position)
      : first(static_cast<const char*>(operand.data) + position_offset(positions, operand.strides, position) * T::kBytes),
        stride(operand.stride * T::kBytes) {}

  DEVICE float at(uint64_t i) const {
    if constexpr (T::kBytes == 4) return __ldg(reinterpret_cast<const float*>(first + i * stride));
    return T::low(__ldg(reinterpret_cast<const uint16_t*>(first + i * stride)));
  }
};

DEVICE float one_of(const Operand& operand, const Positions& positions, uint64_t position) {
  return __ldg(static_cast<const float*>(operand.data) + position_offset(positions, operand.strides, position));
}

template <class T>
DEVICE void store(void* rows, uint64_t at, float value) {
  const uint32_t word = T::pack(value, value);
  if constexpr (T::kBytes == 4) {
    static_cast<uint32_t*>(rows)[at] = word;
  } else {
    static_cast<uint16_t*>(rows)[at] = static_cast<uint16_t>(word);
  }
}

template <class T>
DEVICE void attention_partial(const AttentionPartialParams& p) {
  const AttentionParts& parts = p.parts;
  const uint64_t size = parts.size, step = uint64_t{gridDim.x} * kWarps;
  for (uint64_t row = uint64_t{blockIdx.x} * kWarps + threadIdx.x / 32; row < parts.positions.count; row += step) {
    const PartWeights weights(one_of(parts.a_lse, parts.positions, row), one_of(parts.b_lse, parts.positions, row));
    const Row<T> a(parts.a_out, parts.positions, row), b(parts.b_out, parts.positions, row);
#pragma unroll 4
    for (uint64_t i = threadIdx.x % 32; i < size; i += 32) {
      float out = 0.0f;
      if (weights.b_empty) {
        if (!weights.a_empty) out = a.at(i);
      } else if (weights.a_empty) {
        out = b.at(i);
      } else {
        out = __fadd_rn(__fmul_rn(weights.a, a.at(i)), __fmul_rn(weights.b, b.at(i)));
      }
      store<T>(p.out, row * size + i, out);
    }
    if (threadIdx.x % 32 == 0 && p.lse != nullptr) p.lse[row] = weights.lse;
  }
}

template <class T>
DEVICE void attention_partial_backward(const AttentionPartialBackwardParams& p) {
  const AttentionParts& parts = p.parts;
  const uint64_t size = parts.size, step = uint64_t{gridDim.x} * kWarps;
  for (uint64_t row = uint64_t{blockIdx.x} * kWarps + threadIdx.x / 32; row < parts.positions.count; row += step) {
    const PartWeights weights(one_of(parts.a_lse, parts.positions, row), one_of(parts.b_lse, parts.positions, row));
    const Row<T> a(parts.a_out, parts.positions, row), b(parts.b_out, parts.positions, row), dout(p.dout, parts.positions, row);
    // Where only one part is there, the merged one is that part, and its lse does not move the weights.
    const bool both = !weights.a_empty && !weights.b_empty;
    double sum = 0.0;
#pragma unroll 4
    for (uint64_t i = threadIdx.x % 32; i < size; i += 32) {
      const float d = weights.a_empty && weights.b_empty ? 0.0f : dout.at(i);
      if (both) sum = __fma_rn(static_cast<double>(d), __dsub_rn(a.at(i), b.at(i)), sum);
      store<T>(p.a_dout, row * size + i, weights.a_empty ? 0.0f : __fmul_rn(weights.a, d));
      store<T>(p.b_dout, row * size + i, weights.b_empty ? 0.0f : __fmul_rn(weights.b, d));
    }
    const float dot = __double2float_rn(warp_reduce<32>(sum, Sum()));
    if (threadIdx.x % 32 == 0) {
      const float dlse = p.dlse.data == nullptr ? 0.0f : one_of(p.dlse, parts.positions, row);
      p.a_dlse[row] = weights.a_empty ? 0.0f : __fmul_rn(weights.a, both ? __fmaf_rn(weights.b, dot, dlse) : dlse);
      p.b_dlse[row] = weights.b_empty ? 0.0f : __fmul_rn(weights.b, both ? __fmaf_rn(-weights.a, dot, dlse) : dlse);
    }
  }
}

#define ATTENTION_PARTIAL(name, T, ...)                                                            \
  extern "C" __global__ void __launch_bounds__(32 * kWarps)                                        \
      attention_partial_##name(const __grid_constant__ AttentionPartialParams p) {                 \
    attention_partial<T>(p);                                                                       \
  }                                                                                                \
  extern "C" __global__ void __launch_bounds__(32 * kWarps)                                        \
      attention_partial_backward_##name(const __grid_constant__ AttentionPartialBackwardParams p) { \
    attention_partial_backward<T>(p);                                                              \
  }

FOR_EACH_DTYPE(ATTENTION_PARTIAL)
