// Source of gemm_sm80.ptx: a product of matrices as attention and linear layers compute it, with cp.async into two
// buffers, ldmatrix from swizzled rows, and mma.sync.
// nvcc -arch=compute_80 -ptx -O3 -lineinfo -o gemm_sm80.ptx gemm.cu
#include <cuda_fp16.h>
#include <stdint.h>

// A CTA of four warps computes 64 by 64 elements of C, each warp 32 by 32, in steps of 32 along k.
constexpr int TILE = 64, STEP = 32;

// Rows of A have 64 bytes, four chunks of 16; eight rows with one chunk each must lie in different banks.
__device__ int a_at(int row, int chunk) { return row * 64 + ((chunk ^ (row >> 1)) & 3) * 16; }
// Rows of B have 128 bytes, eight chunks.
__device__ int b_at(int row, int chunk) { return row * 128 + ((chunk ^ row) & 7) * 16; }

__device__ void copy_16(uint32_t to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from));
}

__device__ void load(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}

__device__ void load_transposed(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}

__device__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

extern "C" __global__ void __launch_bounds__(128) gemm(const __half* a, const __half* b, float* c, int n, int k) {
    __shared__ __align__(128) unsigned char tile_a[2][TILE * 64];
    __shared__ __align__(128) unsigned char tile_b[2][STEP * 128];
    const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    const int row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE;
    const uint32_t base_a = __cvta_generic_to_shared(tile_a), base_b = __cvta_generic_to_shared(tile_b);
    auto fetch = [&](int step, int buffer) {
        for (int i = thread; i < TILE * 4; i += 128) {
            const int row = i >> 2, chunk = i & 3;
            copy_16(base_a + buffer * (TILE * 64) + a_at(row, chunk), a + (size_t)(row0 + row) * k + step * STEP + chunk * 8);
        }
        for (int i = thread; i < STEP * 8; i += 128) {
            const int row = i >> 3, chunk = i & 7;
            copy_16(base_b + buffer * (STEP * 128) + b_at(row, chunk), b + (size_t)(step * STEP + row) * n + column0 + chunk * 8);
        }
        asm volatile("cp.async.commit_group;");
    };
    float sum[2][4][4] = {};
    const int steps = k / STEP, row_of_warp = (warp >> 1) * 32, column_of_warp = (warp & 1) * 32;
    fetch(0, 0);
    for (int step = 0; step < steps; ++step) {
        const int buffer = step & 1;
        if (step + 1 < steps) {
            fetch(step + 1, buffer ^ 1);
            asm volatile("cp.async.wait_group 1;");
        } else {
            asm volatile("cp.async.wait_group 0;");
        }
        __syncthreads();
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            uint32_t fa[2][4], fb[2][4];
            for (int i = 0; i < 2; ++i) {
                const int row = row_of_warp + 16 * i + (lane & 15), chunk = 2 * half + (lane >> 4);
                load(fa[i], base_a + buffer * (TILE * 64) + a_at(row, chunk));
            }
            for (int j = 0; j < 2; ++j) {
                const int row = 16 * half + (lane & 15), chunk = (column_of_warp + 16 * j) / 8 + (lane >> 4);
                load_transposed(fb[j], base_b + buffer * (STEP * 128) + b_at(row, chunk));
            }
            for (int i = 0; i < 2; ++i)
                for (int j = 0; j < 4; ++j) multiply(sum[i][j], fa[i], fb[j >> 1][2 * (j & 1)], fb[j >> 1][2 * (j & 1) + 1]);
        }
        __syncthreads();
    }
    for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 4; ++j) {
            float* out = c + (size_t)(row0 + row_of_warp + 16 * i + lane / 4) * n + column0 + column_of_warp + 8 * j + lane % 4 * 2;
            *reinterpret_cast<float2*>(out) = make_float2(sum[i][j][0], sum[i][j][1]);
            *reinterpret_cast<float2*>(out + 8 * n) = make_float2(sum[i][j][2], sum[i][j][3]);
        }
}
