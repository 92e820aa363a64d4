// Products of warpgroups. Operands are written by threads, in the layout that a descriptor names.
#include "ptx.cuh"

#define FENCE asm volatile("wgmma.fence.sync.aligned;" ::: "memory")
#define COMMIT asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory")
#define WAIT(n) asm volatile("wgmma.wait_group.sync.aligned " #n ";" ::: "memory")
#define PIN4(d) asm volatile("" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])::"memory")

// d[64][8] += a b, with A in shared memory.
INLINE void multiply(float (&d)[4], uint64_t a, uint64_t b, int adds) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %6, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, p, 1, 1, 0, 0; }"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "l"(a), "l"(b), "r"(adds));
}

// The same with A in registers.
INLINE void multiply(float (&d)[4], const uint32_t (&a)[4], uint64_t b, int adds) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %9, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, {%4, %5, %6, %7}, %8, p, 1, 1, 0; }"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds));
}

// A descriptor of a tile whose rows have 128 bytes and are swizzled, 1024 bytes from eight rows to the next.
INLINE uint64_t descriptor(const void* tile) {
    return (uint64_t)(shared(tile) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

// Two tiles of 64 k: scores = a b, then weights = bf16(scores) as A in registers, out = weights b2; one warpgroup.
// Every instruction that a test takes away stands on a line of its own.
extern "C" __global__ void __launch_bounds__(128)
    chain(const __grid_constant__ Map ma, const __grid_constant__ Map mb, float* out, int rounds) {
    __shared__ alignas(1024) uint16_t a[64 * 64], b[8 * 64];
    __shared__ alignas(1024) uint16_t c[8 * 64];
    __shared__ uint64_t full;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        init(&full, 1);
        fence_init();
    }
    __syncthreads();
    float d[4] = {}, e[4] = {};
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
        if (threadIdx.x == 0) {
            expect(&full, sizeof a + sizeof b);
            load_2d(a, &ma, 0, 64 * round, &full);
            load_2d(b, &mb, 0, 8 * round, &full);
        }
        wait(&full, round & 1);
        // The threads write a tile themselves: column n of row k is 1 where k == n.
        for (int i = threadIdx.x; i < 8 * 64; i += 128) {
            int row = i / 64, k = i % 64;
            c[row * 64 + ((k / 8) ^ row) * 8 + k % 8] = k == row ? 0x3F80 : 0;
        }
        fence_async();
        __syncthreads();
        FENCE;
        multiply(d, descriptor(a), descriptor(b), 0);
        multiply(d, descriptor(a + 16), descriptor(b + 16), 1);
        COMMIT;
        WAIT(0);
        uint32_t p[4];
        for (int i = 0; i < 2; ++i) asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(p[i]) : "f"(d[2 * i + 1]), "f"(d[2 * i]));
        p[2] = p[3] = 0;
        FENCE;
        multiply(e, p, descriptor(c), 1);
        COMMIT;
        WAIT(0);
    }
    for (int i = 0; i < 4; ++i) out[(16 * warp + lane / 4 + 8 * (i / 2)) * 8 + 2 * (lane % 4) + i % 2] = e[i];
}

// Two warpgroups that give registers to each other.
extern "C" __global__ void __launch_bounds__(256, 1) registers(int* out) {
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 256;");
    }
    out[threadIdx.x] = threadIdx.x;
}
