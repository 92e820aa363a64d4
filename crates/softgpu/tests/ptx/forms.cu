// Source of forms.ptx: forms of PTX that the parser must read.
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <stdint.h>
__constant__ float table[4] = {1.f, 2.f, 3.f, 4.f};
__device__ uint32_t counter = 7;
extern __shared__ float dyn[];
struct alignas(16) P { __half* a; int n; float s[3]; };
__device__ __noinline__ float f(float x, int k) { return x * table[k & 3]; }
extern "C" __global__ void __launch_bounds__(256, 2) forms(const __grid_constant__ P p, int k, unsigned char c) {
  __shared__ int st[33];
  float loc[8];
  for (int i = 0; i < 8; i++) loc[i] = i * p.s[(i+k) % 3];
  st[threadIdx.x % 33] = k;
  dyn[threadIdx.x] = loc[k & 7];
  __syncthreads();
  asm volatile("{ .reg .pred p; setp.ne.s32 p, %0, 0; @p bra W; bra D; W: add.s32 %0, %0, 1; D: }" : "+r"(k));
  asm volatile("{ .reg .pred p; setp.ne.s32 p, %0, 0; @p bra W; bra D; W: add.s32 %0, %0, 1; D: }" : "+r"(k));
  if (__syncthreads_or(k)) k++;
  unsigned b = __ballot_sync(0xffffffffu, k);
  atomicAdd(&counter, b);
  p.a[threadIdx.x] = __float2half(dyn[255 - threadIdx.x] + st[k % 33]) ;
  ((float*)p.a)[1000 + k] = f(dyn[3], c);
  switch (k) { case 0: p.a[0] = 1; break; case 1: p.a[1] = 5; break; case 2: p.a[2]=6; break; case 3: p.a[7]=9;break; case 4: p.a[9] = 4; break; case 5: p.a[3] = 3; break; case 6: p.a[33] = 8; break;}
  if (k == 77) __trap();
}
