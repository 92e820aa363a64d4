// Local arrays, constants and variables of a module, and pointers to them.

__constant__ float table[5] = {0.5f, -1.25f, 3.0f, 1e-20f, -0.0f};
__constant__ short small[3] = {-3, 300, 7};
__device__ double weights[2][3] = {{1, 2, 3}, {-4, 5.5, 6}};
__device__ int counter = 5;
__device__ int *pointer = &counter;
__device__ const float *third = table + 2;
__device__ int untouched[4];
struct __align__(16) Wide {
    float4 v;
    char tail;
};
__device__ Wide wide = {{1, 2, 3, 4}, 'w'};
__device__ __align__(128) char aligned[3] = {1, 2, 3};

extern "C" __global__ void statics(const int *x, double *y) {
    int i = threadIdx.x;
    double v = table[i % 5] + small[i % 3] + weights[i & 1][i % 3] + *pointer + *third + untouched[i % 4];
    v += wide.v.z + wide.tail + aligned[i % 3];
    y[i] = v + ((unsigned long long)aligned % 128) + ((unsigned long long)&wide % 16);
}

extern "C" __global__ void count(const int *x, int *y) {
    atomicAdd(pointer, x[threadIdx.x]);
    untouched[threadIdx.x % 4] = 3;
    y[threadIdx.x] = 0;
}

// Arrays that the compiler cannot keep in registers, reached through local and through generic addresses.
__device__ __noinline__ void bump(int *p, int n) {
    for (int i = 0; i < n; ++i) p[i] += i;
}

extern "C" __global__ void locals(const int *x, int *y) {
    int i = threadIdx.x;
    int a[16];
    unsigned char b[8];
    for (int j = 0; j < 16; ++j) a[j] = x[(i + j) % 64];
    for (int j = 0; j < 8; ++j) b[j] = (unsigned char)(i * j);
    bump(a + (i % 4), 8);
    __shared__ int s[64];
    s[i] = x[i];
    __syncthreads();
    int *p = i % 2 ? &a[x[i] % 16] : &s[(i + 1) % 64];
    y[i] = *p + b[x[i] % 8] + a[i % 16];
}

extern "C" __global__ void overrun(const int *x, int *y) {
    int a[4] = {1, 2, 3, 4};
    a[x[0] + 2] = 5;
    y[threadIdx.x] = a[x[1]] + a[0];
}

extern __shared__ float4 dynamic[];
extern "C" __global__ void dynamic_shared(const int *x, int *y) {
    float *f = reinterpret_cast<float *>(dynamic);
    int i = threadIdx.x;
    f[i] = x[i];
    __syncthreads();
    y[i] = (int)(f[(i + 1) % blockDim.x] + dynamic[i / 4].x);
}
