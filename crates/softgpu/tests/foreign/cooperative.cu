// Cooperative groups: reductions over tiles, coalesced threads and labels, and idioms of warps.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
namespace cg = cooperative_groups;

extern "C" __global__ void tiles(const int *x, int *y) {
    cg::thread_block block = cg::this_thread_block();
    auto warp = cg::tiled_partition<32>(block);
    auto eight = cg::tiled_partition<8>(warp);
    int at = blockIdx.x * blockDim.x + block.thread_rank();
    int v = x[at];
    int sum = cg::reduce(warp, v, cg::plus<int>());
    int least = cg::reduce(eight, v, cg::less<int>());
    int bits = cg::reduce(eight, v, cg::bit_xor<int>());
    float most = cg::reduce(warp, 0.5f * v, cg::greater<float>());
    y[at] = sum + 1000 * least + 100000 * bits + static_cast<int>(2 * most);
}

extern "C" __global__ void coalesced(const int *x, int *y) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    int v = x[at];
    int result = -1;
    if (v % 3 != 1) {
        cg::coalesced_group group = cg::coalesced_threads();
        int sum = cg::reduce(group, v, cg::plus<int>());
        result = sum * 100 + group.thread_rank();
        auto same = cg::labeled_partition(group, v % 5);
        result += 10000000 * static_cast<int>(same.size());
    }
    y[at] = result;
}

extern "C" __global__ void scans(const int *x, int *y) {
    auto warp = cg::tiled_partition<32>(cg::this_thread_block());
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    y[at] = cg::inclusive_scan(warp, x[at]) + 100000 * cg::exclusive_scan(warp, x[at] & 1);
}

// A whole block: warps through shared memory, then one warp.
extern "C" __global__ void block_sum(const int *x, int *y) {
    __shared__ int sums[32];
    cg::thread_block block = cg::this_thread_block();
    auto warp = cg::tiled_partition<32>(block);
    int sum = 0;
    for (int i = block.thread_rank(); i < 1000; i += block.size()) sum += x[i];
    sum = cg::reduce(warp, sum, cg::plus<int>());
    if (warp.thread_rank() == 0) sums[warp.meta_group_rank()] = sum;
    block.sync();
    if (warp.meta_group_rank() == 0) {
        int part = warp.thread_rank() < warp.meta_group_size() ? sums[warp.thread_rank()] : 0;
        int all = cg::reduce(warp, part, cg::plus<int>());
        if (warp.thread_rank() == 0) *y = all;
    }
}

// Neighbours exchange through shared memory with warp barriers alone.
extern "C" __global__ void exchange(const int *x, int *y) {
    __shared__ volatile int slots[128];
    int i = threadIdx.x, lane = i % 32, base = i - lane;
    int v = x[blockIdx.x * blockDim.x + i];
    for (int step = 1; step < 32; step *= 2) {
        slots[i] = v;
        __syncwarp();
        int other = slots[base + (lane ^ step)];
        __syncwarp();
        v += other;
    }
    y[blockIdx.x * blockDim.x + i] = v;
}

// One atomic addition for all lanes that come together.
extern "C" __global__ void aggregated(const int *x, int *y) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (x[at] % 2 == 0) {
        unsigned mask = __activemask();
        int leader = __ffs(mask) - 1, lane = threadIdx.x % 32;
        int base = 0;
        if (lane == leader) base = atomicAdd(y, __popc(mask));
        base = __shfl_sync(mask, base, leader);
        y[1 + base + __popc(mask & ((1u << lane) - 1))] = x[at];
    }
}
