// Collectives of CUB: each kernel reads x and writes y, with one item per thread or four.
#include <cub/block/block_load.cuh>
#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#include <cub/block/block_store.cuh>
#include <cub/warp/warp_reduce.cuh>
#include <cub/warp/warp_scan.cuh>

constexpr int THREADS = 96;

template <cub::BlockReduceAlgorithm ALGORITHM>
__device__ void block_reduce(const int *x, int *y) {
    using Reduce = cub::BlockReduce<int, THREADS, ALGORITHM>;
    __shared__ typename Reduce::TempStorage storage;
    int at = blockIdx.x * THREADS + threadIdx.x;
    int sum = Reduce(storage).Sum(x[at]);
    __syncthreads();
    int max = Reduce(storage).Reduce(x[at], [](int a, int b) { return a < b ? b : a; });
    __syncthreads();
    // Fewer items than threads.
    int some = Reduce(storage).Sum(x[at], 50);
    if (threadIdx.x == 0) {
        y[3 * blockIdx.x] = sum;
        y[3 * blockIdx.x + 1] = max;
        y[3 * blockIdx.x + 2] = some;
    }
}

extern "C" __global__ void reduce_raking_ordered(const int *x, int *y) { block_reduce<cub::BLOCK_REDUCE_RAKING>(x, y); }
extern "C" __global__ void reduce_raking(const int *x, int *y) {
    block_reduce<cub::BLOCK_REDUCE_RAKING_COMMUTATIVE_ONLY>(x, y);
}
extern "C" __global__ void reduce_warps(const int *x, int *y) { block_reduce<cub::BLOCK_REDUCE_WARP_REDUCTIONS>(x, y); }

// A type with padding between its members, which CUB moves as bytes.
struct Best {
    short value;
    int at;
    double weight;
};

extern "C" __global__ void reduce_padded(const int *x, int *y) {
    using Reduce = cub::BlockReduce<Best, THREADS>;
    __shared__ typename Reduce::TempStorage storage;
    int at = blockIdx.x * THREADS + threadIdx.x;
    Best mine{static_cast<short>(x[at]), static_cast<int>(threadIdx.x), 0.5 * x[at]};
    Best best = Reduce(storage).Reduce(mine, [](Best a, Best b) {
        bool left = a.value > b.value || (a.value == b.value && a.at < b.at);
        Best c = left ? a : b;
        c.weight = a.weight + b.weight;
        return c;
    });
    if (threadIdx.x == 0) {
        y[3 * blockIdx.x] = best.value;
        y[3 * blockIdx.x + 1] = best.at;
        y[3 * blockIdx.x + 2] = static_cast<int>(2 * best.weight);
    }
}

extern "C" __global__ void warp_reduce(const int *x, int *y) {
    using Reduce = cub::WarpReduce<int>;
    using Eight = cub::WarpReduce<int, 8>;
    __shared__ typename Reduce::TempStorage storage[THREADS / 32];
    __shared__ typename Eight::TempStorage eights[THREADS / 8];
    int at = blockIdx.x * THREADS + threadIdx.x;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int sum = Reduce(storage[warp]).Sum(x[at]);
    int eight = Eight(eights[threadIdx.x / 8]).Sum(x[at]);
    // Segments begin where x is a multiple of three.
    int segment = Reduce(storage[warp]).HeadSegmentedSum(x[at], x[at] % 3 == 0);
    int first = __shfl_sync(0xffffffffu, sum, 0);
    int own = __shfl_sync(0xffffffffu, eight, lane & ~7);
    y[at] = first + 1000 * own + (lane == 0 || x[at] % 3 == 0 ? 1000000 * (segment & 63) : 0);
}

template <cub::BlockScanAlgorithm ALGORITHM>
__device__ void block_scan(const int *x, int *y) {
    using Scan = cub::BlockScan<int, THREADS, ALGORITHM>;
    __shared__ typename Scan::TempStorage storage;
    int items[4], total;
    int at = (blockIdx.x * THREADS + threadIdx.x) * 4;
    for (int i = 0; i < 4; ++i) items[i] = x[at + i];
    Scan(storage).ExclusiveSum(items, items, total);
    __syncthreads();
    int one = x[at], most;
    Scan(storage).InclusiveScan(one, most, [](int a, int b) { return a < b ? b : a; });
    for (int i = 0; i < 4; ++i) y[at + i] = items[i] + (i == 3 ? total : 1000 * most);
}

extern "C" __global__ void scan_raking(const int *x, int *y) { block_scan<cub::BLOCK_SCAN_RAKING>(x, y); }
extern "C" __global__ void scan_memoized(const int *x, int *y) { block_scan<cub::BLOCK_SCAN_RAKING_MEMOIZE>(x, y); }
extern "C" __global__ void scan_warps(const int *x, int *y) { block_scan<cub::BLOCK_SCAN_WARP_SCANS>(x, y); }

extern "C" __global__ void warp_scan(const int *x, int *y) {
    using Scan = cub::WarpScan<int>;
    __shared__ typename Scan::TempStorage storage[THREADS / 32];
    int at = blockIdx.x * THREADS + threadIdx.x;
    int exclusive;
    Scan(storage[threadIdx.x / 32]).ExclusiveSum(x[at], exclusive);
    y[at] = exclusive;
}

template <cub::BlockLoadAlgorithm LOAD, cub::BlockStoreAlgorithm STORE>
__device__ void load_store(const int *x, int *y, int count) {
    using Load = cub::BlockLoad<int, THREADS, 4, LOAD>;
    using Store = cub::BlockStore<int, THREADS, 4, STORE>;
    __shared__ union {
        typename Load::TempStorage load;
        typename Store::TempStorage store;
    } storage;
    int items[4];
    int base = blockIdx.x * THREADS * 4;
    int valid = count - base < THREADS * 4 ? count - base : THREADS * 4;
    Load(storage.load).Load(x + base, items, valid, -1);
    __syncthreads();
    for (int i = 0; i < 4; ++i) items[i] = 2 * items[i] + i;
    Store(storage.store).Store(y + base, items, valid);
}

extern "C" __global__ void copy_direct(const int *x, int *y, int count) {
    load_store<cub::BLOCK_LOAD_DIRECT, cub::BLOCK_STORE_DIRECT>(x, y, count);
}
extern "C" __global__ void copy_transpose(const int *x, int *y, int count) {
    load_store<cub::BLOCK_LOAD_TRANSPOSE, cub::BLOCK_STORE_TRANSPOSE>(x, y, count);
}
extern "C" __global__ void copy_warps(const int *x, int *y, int count) {
    load_store<cub::BLOCK_LOAD_WARP_TRANSPOSE, cub::BLOCK_STORE_WARP_TRANSPOSE>(x, y, count);
}

extern "C" __global__ void radix_sort(const int *x, int *y) {
    using Sort = cub::BlockRadixSort<int, THREADS, 4, short>;
    __shared__ typename Sort::TempStorage storage;
    int keys[4];
    short values[4];
    int at = (blockIdx.x * THREADS + threadIdx.x) * 4;
    for (int i = 0; i < 4; ++i) {
        keys[i] = x[at + i];
        values[i] = static_cast<short>(threadIdx.x * 4 + i);
    }
    Sort(storage).Sort(keys, values);
    for (int i = 0; i < 4; ++i) y[at + i] = keys[i] * 512 + values[i];
}
