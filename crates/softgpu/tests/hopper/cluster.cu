// Clusters: blocks that reach each other's shared memory. Correct kernels, of which tests take instructions away.
#include "ptx.cuh"

// Each block sums its part of a row, tells all blocks of the cluster, and divides by the sum of all.
extern "C" __global__ void __cluster_dims__(4, 1, 1) __launch_bounds__(64) normalise(const float* x, float* y) {
    __shared__ float parts[4];
    __shared__ float warps[2];
    int rank = rank_in_cluster(), i = blockIdx.x * 64 + threadIdx.x;
    CLUSTER_ARRIVE;
    float mine = x[i], sum = mine;
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    CLUSTER_WAIT;
    if (threadIdx.x < 4) {
        asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(of_block(&parts[rank], threadIdx.x)), "f"(warps[0] + warps[1])
                     : "memory");
    }
    CLUSTER_ARRIVE;
    CLUSTER_WAIT;
    y[i] = mine / (parts[0] + parts[1] + parts[2] + parts[3]);
}

// The same by pointers: each block reads what the others have, and counts its visitors by an atomic operation.
extern "C" __global__ void __cluster_dims__(2, 2, 1) __launch_bounds__(32) visit(int* out) {
    __shared__ int own[32];
    __shared__ int visitors;
    unsigned rank = __clusterRelativeBlockRank();
    own[threadIdx.x] = 100 * blockIdx.y + 10 * blockIdx.x + threadIdx.x;
    if (threadIdx.x == 0) visitors = 0;
    CLUSTER_ARRIVE;
    CLUSTER_WAIT;
    unsigned next = (rank + 1) % __clusterSizeInBlocks();
    int* theirs = (int*)__cluster_map_shared_rank(own, next);
    int seen = theirs[threadIdx.x];
    if (threadIdx.x < 3) atomicAdd((int*)__cluster_map_shared_rank(&visitors, next), 1);
    CLUSTER_ARRIVE;
    CLUSTER_WAIT;
    int at = (blockIdx.y * gridDim.x + blockIdx.x) * 32 + threadIdx.x;
    out[at] = 1000 * visitors + seen + 10000 * (int)__cluster_query_shared_rank(theirs);
}

// Two blocks bring half of each tile and give it to both; of each tile a block doubles its half. Warp 0 brings.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(96) relay(const float* x, float* y, int tiles) {
    __shared__ alignas(128) float in[2][256];
    __shared__ uint64_t full[2], empty[2];
    int rank = rank_in_cluster(), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        for (int s = 0; s < 2; ++s) {
            init(&full[s], 1);
            init(&empty[s], 4);
        }
        fence_init();
    }
    CLUSTER_ARRIVE;
    CLUSTER_WAIT;
    if (warp == 0) {
        if (lane == 0) {
            #pragma unroll 1
            for (int t = 0; t < tiles; ++t) {
                int s = t % 2, round = t / 2;
                wait(&empty[s], (round + 1) & 1);
                expect(&full[s], sizeof in[s]);
                load_multicast(in[s] + 128 * rank, x + 256 * t + 128 * rank, 512, &full[s], 3);
            }
        }
    } else {
        #pragma unroll 1
        for (int t = 0; t < tiles; ++t) {
            int s = t % 2, round = t / 2, i = 128 * rank + threadIdx.x - 32;
            wait(&full[s], round & 1);
            // Both halves are looked at, so that each block waits for the other.
            float a = in[s][i], b = in[s][i + 64], c = in[s][i ^ 128];
            __syncwarp();
            if (lane == 0) arrive_at(0, &empty[s]);
            if (lane == 0) arrive_at(1, &empty[s]);
            y[256 * t + i] = 2 * a + c;
            y[256 * t + i + 64] = 2 * b;
        }
    }
    CLUSTER_ARRIVE;
    CLUSTER_WAIT;
}

// Each block sends four words to the next block, and a page to the one before, without anybody's waiting for them to come.
extern "C" __global__ void __cluster_dims__(4, 1, 1) __launch_bounds__(64) send(int* words, float* pages) {
    __shared__ alignas(16) int inbox[4];
    __shared__ alignas(128) float page[64], copy[64];
    __shared__ uint64_t full;
    int rank = rank_in_cluster(), i = threadIdx.x;
    if (i == 0) {
        init(&full, 1);
        fence_init();
    }
    page[i] = 100 * rank + i;
    fence_async();
    CLUSTER_ARRIVE;
    CLUSTER_WAIT;
    if (i == 0) {
        expect(&full, sizeof inbox + sizeof copy);
        uint32_t next = (rank + 1) % 4, before = (rank + 3) % 4;
        asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.s32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                         of_block(inbox, next)), "r"(rank), "r"(rank + 10), "r"(rank + 20), "r"(rank + 30),
                     "r"(of_block(&full, next)) : "memory");
        copy_to(before, copy, page, sizeof page, &full);
    }
    wait(&full, 0);
    if (i < 4) words[4 * rank + i] = inbox[i];
    pages[64 * rank + i] = copy[i];
    CLUSTER_ARRIVE;
    CLUSTER_WAIT;
}

// One block brings a box for all four.
extern "C" __global__ void __cluster_dims__(4, 1, 1) __launch_bounds__(32)
    box(const __grid_constant__ Map from, uint32_t* out, int ranks) {
    __shared__ alignas(128) uint32_t tile[64];
    __shared__ uint64_t full;
    int rank = rank_in_cluster();
    if (threadIdx.x == 0) {
        init(&full, 1);
        fence_init();
        if (ranks >> rank & 1) expect(&full, sizeof tile);
    }
    CLUSTER_ARRIVE;
    CLUSTER_WAIT;
    if (rank == 2 && threadIdx.x == 0) load_2d_multicast(tile, &from, 0, 1, &full, ranks);
    if (ranks >> rank & 1) {
        wait(&full, 0);
        out[64 * rank + threadIdx.x] = tile[threadIdx.x];
        out[64 * rank + threadIdx.x + 32] = tile[threadIdx.x + 32];
    }
    CLUSTER_ARRIVE;
    CLUSTER_WAIT;
}
