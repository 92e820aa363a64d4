// Copies in bulk with memory barriers: correct kernels, of which tests take instructions away.
#include "ptx.cuh"

constexpr int STAGES = 2, TILE = 256;

// Warp 0 brings tiles of 256 floats, warps 1 to 4 take 64 each: y = 2 x. Every tile goes back through shared memory.
extern "C" __global__ void __launch_bounds__(160) ring(const float* x, float* y, int tiles) {
    __shared__ alignas(128) float in[STAGES][TILE];
    __shared__ alignas(128) float out[TILE];
    __shared__ uint64_t full[STAGES], empty[STAGES];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; ++s) {
            init(&full[s], 1);
            init(&empty[s], 4);
        }
        fence_init();
    }
    __syncthreads();
    if (warp == 0) {
        if (lane == 0) {
            #pragma unroll 1
            for (int t = 0; t < tiles; ++t) {
                int s = t % STAGES, round = t / STAGES;
                wait(&empty[s], (round + 1) & 1);
                expect(&full[s], sizeof in[s]);
                load(in[s], x + t * TILE, sizeof in[s], &full[s]);
            }
        }
        return;
    }
    #pragma unroll 1
    for (int t = 0; t < tiles; ++t) {
        int s = t % STAGES, round = t / STAGES, i = threadIdx.x - 32;
        wait(&full[s], round & 1);
        float a = in[s][i], b = in[s][i + 128];
        __syncwarp();
        if (lane == 0) arrive(&empty[s]);
        out[i] = 2 * a;
        out[i + 128] = 2 * b;
        fence_async();
        asm volatile("bar.sync 1, 128;" ::: "memory");
        if (threadIdx.x == 32) {
            store(y + t * TILE, out, sizeof out);
            commit();
            wait_read();
        }
        asm volatile("bar.sync 1, 128;" ::: "memory");
    }
}

// One block adds a tile to what stands in y, and reads the sum back.
extern "C" __global__ void __launch_bounds__(64) sum(const float* x, float* y, float* z) {
    __shared__ alignas(128) float tile[64];
    int i = threadIdx.x;
    tile[i] = x[i];
    fence_async();
    __syncthreads();
    if (i == 0) {
        add(y, tile, sizeof tile);
        commit();
        wait_written();
        z[0] = y[0];
        z[1] = y[63];
    }
}
