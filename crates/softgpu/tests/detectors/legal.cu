// Correct kernels that a careless detector would report, and wrong ones that differ from them by one line.
// Compiled by:  nvcc -ptx -arch=compute_80 -lineinfo -o legal.ptx legal.cu

// All threads store the same value to one word.
extern "C" __global__ void same_value(int *y) {
    __shared__ int flag;
    flag = 7;
    __syncthreads();
    y[threadIdx.x] = flag;
}

// Each thread stores a value of its own to one word.
extern "C" __global__ void other_value(int *y) {
    __shared__ int flag;
    flag = threadIdx.x / 32;
    __syncthreads();
    y[threadIdx.x] = flag;
}

// Threads own different bytes of one word.
extern "C" __global__ void bytes_of_a_word(const unsigned char *x, unsigned char *y) {
    __shared__ unsigned char tile[256];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[255 - threadIdx.x];
}

// The same across a missing barrier.
extern "C" __global__ void bytes_without_barrier(const unsigned char *x, unsigned char *y) {
    __shared__ unsigned char tile[256];
    tile[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = tile[255 - threadIdx.x];
}

// Warp 0 produces, warp 1 consumes; named barriers 1 (full) and 2 (empty) pass the tile back and forth.
extern "C" __global__ void producer_consumer(const float *x, float *y, int rounds) {
    __shared__ float tile[32];
    int lane = threadIdx.x % 32;
    for (int r = 0; r < rounds; ++r) {
        if (threadIdx.x < 32) {
            if (r > 0) asm volatile("bar.sync 2, 64;" ::: "memory");
            tile[lane] = x[32 * r + lane];
            asm volatile("bar.arrive 1, 64;" ::: "memory");
        } else {
            asm volatile("bar.sync 1, 64;" ::: "memory");
            y[32 * r + lane] = tile[31 - lane];
            if (r + 1 < rounds) asm volatile("bar.arrive 2, 64;" ::: "memory");
        }
    }
}

// The producer does not wait for the tile to be empty again.
extern "C" __global__ void producer_too_early(const float *x, float *y, int rounds) {
    __shared__ float tile[32];
    int lane = threadIdx.x % 32;
    for (int r = 0; r < rounds; ++r) {
        if (threadIdx.x < 32) {
            tile[lane] = x[32 * r + lane];
            asm volatile("bar.arrive 1, 64;" ::: "memory");
        } else {
            asm volatile("bar.sync 1, 64;" ::: "memory");
            y[32 * r + lane] = tile[31 - lane];
        }
    }
}

// Whole warps leave before a later barrier; what they wrote before may be read after it.
extern "C" __global__ void early_exit(const float *x, float *y) {
    __shared__ float tile[128];
    tile[threadIdx.x] = x[threadIdx.x];
    if (threadIdx.x >= 64) return;
    __syncthreads();
    y[threadIdx.x] = tile[127 - threadIdx.x];
}

// Neighbouring lanes exchange through shared memory, ordered by a warp barrier.
extern "C" __global__ void neighbours(const float *x, float *y) {
    __shared__ float tile[32];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncwarp();
    y[threadIdx.x] = tile[threadIdx.x ^ 1];
}

// The same, trusting that lanes run in lockstep.
extern "C" __global__ void neighbours_in_lockstep(const float *x, float *y) {
    __shared__ volatile float before[32];
    __shared__ float tile[32];
    before[threadIdx.x] = 0.0f;
    tile[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = tile[threadIdx.x ^ 1];
}

// Two barriers in a row: the second is redundant and harmless.
extern "C" __global__ void redundant_barrier(const float *x, float *y) {
    __shared__ float tile[128];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    __syncthreads();
    y[threadIdx.x] = tile[127 - threadIdx.x];
}

// The block that arrives last adds up what the others left behind a fence.
extern "C" __global__ void last_block(const float *x, float *partial, unsigned *counter, float *y) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = x[blockIdx.x];
        __threadfence();
        last = atomicAdd(counter, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        __threadfence();
        float sum = 0.0f;
        for (int i = 0; i < gridDim.x; ++i) sum += ((volatile float *)partial)[i];
        *y = sum;
    }
}

// Inside one block: warp 0 hands a value to warp 1 through a flag behind fences.
extern "C" __global__ void flag_with_fences(const float *x, float *data, float *y, int *flag) {
    if (threadIdx.x == 0) {
        *data = x[0];
        __threadfence_block();
        *(volatile int *)flag = 1;
    } else if (threadIdx.x == 32) {
        while (*(volatile int *)flag == 0) {}
        __threadfence_block();
        *y = *data;
    }
}

extern "C" __global__ void flag_without_fences(const float *x, float *data, float *y, int *flag) {
    if (threadIdx.x == 0) {
        *data = x[0];
        asm volatile("" ::: "memory");
        *(volatile int *)flag = 1;
    } else if (threadIdx.x == 32) {
        while (*(volatile int *)flag == 0) {}
        *y = *(volatile float *)data;
    }
}

// A full mask names lanes that have exited; nobody reads them.
extern "C" __global__ void exited_but_unread(const float *x, float *y, int n) {
    if (threadIdx.x >= n) return;
    y[threadIdx.x] = __shfl_sync(0xffffffffu, x[threadIdx.x], threadIdx.x & 7);
}

// The same mask, and some of the lanes that have exited are read.
extern "C" __global__ void exited_and_read(const float *x, float *y, int n) {
    if (threadIdx.x >= n) return;
    y[threadIdx.x] = __shfl_sync(0xffffffffu, x[threadIdx.x], (threadIdx.x & 7) + 16);
}

// Atomics on one word do not race with each other; a plain store among them does.
extern "C" __global__ void histogram(const int *x, int *y) {
    __shared__ int bins[8];
    if (threadIdx.x < 8) bins[threadIdx.x] = 0;
    __syncthreads();
    atomicAdd(&bins[x[threadIdx.x] & 7], 1);
    __syncthreads();
    if (threadIdx.x < 8) y[threadIdx.x] = bins[threadIdx.x];
}

extern "C" __global__ void histogram_uncleared(const int *x, int *y) {
    __shared__ int bins[8];
    if (threadIdx.x < 8) bins[threadIdx.x] = 0;
    atomicAdd(&bins[x[threadIdx.x] & 7], 1);
    __syncthreads();
    if (threadIdx.x < 8) y[threadIdx.x] = bins[threadIdx.x];
}
