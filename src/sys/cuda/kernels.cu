// The device code of gonogo's GPU probes. `make kernels` compiles it to kernels.ptx, which is committed: nothing but the
// driver is needed at run time. PTX for compute_70 runs on every later GPU; ISA 7.7 loads in every driver from 515 on.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;
typedef unsigned char u8;

// Element types, as sys/cuda/mod.rs numbers them.
enum { F64 = 0, F32 = 1, BF16 = 2, F16 = 3, E4M3 = 4 };

__device__ __forceinline__ u64 mix(u64 x) { // splitmix64
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

__device__ __forceinline__ float normal(u64 bits) { // Box-Muller
    float u = ((u32)bits + 0.5f) * 2.3283064365386963e-10f, v = (u32)(bits >> 32) * 2.3283064365386963e-10f;
    // Near 1 the approximate logarithm may come out above 0, and the root of it would be no number.
    return sqrtf(fmaxf(0.0f, -2.0f * __logf(u))) * __cosf(6.283185307179586f * v);
}

__device__ __forceinline__ u16 to_bf16(float x) {
    u32 b = __float_as_uint(x);
    return (u16)((b + 0x7fff + ((b >> 16) & 1)) >> 16);
}
__device__ __forceinline__ u16 to_f16(float x) {
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
}
__device__ __forceinline__ float from_f16(u16 h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}
// OCP e4m3: bias 7, largest 448, no infinity. Rounded to the nearest by search of the scale: slow, and used for inputs only.
__device__ u8 to_e4m3(float x) {
    u8 sign = x < 0.0f ? 0x80 : 0;
    float a = fabsf(x);
    if (!(a < 448.0f)) return sign | 0x7e;
    int e = 0;
    if (a < 0.015625f) { // below 2^-6: multiples of 2^-9
        return sign | (u8)rintf(a * 512.0f);
    }
    u32 b = __float_as_uint(a);
    e = (int)(b >> 23) - 127;
    float m = rintf(a * exp2f((float)(3 - e))); // 8 .. 16
    if (m == 16.0f) { m = 8.0f; e += 1; }
    if (e > 8) return sign | 0x7e;
    return sign | (u8)((e + 7) << 3) | (u8)((int)m - 8);
}
__device__ __forceinline__ float from_e4m3(u8 v) {
    int e = (v >> 3) & 15, m = v & 7;
    float a = e == 0 ? m * 0.001953125f : (8 + m) * exp2f((float)(e - 10));
    return v & 0x80 ? -a : a;
}

__device__ double load(const void *p, u64 i, int type) {
    switch (type) {
    case F64: return ((const double *)p)[i];
    case F32: return ((const float *)p)[i];
    case BF16: return __uint_as_float((u32)((const u16 *)p)[i] << 16);
    case F16: return from_f16(((const u16 *)p)[i]);
    default: return from_e4m3(((const u8 *)p)[i]);
    }
}

#define GRID_STRIDE(i, n) for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x, step_ = (u64)gridDim.x * blockDim.x; i < (n); i += step_)

// Standard normal numbers, full entropy in the mantissa.
extern "C" __global__ void fill_normal(void *out, u64 n, u64 seed, int type) {
    GRID_STRIDE(i, n) {
        u64 bits = mix(seed + i);
        float x = normal(bits);
        switch (type) {
        case F64: ((double *)out)[i] = (double)x + (double)(mix(bits) >> 40) * 5.9604644775390625e-8 * 1e-7; break;
        case F32: ((float *)out)[i] = x; break;
        case BF16: ((u16 *)out)[i] = to_bf16(x); break;
        case F16: ((u16 *)out)[i] = to_f16(x); break;
        default: ((u8 *)out)[i] = to_e4m3(x);
        }
    }
}

// C = op(A) B with the products' dimension k contiguous in both: c[i + j m] = sum a[p + i k] b[p + j k]. One block an element,
// chosen by the seed; the largest difference from a sum in double precision, over the norm of the products, goes to *worst
// as the bits of a float (positive floats order as their bits).
extern "C" __global__ void residual(const void *a, const void *b, const void *c, u64 m, u64 n, u64 k, int in, int out, u64 seed, u32 *worst) {
    __shared__ double sums[256], squares[256];
    u64 pick = mix(seed + blockIdx.x);
    u64 i = (pick & 0xffffffffull) % m, j = (pick >> 32) % n;
    double s = 0.0, q = 0.0;
    for (u64 p = threadIdx.x; p < k; p += blockDim.x) {
        double x = load(a, p + i * k, in) * load(b, p + j * k, in);
        s += x;
        q += x * x;
    }
    sums[threadIdx.x] = s;
    squares[threadIdx.x] = q;
    __syncthreads();
    for (u32 w = blockDim.x / 2; w > 0; w /= 2) {
        if (threadIdx.x < w) {
            sums[threadIdx.x] += sums[threadIdx.x + w];
            squares[threadIdx.x] += squares[threadIdx.x + w];
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        double got = load(c, i + j * m, out);
        double d = fabs(got - sums[0]) / (sqrt(squares[0]) + 1e-30);
        if (!(d < 3.0e38)) d = 3.0e38; // NaN, too
        atomicMax(worst, __float_as_uint((float)d));
    }
}

// A hash of a buffer that does not depend on the order in which threads come: for comparing bits.
extern "C" __global__ void digest(const u32 *data, u64 n, u64 *out) {
    u64 h = 0;
    GRID_STRIDE(i, n) h += mix(i ^ ((u64)data[i] << 32) ^ data[i]);
    for (int d = 16; d > 0; d /= 2) h += __shfl_down_sync(0xffffffffu, h, d);
    if ((threadIdx.x & 31) == 0) atomicAdd(out, h);
}

extern "C" __global__ void stream_read(const float4 *a, float *out, u64 n) {
    float s = 0.0f;
    GRID_STRIDE(i, n) {
        float4 x = a[i];
        s += x.x + x.y + x.z + x.w;
    }
    if (s == 1.2345678e33f) *out = s; // never: it keeps the loads
}
extern "C" __global__ void stream_write(float4 *a, float v, u64 n) {
    GRID_STRIDE(i, n) a[i] = make_float4(v, v, v, v);
}
extern "C" __global__ void stream_copy(const float4 *a, float4 *b, u64 n) {
    GRID_STRIDE(i, n) b[i] = a[i];
}
extern "C" __global__ void stream_triad(const float4 *a, const float4 *b, float4 *c, float s, u64 n) {
    GRID_STRIDE(i, n) {
        float4 x = a[i], y = b[i];
        c[i] = make_float4(x.x + s * y.x, x.y + s * y.y, x.z + s * y.z, x.w + s * y.w);
    }
}

__device__ __forceinline__ u32 word(u64 seed, u64 i) { return (u32)mix(seed + i); }

extern "C" __global__ void pattern_fill(u32 *data, u64 n, u64 seed, u32 flip) {
    GRID_STRIDE(i, n) data[i] = word(seed, i) ^ flip;
}
// Counts words that differ, and keeps the lowest place of one.
extern "C" __global__ void pattern_check(const u32 *data, u64 n, u64 seed, u32 flip, u64 *wrong, u64 *first) {
    GRID_STRIDE(i, n) {
        if (data[i] != (word(seed, i) ^ flip)) {
            atomicAdd(wrong, 1ull);
            atomicMin(first, i);
        }
    }
}

// Whole numbers below 1024, as the host's collective has them: sums of up to 16384 ranks are exact in f32.
__device__ __forceinline__ float element(u64 seed, u64 rank, u64 i) {
    u64 x = seed ^ (rank * 0x9E3779B97F4A7C15ull) ^ (i * 0xD1B54A32D192ED03ull);
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93ull;
    return (float)((x >> 48) & 1023);
}
extern "C" __global__ void ranks_fill(float *data, u64 n, u64 seed, u64 rank) {
    GRID_STRIDE(i, n) data[i] = element(seed, rank, i);
}
// data[i] must be the sum of element(rank, from + i) over `count` ranks beginning with `rank`.
extern "C" __global__ void ranks_check(const float *data, u64 n, u64 from, u64 seed, u64 rank, u64 count, u64 *wrong) {
    GRID_STRIDE(i, n) {
        float want = 0.0f;
        for (u64 r = rank; r < rank + count; r++) want += element(seed, r, from + i);
        if (data[i] != want) atomicAdd(wrong, 1ull);
    }
}
