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
