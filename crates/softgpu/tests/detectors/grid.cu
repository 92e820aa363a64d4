// Kernels whose CTAs touch the same device memory: mistakes, and correct code that looks like them.
// Compiled by:  nvcc -ptx -arch=compute_80 -lineinfo -o grid.ptx grid.cu

// Each CTA writes a tile of its own.
extern "C" __global__ void tiles_apart(int *y) { y[blockIdx.x * blockDim.x + threadIdx.x] = blockIdx.x; }

// Tiles overlap by one element: the last thread of a CTA writes what belongs to the next one.
extern "C" __global__ void tiles_overlap(int *y) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    y[at] = blockIdx.x;
    if (threadIdx.x == blockDim.x - 1) y[at + 1] = blockIdx.x;
}

// Every CTA stores the same value to one element.
extern "C" __global__ void same_value_by_all(int *y) {
    if (threadIdx.x == 0) y[0] = 7;
}

// In place, each element plus its right neighbour: the neighbour of the last one belongs to the next CTA.
extern "C" __global__ void halo_in_place(int *y) {
    int n = gridDim.x * blockDim.x, at = blockIdx.x * blockDim.x + threadIdx.x;
    int v = y[at] + (at + 1 < n ? y[at + 1] : 0);
    __syncthreads();
    y[at] = v;
}

// All CTAs read one table and write tiles of their own.
extern "C" __global__ void table_for_all(int *table, int *y) {
    volatile int *t = table;
    y[blockIdx.x * blockDim.x + threadIdx.x] = table[threadIdx.x] + t[0];
}

// Atomics of all CTAs on one counter.
extern "C" __global__ void counter(int *y) { atomicAdd(y, 1); }

// One CTA clears the counter that the others already use.
extern "C" __global__ void counter_cleared(int *y) {
    if (blockIdx.x == 0 && threadIdx.x == 0) *y = 0;
    __syncthreads();
    atomicAdd(y, 1);
}

// The last CTA adds up what the others left, as the programming guide has it, and resets the counter.
extern "C" __global__ void last_block(const int *x, volatile int *partial, unsigned *count, int *y) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = x[blockIdx.x];
        __threadfence();
        last = atomicInc(count, gridDim.x) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        int sum = 0;
        for (int i = 0; i < gridDim.x; ++i) sum += partial[i];
        *y = sum;
        *count = 0;
    }
}

// The same, all threads writing: they meet at a barrier before one of them speaks for all.
extern "C" __global__ void last_block_of_many(const int *x, int *partial, unsigned *count, int *y) {
    __shared__ bool last;
    partial[blockIdx.x * blockDim.x + threadIdx.x] = x[threadIdx.x] + blockIdx.x;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(count, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (last) {
        int sum = 0;
        for (int i = 0; i < gridDim.x; ++i) sum += __ldcg(&partial[i * blockDim.x + threadIdx.x]);
        y[threadIdx.x] = sum;
    }
}

// Without the fence.
extern "C" __global__ void last_block_without_fence(const int *x, int *partial, unsigned *count, int *y) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = x[blockIdx.x];
        asm volatile("" ::: "memory");
        last = atomicAdd(count, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        int sum = 0;
        for (int i = 0; i < gridDim.x; ++i) sum += __ldcg(&partial[i]);
        *y = sum;
    }
}

// All threads write, and one thread speaks for all of them without having met them.
extern "C" __global__ void last_block_without_barrier(const int *x, int *partial, unsigned *count, int *y) {
    __shared__ bool last;
    partial[blockIdx.x * blockDim.x + threadIdx.x] = x[threadIdx.x] + blockIdx.x;
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(count, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (last) {
        int sum = 0;
        for (int i = 0; i < gridDim.x; ++i) sum += __ldcg(&partial[i * blockDim.x + threadIdx.x]);
        y[threadIdx.x] = sum;
    }
}

__device__ __forceinline__ int acquire(const int *p) {
    int v;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}

// CTA 1 hands a value to CTA 0, which started earlier and waits for it.
extern "C" __global__ void hand_over(int *data, int *flag, int *y) {
    if (threadIdx.x != 0) return;
    if (blockIdx.x == 1) {
        *data = 42;
        asm volatile("st.release.gpu.global.s32 [%0], 1;" ::"l"(flag) : "memory");
    } else {
        while (acquire(flag) == 0) {}
        *y = *data;
    }
}

// The flag is relaxed: it tells, and orders nothing.
extern "C" __global__ void hand_over_relaxed(int *data, int *flag, int *y) {
    if (threadIdx.x != 0) return;
    if (blockIdx.x == 1) {
        *data = 42;
        asm volatile("st.relaxed.gpu.global.s32 [%0], 1;" ::"l"(flag) : "memory");
    } else {
        int v;
        do {
            asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(v) : "l"(flag) : "memory");
        } while (v == 0);
        *y = *data;
    }
}

