// Tensor copies: boxes in and out, with what lies outside of the tensor.
#include "ptx.cuh"

// Brings `bytes` of box (x, y) to shared memory, hands out what came, word by word, and stores it at (u, v) of another map.
extern "C" __global__ void __launch_bounds__(64)
    box(const __grid_constant__ Map from, const __grid_constant__ Map to, uint32_t* seen, int bytes, int x, int y, int u, int v) {
    __shared__ alignas(1024) uint32_t tile[2048];
    __shared__ uint64_t full;
    if (threadIdx.x == 0) {
        prefetch(&from);
        init(&full, 1);
        fence_init();
        expect(&full, bytes);
        load_2d(tile, &from, x, y, &full);
    }
    __syncthreads();
    wait(&full, 0);
    for (int i = threadIdx.x; i < bytes / 4; i += 64) seen[i] = tile[i];
    fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        store_2d(&to, u, v, tile);
        commit();
        wait_read();
    }
}

// Adds a tile of threads' numbers at (x, y).
extern "C" __global__ void __launch_bounds__(64) add(const __grid_constant__ Map to, int x, int y) {
    __shared__ alignas(128) float tile[64];
    tile[threadIdx.x] = threadIdx.x;
    fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        add_2d(&to, x, y, tile);
        commit();
        wait_read();
    }
}

// The other numbers of dimensions, for the shape of it.
extern "C" __global__ void __launch_bounds__(32) dimensions(const __grid_constant__ Map m1, const __grid_constant__ Map m3,
                                                            const __grid_constant__ Map m4, const __grid_constant__ Map m5,
                                                            uint32_t* seen) {
    __shared__ alignas(128) uint32_t tile[4][32];
    __shared__ uint64_t full;
    if (threadIdx.x == 0) {
        init(&full, 1);
        fence_async();
        expect(&full, sizeof tile);
        uint32_t to = shared(tile), bar = shared(&full);
        asm volatile("cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2}], [%3];" ::"r"(
                         to), "l"(&m1), "r"(4), "r"(bar) : "memory");
        asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3, %4}], [%5], %6;" ::
                         "r"(to + 128), "l"(&m3), "r"(0), "r"(1), "r"(2), "r"(bar), "l"(0x12F0000000000000) : "memory");
        asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(
                         to + 256), "l"(&m4), "r"(0), "r"(1), "r"(1), "r"(1), "r"(bar) : "memory");
        asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5, %6}], [%7];" ::
                         "r"(to + 384), "l"(&m5), "r"(0), "r"(1), "r"(0), "r"(1), "r"(-1), "r"(bar) : "memory");
    }
    __syncwarp();
    wait(&full, 0);
    for (int i = 0; i < 4; ++i) seen[i * 32 + threadIdx.x] = tile[i][threadIdx.x];
}
