// Calls of device functions: structures by value, recursion, pointers to functions, virtual functions, divergence, printf
// and assertions.
#include <cassert>
#include <cstdio>

struct Mixed {
    int a;
    double b;
    float c[3];
    signed char d;
};

__device__ __noinline__ Mixed shuffled(int by, Mixed v) {
    v.a += by;
    v.b *= 2;
    v.c[by & 1] += 1;
    v.d = (signed char)(v.d - by);
    return v;
}

extern "C" __global__ void structures(const int *x, double *y) {
    int i = threadIdx.x;
    Mixed v{x[i], 0.5 * i, {1.0f, 2.0f, 3.0f}, (signed char)i};
    v = shuffled(i, v);
    if (i % 3 == 0) v = shuffled(2 * i, v);
    y[i] = v.a + v.b + v.c[0] + 10 * v.c[1] + 100 * v.c[2] + 1000 * v.d;
}

// Two calls of itself: what the first left in registers must be there after the second.
__device__ __noinline__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

__device__ int odd(int n, int *trace);
__device__ __noinline__ int even(int n, int *trace) {
    int here[2] = {n, 2 * n};
    *trace += here[n & 1];
    return n == 0 ? 1 : odd(n - 1, trace);
}
__device__ __noinline__ int odd(int n, int *trace) {
    int here[3] = {1, n, 3};
    int result = n == 0 ? 0 : even(n - 1, &here[1]);
    *trace += here[1] + here[2];
    return result;
}

extern "C" __global__ void recursion(const int *x, int *y) {
    int i = threadIdx.x;
    int trace = 0;
    int parity = even(x[i], &trace);
    y[i] = fibonacci(x[i] % 12) + 1000 * parity + 10000 * trace;
}

__device__ __noinline__ int deeper(int n) { return n == 0 ? 0 : 1 + deeper(n - 1) * (n | 1); }

extern "C" __global__ void overflow(const int *x, int *y) { y[threadIdx.x] = deeper(x[0] * 100000); }

typedef int (*Function)(int);
__device__ __noinline__ int plus(int x) { return x + 7; }
__device__ __noinline__ int times(int x) { return 3 * x; }
__device__ __noinline__ int minus(int x) { return x - __shfl_sync(__activemask(), x, __ffs(__activemask()) - 1) * 0; }
__device__ Function functions[3] = {plus, times, minus};

extern "C" __global__ void indirect(const int *x, int *y) {
    int i = threadIdx.x;
    Function f = functions[x[i] % 3];
    int v = f(x[i]);
    if (i % 2) v += functions[i % 3](v);
    y[i] = v;
}

extern "C" __global__ void wild(const int *x, int *y) {
    Function f = (Function)(unsigned long long)(x[0] * 64 + 4096);
    y[threadIdx.x] = f(1);
}

struct Shape {
    int size;
    __device__ explicit Shape(int n) : size(n) {}
    __device__ virtual int area() const { return 0; }
};
struct Square : Shape {
    __device__ explicit Square(int n) : Shape(n) {}
    __device__ int area() const override { return size * size; }
};
struct Pair : Shape {
    int other;
    __device__ Pair(int n, int m) : Shape(n), other(m) {}
    __device__ int area() const override { return size * other; }
};

extern "C" __global__ void virtuals(const int *x, int *y) {
    int i = threadIdx.x;
    Square square(x[i]);
    Pair pair(x[i], i);
    const Shape *shape = i % 4 == 1 ? static_cast<const Shape *>(&square) : static_cast<const Shape *>(&pair);
    y[i] = shape->area();
}

// Lanes come to one function from two calls, and exchange values in it.
__device__ __noinline__ int total(int v) {
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

extern "C" __global__ void divergent(const int *x, int *y) {
    int i = threadIdx.x;
    int v;
    if (x[i] % 2) {
        v = total(x[i]);
    } else {
        v = -total(2 * x[i]);
    }
    __syncwarp();
    y[i] = v;
}

// A barrier within a function, and an exit from within one.
__device__ __noinline__ int shared_sum(int v, int *slots) {
    slots[threadIdx.x] = v;
    __syncthreads();
    int sum = 0;
    for (int i = 0; i < 32; ++i) sum += slots[(threadIdx.x + i) % blockDim.x];
    __syncthreads();
    return sum;
}

__device__ __noinline__ int stop_if(int v) {
    if (v < 0) asm volatile("exit;");
    return v + 1;
}

extern "C" __global__ void barriers(const int *x, int *y) {
    __shared__ int slots[64];
    int i = threadIdx.x;
    int sum = shared_sum(x[i], slots);
    sum += shared_sum(x[i] * 2, slots);
    y[i] = -1;
    y[i] = stop_if(i % 5 == 4 ? -1 : sum);
}

extern "C" __global__ void prints(const int *x, int *y) {
    int i = threadIdx.x;
    int count = 0;
    if (i % 16 == 1) {
        count = printf("thread %d of %u: %s %5.2f %e %g %c %lld %llx %%\n", i, blockDim.x, i > 16 ? "high" : "low",
                       x[i] * 0.25f, 1e-3, 2.5, 'A' + i, -1ll * i, 0xabcdef0123ull);
    }
    y[i] = count;
}

extern "C" __global__ void asserts(const int *x, int *y) {
    int i = threadIdx.x;
    assert(x[i] != 13);
    y[i] = x[i];
}

extern "C" __global__ void allocates(const int *x, int *y) {
    int *p = (int *)malloc(sizeof(int) * x[0]);
    p[0] = 1;
    y[0] = p[0];
    free(p);
}

extern "C" __global__ void traps(const int *x, int *y) {
    if (x[threadIdx.x] == 13) __trap();
    y[threadIdx.x] = 1;
}

extern "C" __global__ void breaks(const int *x, int *y) {
    if (x[threadIdx.x] == 13) __brkpt();
    y[threadIdx.x] = 1;
}
