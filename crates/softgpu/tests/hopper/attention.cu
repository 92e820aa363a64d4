// Attention of 128 queries over tiles of 64 keys, one head of 64: a warp that brings, and two warpgroups that take turns.
// Correct, and with all that such kernels have; tests take instructions away.
#include "ptx.cuh"

#define FENCE asm volatile("wgmma.fence.sync.aligned;" ::: "memory")
#define COMMIT asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory")
#define WAIT(n) asm volatile("wgmma.wait_group.sync.aligned " #n ";" ::: "memory")

constexpr int KEYS = 64, DEPTH = 64, STAGES = 2;

// d[64][64] (+)= a b, both factors with their depth together.
INLINE void scores_of(float (&d)[32], uint64_t a, uint64_t b, int adds) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, p, 1, 1, 0, 0; }"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "l"(a), "l"(b), "r"(adds));
}

// d[64][64] += a b, with A in registers and the columns of B together.
INLINE void add_values(float (&d)[32], const uint32_t* a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

INLINE uint64_t descriptor(const void* tile) {
    return (uint64_t)(shared(tile) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}
INLINE uint32_t pack(float low, float high) {
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
INLINE bool elected() {
    uint32_t yes;
    asm volatile("{ .reg .pred p; elect.sync _|p, -1; selp.u32 %0, 1, 0, p; }" : "=r"(yes));
    return yes;
}
INLINE float of_row(float value, bool sum) {
    for (int d = 1; d < 4; d *= 2) {
        float other = __shfl_xor_sync(~0u, value, d);
        value = sum ? value + other : fmaxf(value, other);
    }
    return value;
}

// Weights in the place of one tile's scores: the maximum and the sum of each of a thread's two rows go on, and what was
// added before shrinks by `shrink`.
INLINE void weights_of(float (&s)[32], float (&most)[2], float (&sum)[2], float (&shrink)[2]) {
    for (int r = 0; r < 2; ++r) {
        float here = most[r];
        for (int i = 0; i < 32; ++i) {
            if (i / 2 % 2 == r) here = fmaxf(here, s[i]);
        }
        here = of_row(here, false);
        shrink[r] = exp2f((most[r] - here) * 0.18033688f);
        most[r] = here;
        sum[r] *= shrink[r];
        for (int i = 0; i < 32; ++i) {
            if (i / 2 % 2 == r) {
                s[i] = exp2f((s[i] - here) * 0.18033688f);
                sum[r] += s[i];
            }
        }
    }
}
INLINE void pack(const float (&s)[32], uint32_t (&p)[16]) {
    for (int i = 0; i < 16; ++i) p[i] = pack(s[2 * i], s[2 * i + 1]);
}

extern "C" __global__ void __launch_bounds__(384, 1)
    attention(const __grid_constant__ Map mq, const __grid_constant__ Map mk, const __grid_constant__ Map mv,
              const __grid_constant__ Map mo, int tiles) {
    __shared__ alignas(1024) uint16_t q[2][64 * DEPTH];
    __shared__ alignas(1024) uint16_t k[STAGES][KEYS * DEPTH], v[STAGES][KEYS * DEPTH];
    __shared__ uint64_t full_q, full_k[STAGES], full_v[STAGES], empty[STAGES];
    int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        init(&full_q, 1);
        for (int s = 0; s < STAGES; ++s) {
            init(&full_k[s], 1);
            init(&full_v[s], 1);
            init(&empty[s], 2);
        }
        fence_init();
    }
    __syncthreads();
    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (warp == 0 && elected()) {
            asm volatile("griddepcontrol.wait;" ::: "memory");
            prefetch(&mq);
            expect(&full_q, sizeof q);
            load_2d(q[0], &mq, 0, 0, &full_q);
            load_2d(q[1], &mq, 0, 64, &full_q);
            #pragma unroll 1
            for (int t = 0; t < tiles; ++t) {
                int s = t % STAGES, round = t / STAGES;
                wait(&empty[s], (round + 1) & 1);
                expect(&full_k[s], sizeof k[s]);
                load_2d(k[s], &mk, 0, KEYS * t, &full_k[s]);
                expect(&full_v[s], sizeof v[s]);
                load_2d(v[s], &mv, 0, KEYS * t, &full_v[s]);
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    int mine = group - 1;
    float scores[32], out[32], most[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, shrink[2];
    uint32_t weights[16];
    for (int i = 0; i < 32; ++i) out[i] = 0;
    // The first warpgroup begins.
    if (mine == 1) asm volatile("bar.arrive 1, 256;" ::: "memory");
    wait(&full_q, 0);
    wait(&full_k[0], 0);
    asm volatile("bar.sync %0, 256;" ::"r"(1 + mine) : "memory");
    FENCE;
    for (int d = 0; d < 4; ++d) scores_of(scores, descriptor(q[mine]) + 2 * d, descriptor(k[0]) + 2 * d, d > 0);
    COMMIT;
    asm volatile("bar.arrive %0, 256;" ::"r"(2 - mine) : "memory");
    WAIT(0);
    weights_of(scores, most, sum, shrink);
    pack(scores, weights);
    #pragma unroll 1
    for (int t = 0; t + 1 < tiles; ++t) {
        // The scores of the next tile come while the values of this one are added.
        int s = t % STAGES, next = (t + 1) % STAGES;
        wait(&full_k[next], (t + 1) / STAGES & 1);
        asm volatile("bar.sync %0, 256;" ::"r"(1 + mine) : "memory");
        FENCE;
        for (int d = 0; d < 4; ++d) scores_of(scores, descriptor(q[mine]) + 2 * d, descriptor(k[next]) + 2 * d, d > 0);
        COMMIT;
        wait(&full_v[s], t / STAGES & 1);
        for (int d = 0; d < 4; ++d) add_values(out, weights + 4 * d, descriptor(v[s]) + 128 * d);
        COMMIT;
        asm volatile("bar.arrive %0, 256;" ::"r"(2 - mine) : "memory");
        WAIT(1);
        weights_of(scores, most, sum, shrink);
        WAIT(0);
        if (threadIdx.x % 128 == 0) arrive(&empty[s]);
        pack(scores, weights);
        for (int i = 0; i < 32; ++i) out[i] *= shrink[i / 2 % 2];
    }
    int last = (tiles - 1) % STAGES;
    wait(&full_v[last], (tiles - 1) / STAGES & 1);
    FENCE;
    for (int d = 0; d < 4; ++d) add_values(out, weights + 4 * d, descriptor(v[last]) + 128 * d);
    COMMIT;
    WAIT(0);
    // The other warpgroup's last arrival.
    if (mine == 0) asm volatile("bar.sync 1, 256;" ::: "memory");
    for (int r = 0; r < 2; ++r) sum[r] = 1 / of_row(sum[r], true);
    // Nobody reads the queries any more: they make room for what goes out, eight rows of 16 bytes at a time.
    asm volatile("bar.sync %0, 128;" ::"r"(3 + mine) : "memory");
    for (int d = 0; d < 4; ++d) {
        uint32_t part[4];
        for (int i = 0; i < 4; ++i) part[i] = pack(out[8 * d + 2 * i] * sum[i % 2], out[8 * d + 2 * i + 1] * sum[i % 2]);
        int row = 16 * warp + lane % 16, unit = 2 * d + lane / 16;
        asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                         shared(q[mine]) + 128 * row + 16 * (unit ^ row % 8)), "r"(part[0]), "r"(part[1]), "r"(part[2]),
                     "r"(part[3]) : "memory");
    }
    fence_async();
    asm volatile("bar.sync %0, 128;" ::"r"(3 + mine) : "memory");
    if (warp == 0 && elected()) {
        store_2d(&mo, 0, 64 * mine, q[mine]);
        commit();
        wait_read();
    }
    asm volatile("griddepcontrol.launch_dependents;");
}
