// Row softmax, one warp per row and one block per row, as a kernel author would write them.
#include <stdint.h>
#include <math_constants.h>

struct Params {
    const float* x;
    float* y;
    uint64_t rows;
    uint32_t length;
    float scale;
};

__device__ __forceinline__ float warp_max(float v) {
    for (int s = 16; s > 0; s >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, s));
    return v;
}

__device__ __forceinline__ float warp_sum(float v) {
    for (int s = 16; s > 0; s >>= 1) v += __shfl_xor_sync(0xffffffffu, v, s);
    return v;
}

extern "C" __global__ void warp_rows(const __grid_constant__ Params p) {
    uint64_t row = uint64_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= p.rows) return;
    const float* x = p.x + row * p.length;
    float* y = p.y + row * p.length;
    float m = -CUDART_INF_F;
    for (uint32_t i = threadIdx.x % 32; i < p.length; i += 32) m = fmaxf(m, x[i]);
    m = warp_max(m);
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x % 32; i < p.length; i += 32) sum += expf((x[i] - m) * p.scale);
    sum = warp_sum(sum);
    for (uint32_t i = threadIdx.x % 32; i < p.length; i += 32) y[i] = expf((x[i] - m) * p.scale) / sum;
}

extern "C" __global__ void block_rows(const __grid_constant__ Params p) {
    __shared__ float maxima[32];
    __shared__ float sums[32];
    uint32_t warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const float* x = p.x + uint64_t(blockIdx.x) * p.length;
    float* y = p.y + uint64_t(blockIdx.x) * p.length;
    float m = -CUDART_INF_F;
    for (uint32_t i = threadIdx.x; i < p.length; i += blockDim.x) m = fmaxf(m, x[i]);
    m = warp_max(m);
    if (lane == 0) maxima[warp] = m;
    __syncthreads();
    m = warp_max(lane < warps ? maxima[lane] : -CUDART_INF_F);
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < p.length; i += blockDim.x) sum += expf((x[i] - m) * p.scale);
    sum = warp_sum(sum);
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    sum = warp_sum(lane < warps ? sums[lane] : 0.0f);
    for (uint32_t i = threadIdx.x; i < p.length; i += blockDim.x) y[i] = expf((x[i] - m) * p.scale) / sum;
}