// Order is transitive: 2 hands over to 1, and 1 to 0.
extern "C" __global__ void hand_over_twice(int *data, int *flag, int *y) {
    if (threadIdx.x != 0) return;
    if (blockIdx.x == 2) {
        *data = 42;
        asm volatile("st.release.gpu.global.s32 [%0], 1;" ::"l"(flag) : "memory");
    } else if (blockIdx.x == 1) {
        while (acquire(flag) == 0) {}
        asm volatile("st.release.gpu.global.s32 [%0], 1;" ::"l"(flag + 2) : "memory");
    } else {
        while (acquire(flag + 2) == 0) {}
        *y = *data;
    }
}

// A barrier of the whole grid: every CTA arrives and waits for the others. Then each reads what its neighbour wrote.
__device__ void grid_barrier(unsigned *count, unsigned round) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(count, 1u);
        while (*(volatile unsigned *)count < round * gridDim.x) {}
        __threadfence();
    }
    __syncthreads();
}

extern "C" __global__ void rounds(int *x, unsigned *count, int rounds) {
    int n = gridDim.x * blockDim.x, at = blockIdx.x * blockDim.x + threadIdx.x;
    int *from = x, *to = x + n;
    for (int r = 0; r < rounds; ++r) {
        to[at] = from[(at + blockDim.x) % n] + 1;
        grid_barrier(count, r + 1);
        int *t = from;
        from = to;
        to = t;
    }
}

// Nobody ever sets the flag.
extern "C" __global__ void waits_for_nobody(int *flag, int *y) {
    while (*(volatile int *)flag == 0) {}
    *y = 1;
}

// A word that is read as unchangeable data and written by another CTA.
extern "C" __global__ void unchangeable(int *x, int *y) {
    if (blockIdx.x == 0) y[threadIdx.x] = __ldg(&x[threadIdx.x]);
    if (blockIdx.x == 1) x[threadIdx.x] = 5;
}

// In place within one thread: order is no help to data that were promised not to change.
extern "C" __global__ void unchangeable_in_place(int *x) { x[threadIdx.x] = __ldg(&x[threadIdx.x]) + 1; }

// Halves of a warp that meet by themselves: lanes of different halves are not ordered.
extern "C" __global__ void half_warps(const int *x, int *y, int across) {
    __shared__ int tile[32];
    unsigned lane = threadIdx.x, half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    tile[lane] = x[lane];
    __syncwarp(half);
    y[lane] = tile[lane ^ across];
}

// Barriers: in one branch only, for too many threads, two at once, and a butterfly of 17 threads.
extern "C" __global__ void barrier_in_branch(int *y) {
    if (threadIdx.x < 16) __syncthreads();
    y[threadIdx.x] = 1;
}

extern "C" __global__ void barrier_of_too_many(int *y) {
    asm volatile("bar.sync 1, 96;" ::: "memory");
    y[threadIdx.x] = 1;
}

extern "C" __global__ void two_barriers_at_once(int *y) {
    if (threadIdx.x % 32 < 16) {
        asm volatile("bar.sync 1, 64;" ::: "memory");
    } else {
        asm volatile("bar.sync 2, 64;" ::: "memory");
    }
    y[threadIdx.x] = 1;
}

extern "C" __global__ void butterfly_of_seventeen(int *y) {
    int v = threadIdx.x;
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    y[threadIdx.x] = v;
}

// Undefined padding is copied and never looked at.
struct Padded {
    char c;
    int i;
};

extern "C" __global__ void padding(const Padded *x, Padded *y) {
    __shared__ unsigned long long tile[32];
    tile[threadIdx.x] = reinterpret_cast<const volatile unsigned long long *>(x)[threadIdx.x];
    __syncthreads();
    const Padded *p = reinterpret_cast<const Padded *>(tile);
    y[threadIdx.x].c = p[31 - threadIdx.x].c;
    y[threadIdx.x].i = p[31 - threadIdx.x].i;
}

// The fence reaches no further than the block.
extern "C" __global__ void last_block_with_narrow_fence(const int *x, int *partial, unsigned *count, int *y) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = x[blockIdx.x];
        __threadfence_block();
        last = atomicAdd(count, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        int sum = 0;
        for (int i = 0; i < gridDim.x; ++i) sum += __ldcg(&partial[i]);
        *y = sum;
    }
}

// A spin lock around a plain counter, one thread of each block.
extern "C" __global__ void spin_lock(int *lock, int *counter) {
    if (threadIdx.x != 0) return;
    while (atomicCAS(lock, 0, 1) != 0) {}
    __threadfence();
    *counter = *counter + 1;
    __threadfence();
    atomicExch(lock, 0);
}
