// Cross-entropy in which every class has a share of the loss, or whose rows are described by statistics, and the gradient of its
// logits in one kernel: common/cross_entropy_fused.cuh says how.
#include "common/cross_entropy_fused.cuh"
#include "common/entry.cuh"

/// Blocks that a multiprocessor must be able to hold: 128 registers a thread.
template <int kLanes>
constexpr int kBlocks = 512 / kThreads<kLanes>;

// Pieces are those of loss_dense.cu, so that the bits are the same.
#define CROSS_ENTROPY_FUSED_DENSE(name, T, lanes, vectors)                                  \
  extern "C" __global__ void __launch_bounds__(kThreads<lanes>, kBlocks<lanes>)             \
      cross_entropy_fused_dense_##name##_##lanes##x##vectors(const __grid_constant__ CrossEntropyFusedParams p) { \
    cross_entropy_fused<T, lanes, vectors, lanes == 512, true>(p);                          \
  }

FOR_EACH_DTYPE(CROSS_ENTROPY_FUSED_DENSE, 8, 1)
FOR_EACH_DTYPE(CROSS_ENTROPY_FUSED_DENSE, 32, 4)
FOR_EACH_DTYPE(CROSS_ENTROPY_FUSED_DENSE, 512, 2)
