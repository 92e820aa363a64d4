// A block scan by hand, random numbers, and the mathematical functions of the compiler.

// Hillis and Steele within warps, then over the totals of warps.
extern "C" __global__ void hand_scan(const int *x, int *y) {
    __shared__ int totals[32];
    int i = threadIdx.x, lane = i % 32, warp = i / 32;
    int at = blockIdx.x * blockDim.x + i;
    int v = x[at];
    for (int step = 1; step < 32; step *= 2) {
        int other = __shfl_up_sync(0xffffffffu, v, step);
        if (lane >= step) v += other;
    }
    if (lane == 31) totals[warp] = v;
    __syncthreads();
    if (warp == 0) {
        int t = lane < blockDim.x / 32 ? totals[lane] : 0;
        for (int step = 1; step < 32; step *= 2) {
            int other = __shfl_up_sync(0xffffffffu, t, step);
            if (lane >= step) t += other;
        }
        totals[lane] = t;
    }
    __syncthreads();
    y[at] = v + (warp > 0 ? totals[warp - 1] : 0);
}

// Blelloch's scan in shared memory, two items per thread.
extern "C" __global__ void tree_scan(const int *x, int *y) {
    extern __shared__ int items[];
    int i = threadIdx.x, count = 2 * blockDim.x;
    items[2 * i] = x[blockIdx.x * count + 2 * i];
    items[2 * i + 1] = x[blockIdx.x * count + 2 * i + 1];
    int offset = 1;
    for (int d = count / 2; d > 0; d /= 2) {
        __syncthreads();
        if (i < d) items[offset * (2 * i + 2) - 1] += items[offset * (2 * i + 1) - 1];
        offset *= 2;
    }
    if (i == 0) items[count - 1] = 0;
    for (int d = 1; d < count; d *= 2) {
        offset /= 2;
        __syncthreads();
        if (i < d) {
            int left = offset * (2 * i + 1) - 1, right = offset * (2 * i + 2) - 1;
            int t = items[left];
            items[left] = items[right];
            items[right] += t;
        }
    }
    __syncthreads();
    y[blockIdx.x * count + 2 * i] = items[2 * i];
    y[blockIdx.x * count + 2 * i + 1] = items[2 * i + 1];
}

// Philox 4x32, ten rounds, as cuRAND has it.
extern "C" __global__ void philox(const unsigned *key, uint4 *y) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    uint4 c = make_uint4(i, 7, 0, 0x12345678);
    unsigned k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; ++round) {
        unsigned h0 = __umulhi(0xD2511F53u, c.x), l0 = 0xD2511F53u * c.x;
        unsigned h1 = __umulhi(0xCD9E8D57u, c.z), l1 = 0xCD9E8D57u * c.z;
        c = make_uint4(h1 ^ c.y ^ k0, l1, h0 ^ c.w ^ k1, l0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    y[i] = c;
}

extern "C" __global__ void math32(const float *x, float *y, int count) {
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        float v = x[i];
        float *to = y + 12 * i;
        to[0] = expf(v);
        to[1] = logf(v);
        to[2] = sinf(v);
        to[3] = cosf(v);
        to[4] = tanhf(v);
        to[5] = erff(v);
        to[6] = powf(fabsf(v), 1.7f);
        to[7] = log1pf(v);
        to[8] = expm1f(v);
        to[9] = cbrtf(v);
        to[10] = atan2f(v, 0.75f);
        to[11] = lgammaf(v);
    }
}

extern "C" __global__ void math64(const double *x, double *y, int count) {
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        double v = x[i];
        double *to = y + 10 * i;
        to[0] = exp(v);
        to[1] = log(v);
        to[2] = sin(v);
        to[3] = cos(v);
        to[4] = tanh(v);
        to[5] = erf(v);
        to[6] = pow(fabs(v), 1.7);
        to[7] = sqrt(v);
        to[8] = 1.0 / v;
        to[9] = atan2(v, 0.75);
    }
}
