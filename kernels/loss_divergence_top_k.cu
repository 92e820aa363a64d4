// A divergence over the teacher's k largest logits is one of rows of k elements. The kernel of top-k finds them and their
// classes; here the student's logits of the same classes join them, and the gradients of these find their way back.
//
// Of a student only the chosen elements are read, and of a teacher nothing is read twice for them: no kernel needs to know what
// lies outside of the choice, and nothing that lies there can touch a result.
//
// A thread has one chosen element; neighbours have neighbouring ones. Indices come from memory of our own, but an index decides
// what is read and written: none leads out of its row.
#include "common/entry.cuh"
#include "common/index.cuh"
#include "params/loss_divergence_top_k.h"

constexpr int kThreadsOfBlock = 256;

/// Where a chosen element lies: the row's number, and the class.
struct Chosen {
  uint64_t outer, inner, index;
};

template <class P>
DEVICE Chosen chosen_at(const P& p, uint64_t i) {
  const uint64_t of_outer = p.k * p.inner, outer = i / of_outer;
  const uint64_t index = static_cast<uint64_t>(__ldg(reinterpret_cast<const long long*>(p.indices) + i));
  return {outer, (i - outer * of_outer) % p.inner, index < p.length ? index : p.length - 1};
}

template <class Word>
DEVICE void pick(const DivergencePickParams& p) {
  const uint64_t count = p.positions.count * p.k, step = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    const Chosen at = chosen_at(p, i);
    const uint64_t row = position_offset(p.positions, p.student.strides, at.outer * p.inner + at.inner);
    static_cast<Word*>(p.chosen)[i] = __ldg(static_cast<const Word*>(p.student.data) + row + at.index * p.student.stride);
  }
}

template <class Word>
DEVICE void place(const DivergencePlaceParams& p) {
  const uint64_t step = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < p.count; i += step) {
    const Chosen at = chosen_at(p, i);
    const uint64_t to = (at.outer * p.length + at.index) * p.inner + at.inner;
    static_cast<Word*>(p.output)[to] = __ldg(static_cast<const Word*>(p.chosen) + i);
  }
}

#define DIVERGENCE_CHOICE(name, Word)                                                                        \
  extern "C" __global__ void __launch_bounds__(kThreadsOfBlock)                                              \
      divergence_pick_##name(const __grid_constant__ DivergencePickParams p) { pick<Word>(p); }              \
  extern "C" __global__ void __launch_bounds__(kThreadsOfBlock)                                              \
      divergence_place_##name(const __grid_constant__ DivergencePlaceParams p) { place<Word>(p); }

// Bits move as they are.
DIVERGENCE_CHOICE(16, unsigned short)
DIVERGENCE_CHOICE(32, unsigned int)
