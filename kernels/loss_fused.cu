// Cross-entropy on class targets and the gradient of its logits in one kernel: common/cross_entropy_fused.cuh says how.
#include "common/cross_entropy_fused.cuh"
#include "common/entry.cuh"

/// Blocks that a multiprocessor must be able to hold: 80 registers a thread, 64 for the largest blocks.
template <int kLanes>
constexpr int kBlocks = kLanes < 128 ? 6 : kLanes == 1024 ? 1 : 768 / kLanes;

#define CROSS_ENTROPY_FUSED(name, T, lanes, vectors)                                        \
  extern "C" __global__ void __launch_bounds__(kThreads<lanes>, kBlocks<lanes>)             \
      cross_entropy_fused_##name##_##lanes##x##vectors(const __grid_constant__ CrossEntropyFusedParams p) { \
    cross_entropy_fused<T, lanes, vectors, lanes == 1024, false>(p);                                           \
  }

FOR_EACH_DTYPE(CROSS_ENTROPY_FUSED, 8, 1)
FOR_EACH_DTYPE(CROSS_ENTROPY_FUSED, 32, 4)
FOR_EACH_DTYPE(CROSS_ENTROPY_FUSED, 256, 4)
FOR_EACH_DTYPE(CROSS_ENTROPY_FUSED, 1024, 4)
