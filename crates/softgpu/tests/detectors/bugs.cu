// Six mistakes that real kernels have made, each beside its repaired twin, and one correct kernel that looks like a
// mistake. Compiled by:  nvcc -ptx -arch=compute_80 -lineinfo -o bugs.ptx bugs.cu

#define WARPS 4

__device__ __forceinline__ float warp_sum(float v) {
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

// One slot per warp, one barrier, then every warp adds up the slots.
__device__ __forceinline__ float block_sum(float v, float *slot) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    v = warp_sum(v);
    if (lane == 0) slot[warp] = v;
    __syncthreads();
    return warp_sum(lane < blockDim.x / 32 ? slot[lane] : 0.0f);
}

// 1. A reduction in a loop rewrites its slots before all warps have read them.
extern "C" __global__ void reduction_reused(const float *x, float *y, int rows) {
    __shared__ float slot[32];
    for (int r = 0; r < rows; ++r) {
        int at = r * blockDim.x + threadIdx.x;
        y[at] = block_sum(x[at], slot);
    }
}

extern "C" __global__ void reduction_alternating(const float *x, float *y, int rows) {
    __shared__ float slot[2][32];
    for (int r = 0; r < rows; ++r) {
        int at = r * blockDim.x + threadIdx.x;
        y[at] = block_sum(x[at], slot[r % 2]);
    }
}

// 2. One warp clears the slots while the others fill them.
extern "C" __global__ void cleared_while_filled(const float *x, float *y) {
    __shared__ float slot[32];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x < 32) slot[threadIdx.x] = 0.0f;
    float v = warp_sum(x[threadIdx.x]);
    if (lane == 0) slot[warp] = v;
    __syncthreads();
    y[threadIdx.x] = warp_sum(slot[lane]);
}

extern "C" __global__ void cleared_then_filled(const float *x, float *y) {
    __shared__ float slot[32];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x < 32) slot[threadIdx.x] = 0.0f;
    __syncthreads();
    float v = warp_sum(x[threadIdx.x]);
    if (lane == 0) slot[warp] = v;
    __syncthreads();
    y[threadIdx.x] = warp_sum(slot[lane]);
}

// 3. The tail of a strided loop keeps a step of one: neighbouring threads change the same elements.
extern "C" __global__ void tail_step_one(float *g, int start, int n) {
    for (int i = start + threadIdx.x; i < n; ++i) g[i] = 2.0f * g[i] + 1.0f;
}

extern "C" __global__ void tail_step_block(float *g, int start, int n) {
    for (int i = start + threadIdx.x; i < n; i += blockDim.x) g[i] = 2.0f * g[i] + 1.0f;
}

// 4. All 32 lanes read an array that has one element per warp.
extern "C" __global__ void slots_overrun(const float *x, float *y) {
    __shared__ float slot[8];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float v = warp_sum(x[threadIdx.x]);
    if (lane == 0) slot[warp] = v;
    __syncthreads();
    y[threadIdx.x] = slot[lane];
}

// The same with a neighbour: here a read past the end stays inside the shared memory of the kernel.
extern "C" __global__ void slots_overrun_into_neighbour(const float *x, float *y) {
    __shared__ float slot[8];
    __shared__ float row[256];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float v = warp_sum(x[threadIdx.x]);
    row[threadIdx.x] = x[threadIdx.x];
    if (lane == 0) slot[warp] = v;
    __syncthreads();
    y[threadIdx.x] = slot[lane] + row[255 - threadIdx.x];
}

extern "C" __global__ void slots_guarded(const float *x, float *y) {
    __shared__ float slot[8];
    __shared__ float row[256];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float v = warp_sum(x[threadIdx.x]);
    row[threadIdx.x] = x[threadIdx.x];
    if (lane == 0) slot[warp] = v;
    __syncthreads();
    y[threadIdx.x] = (lane < 8 ? slot[lane] : 0.0f) + row[255 - threadIdx.x];
}

// 5. A full-mask butterfly: with fewer than 32 threads in the warp it reads lanes that are not there.
extern "C" __global__ void butterfly(const float *x, float *y) { y[threadIdx.x] = warp_sum(x[threadIdx.x]); }

// Whole warps; the idle lanes carry the neutral value.
extern "C" __global__ void butterfly_padded(const float *x, float *y, int n) {
    float v = warp_sum(threadIdx.x < n ? x[threadIdx.x] : 0.0f);
    if (threadIdx.x < n) y[threadIdx.x] = v;
}

// 6. Part of a tile is never written, and all of it is read.
extern "C" __global__ void tile_unfilled(const float *x, float *y, int filled) {
    __shared__ float tile[128];
    if (threadIdx.x < filled) tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
}

extern "C" __global__ void tile_filled(const float *x, float *y, int filled) {
    __shared__ float tile[128];
    tile[threadIdx.x] = threadIdx.x < filled ? x[threadIdx.x] : 0.0f;
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
}

// Correct: two reductions, two arrays, one barrier each, even in a loop.
extern "C" __global__ void two_reductions(const float *x, float *y, int rows) {
    __shared__ float even[32], odd[32];
    for (int r = 0; r < rows; ++r) {
        int at = r * blockDim.x + threadIdx.x;
        float a = block_sum(x[at], even);
        y[at] = block_sum(a * x[at], odd);
    }
}
