// A libcuda.so.1, libcublasLt.so.12, libnvidia-ml.so.1 and (nccl.c) libnccl.so.2 in one, that stand in for a driver on a machine without a GPU: device
// memory is the host's, work is done when it is queued. It shows that gonogo calls the libraries as their headers have them and
// what it does when they fail. It measures nothing: no figure of it may go into a report that is kept.
//
// FAKE_GPUS: how many (2). FAKE_FAULT: `oom` (no allocation over 64 MiB), `exclusive` (no context), `lost` (every call fails with 999
// after the first product), `bits` (GPU 1 computes other bits), `wrong` (GPU 1's copies lose a word), `hang` (a stream never ends).
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef int R;
// NVML counts all; CUDA, those that CUDA_VISIBLE_DEVICES names: up to the first that is none.
static int gpus(void) { const char *s = getenv("FAKE_GPUS"); return s ? atoi(s) : 2; }
static int shown(void) {
    const char *s = getenv("CUDA_VISIBLE_DEVICES");
    int n = 0;
    if (!s) return gpus();
    for (char *end; *s; s = *end ? end + 1 : end, n++) { long d = strtol(s, &end, 10); if (end == s || d < 0 || d >= gpus()) break; }
    return n;
}
static int fault(const char *f) { const char *s = getenv("FAKE_FAULT"); return s && !strcmp(s, f); }
static __thread int current;
static int lost;
#include "nccl.c"
#define ALIVE do { if (lost) return 999; } while (0)

R cuInit(unsigned f) { return f ? 1 : shown() ? 0 : 100; }
R cuDriverGetVersion(int *v) { *v = 12080; return 0; }
R cuGetErrorName(int c, const char **s) { *s = c == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : c == 999 ? "CUDA_ERROR_UNKNOWN" : c == 46 ? "CUDA_ERROR_DEVICE_UNAVAILABLE" : 0; return *s ? 0 : 1; }
R cuGetErrorString(int c, const char **s) { *s = c == 2 ? "out of memory" : c == 999 ? "unknown error" : c == 46 ? "CUDA-capable device(s) is/are busy or unavailable" : 0; return *s ? 0 : 1; }
R cuDeviceGetCount(int *n) { *n = shown(); return 0; }
R cuDeviceGet(int *d, int i) { *d = i; return i < gpus() ? 0 : 101; }
R cuDeviceGetName(char *s, int n, int d) { snprintf(s, n, "NVIDIA Fake %d", 1); return 0; }
R cuDeviceGetUuid(unsigned char *u, int d) { memset(u, d + 1, 16); return 0; }
R cuDeviceGetPCIBusId(char *s, int n, int d) { snprintf(s, n, "0000:%02X:00.0", 16 + d); return 0; }
R cuDeviceTotalMem_v2(size_t *n, int d) { *n = 2ul << 30; return 0; }
R cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 9 : a == 16 ? 4 : 0; return 0; }
R cuDeviceCanAccessPeer(int *v, int a, int b) { *v = a != b; return 0; }
R cuDeviceGetP2PAttribute(int *v, int a, int b, int c) { *v = 1; return 0; }
R cuDevicePrimaryCtxRetain(void **c, int d) { if (fault("exclusive")) return 46; *c = (void *)(long)(d + 1); return 0; }
R cuDevicePrimaryCtxRelease_v2(int d) { return 0; }
R cuCtxSetCurrent(void *c) { current = (long)c - 1; return 0; }
R cuCtxSynchronize(void) { ALIVE; return 0; }
R cuCtxEnablePeerAccess(void *c, unsigned f) { return 0; }
R cuMemGetInfo_v2(size_t *f, size_t *t) { *f = 256ul << 20; *t = 2ul << 30; return 0; }
R cuMemAlloc_v2(uint64_t *p, size_t n) { ALIVE; if (fault("oom") && n > 64ul << 20) return 2; *p = (uint64_t)aligned_alloc(256, (n + 255) / 256 * 256); return *p ? 0 : 2; }
R cuMemFree_v2(uint64_t p) { free((void *)p); return 0; }
R cuMemAllocHost_v2(void **p, size_t n) { *p = malloc(n); return *p ? 0 : 2; }
R cuMemFreeHost(void *p) { free(p); return 0; }
static void lose(uint64_t to, size_t n) { if (fault("wrong") && current == 1 && n > 4096) ((uint32_t *)to)[n / 8] ^= 1; }
R cuMemcpyHtoDAsync_v2(uint64_t d, const void *s, size_t n, void *st) { ALIVE; memcpy((void *)d, s, n); lose(d, n); return 0; }
R cuMemcpyDtoHAsync_v2(void *d, uint64_t s, size_t n, void *st) { ALIVE; memcpy(d, (void *)s, n); return 0; }
R cuMemcpyDtoDAsync_v2(uint64_t d, uint64_t s, size_t n, void *st) { ALIVE; memcpy((void *)d, (void *)s, n); return 0; }
R cuMemcpyPeerAsync(uint64_t d, void *dc, uint64_t s, void *sc, size_t n, void *st) { ALIVE; memcpy((void *)d, (void *)s, n); return 0; }
R cuMemsetD8Async(uint64_t d, unsigned char v, size_t n, void *st) { ALIVE; memset((void *)d, v, n); return 0; }
R cuStreamCreate(void **s, unsigned f) { *s = malloc(1); return 0; }
R cuStreamDestroy_v2(void *s) { free(s); return 0; }
R cuStreamSynchronize(void *s) { ALIVE; if (fault("hang")) for (;;) pause(); return 0; }
R cuStreamQuery(void *s) { ALIVE; return busy() ? 600 : 0; }
R cuStreamWaitEvent(void *s, void *e, unsigned f) { return 0; }
R cuEventCreate(void **e, unsigned f) { *e = calloc(1, sizeof(struct timespec)); return 0; }
R cuEventDestroy_v2(void *e) { free(e); return 0; }
R cuEventRecord(void *e, void *s) { ALIVE; stamp(e); return 0; }
R cuEventSynchronize(void *e) { ALIVE; return 0; }
R cuEventElapsedTime(float *ms, void *a, void *b) { struct timespec *x = a, *y = b; *ms = (y->tv_sec - x->tv_sec) * 1e3 + (y->tv_nsec - x->tv_nsec) * 1e-6; return 0; }
R cuModuleLoadData(void **m, const void *text) { *m = (void *)text; return strstr(text, ".version 7.7") ? 0 : 222; }
R cuModuleUnload(void *m) { return 0; }
static char names[32][32]; static int named;
R cuModuleGetFunction(void **f, void *m, const char *name) {
    for (int i = 0; i < named; i++) if (!strcmp(names[i], name)) { *f = names[i]; return 0; }
    strcpy(names[named], name); *f = names[named++]; return 0;
}

static uint64_t mix(uint64_t x) { x += 0x9E3779B97F4A7C15ull; x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull; x = (x ^ (x >> 27)) * 0x94D049BB133111EBull; return x ^ (x >> 31); }
static float element(uint64_t seed, uint64_t rank, uint64_t i) { uint64_t x = seed ^ (rank * 0x9E3779B97F4A7C15ull) ^ (i * 0xD1B54A32D192ED03ull); x ^= x >> 32; x *= 0xD6E8FEB86659FD93ull; return (float)((x >> 48) & 1023); }
#define U64(i) (*(uint64_t *)a[i])
#define U32(i) (*(uint32_t *)a[i])
#define F32(i) (*(float *)a[i])
#define P(type, i) ((type *)U64(i))
R cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned sh, void *st, void **a, void **extra) {
    ALIVE;
    const char *n = f;
    uint64_t i;
    if (!gx || gy != 1 || gz != 1 || bx != 256) return 1;
    if (!strcmp(n, "fill_normal")) { // the first part is enough for a digest to differ by
        size_t bytes = U64(1) * (U32(3) == 0 ? 8 : U32(3) == 1 ? 4 : U32(3) == 4 ? 1 : 2);
        for (i = 0; i < bytes / 8 && i < 4096; i++) P(uint64_t, 0)[i] = mix(U64(2) + i);
    } else if (!strcmp(n, "residual")) { if (U64(3) < 64 || U64(5) < 64) return 1; P(uint32_t, 9)[0] = 0;
    } else if (!strcmp(n, "digest")) { uint64_t h = 0; for (i = 0; i < U64(1) && i < 65536; i++) { uint32_t v = P(uint32_t, 0)[i]; h += mix(i ^ ((uint64_t)v << 32) ^ v); } P(uint64_t, 2)[0] += h;
    } else if (!strcmp(n, "stream_read")) { volatile float s = 0; for (i = 0; i < U64(2); i++) s += P(float, 0)[4 * i];
    } else if (!strcmp(n, "stream_write")) { for (i = 0; i < 4 * U64(2); i++) P(float, 0)[i] = F32(1);
    } else if (!strcmp(n, "stream_copy")) memcpy(P(void, 1), P(void, 0), 16 * U64(2));
    else if (!strcmp(n, "stream_triad")) { for (i = 0; i < 4 * U64(4); i++) P(float, 2)[i] = P(float, 0)[i] + F32(3) * P(float, 1)[i];
    } else if (!strcmp(n, "pattern_fill")) { for (i = 0; i < U64(1); i++) P(uint32_t, 0)[i] = (uint32_t)mix(U64(2) + i) ^ U32(3);
    } else if (!strcmp(n, "pattern_check")) { for (i = 0; i < U64(1); i++) if (P(uint32_t, 0)[i] != ((uint32_t)mix(U64(2) + i) ^ U32(3))) P(uint64_t, 4)[0]++;
    } else if (!strcmp(n, "ranks_fill")) { for (i = 0; i < U64(1); i++) P(float, 0)[i] = element(U64(2), U64(3), i);
    } else if (!strcmp(n, "ranks_check")) {
        for (i = 0; i < U64(1); i++) {
            float want = 0;
            for (uint64_t r = U64(4); r < U64(4) + U64(5); r++) want += element(U64(3), r, U64(2) + i);
            if (P(float, 0)[i] != want) P(uint64_t, 6)[0]++;
        }
    } else return 500;
    return 0;
}

// cuBLASLt: opaque things are counted, shapes kept, and the result is a hash of the inputs' beginnings.
struct layout { int type; uint64_t rows, cols; };
R cublasLtCreate(void **h) { *h = malloc(1); return 0; }
R cublasLtDestroy(void *h) { free(h); return 0; }
size_t cublasLtGetVersion(void) { return 120803; }
R cublasLtMatmulDescCreate(void **d, int compute, int scale) { *d = calloc(1, 8); return compute >= 64 && scale <= 1 ? 0 : 7; }
R cublasLtMatmulDescDestroy(void *d) { free(d); return 0; }
R cublasLtMatmulDescSetAttribute(void *d, int a, const void *p, size_t n) { if (a == 3 && n == 4) *(int *)d = *(const int *)p; return a == 3 && n == 4 ? 0 : 7; }
R cublasLtMatrixLayoutCreate(void **l, int type, uint64_t r, uint64_t c, int64_t ld) { struct layout *x = malloc(sizeof *x); *x = (struct layout){type, r, c}; *l = x; return ld == (int64_t)r ? 0 : 7; }
R cublasLtMatrixLayoutDestroy(void *l) { free(l); return 0; }
R cublasLtMatmulPreferenceCreate(void **p) { *p = malloc(1); return 0; }
R cublasLtMatmulPreferenceDestroy(void *p) { free(p); return 0; }
R cublasLtMatmulPreferenceSetAttribute(void *p, int a, const void *v, size_t n) { return a == 1 && n == 8 ? 0 : 7; }
struct heuristic { uint64_t algo[8]; size_t workspace; int state; float waves; int reserved[4]; };
R cublasLtMatmulAlgoGetHeuristic(void *h, void *d, struct layout *a, struct layout *b, struct layout *c, struct layout *e, void *p, int want, struct heuristic *out, int *got) {
    if (a->rows != b->rows || c->rows != a->cols || c->cols != b->cols) return 7;
    *got = want < 3 ? want : 3;
    for (int i = 0; i < *got; i++) out[i] = (struct heuristic){{i + 1}, 0, i == 1 ? 15 : 0, 1};
    return 0;
}
R cublasLtMatmul(void *h, void *d, const void *alpha, const void *A, struct layout *a, const void *B, struct layout *b, const void *beta, const void *C, struct layout *c, void *D, struct layout *e, const uint64_t *algo, void *w, size_t wn, void *st) {
    if (*(int *)d != 1 || C != D || !algo[0] || algo[0] > 3 || !st) return 7;
    uint64_t x = mix(*(const uint64_t *)A) ^ mix(*(const uint64_t *)B);
    for (int i = 0; i < 1024; i++) ((uint64_t *)D)[i] = mix(x + i);
    if (fault("bits") && current == 1) ((uint64_t *)D)[7] ^= 2;
    usleep(2000);
    if (fault("lost")) lost = 1;
    return 0;
}

// NVML: enough for a GPU to be listed; what is missing is absent to gonogo.
R nvmlInit_v2(void) { return gpus() ? 0 : 9; }
R nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int c) { return "fake"; }
R nvmlSystemGetDriverVersion(char *s, unsigned n) { snprintf(s, n, "570.86.15"); return 0; }
R nvmlSystemGetCudaDriverVersion_v2(int *v) { *v = 12080; return 0; }
R nvmlDeviceGetCount_v2(unsigned *n) { *n = gpus(); return 0; }
R nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) { *d = (void *)(long)(i + 1); return i < (unsigned)gpus() ? 0 : 2; }
R nvmlDeviceGetHandleByUUID(const char *u, void **d) { *d = (void *)1; return 0; }
R nvmlDeviceGetName(void *d, char *s, unsigned n) { snprintf(s, n, "NVIDIA Fake 1"); return 0; }
R nvmlDeviceGetUUID(void *d, char *s, unsigned n) { int b = (int)(long)d; snprintf(s, n, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b, b, b, b, b, b, b, b, b, b, b, b, b, b, b, b); return 0; }
R nvmlDeviceGetClockInfo(void *d, int t, unsigned *v) { *v = 1500; return 0; }
R nvmlDeviceGetTemperature(void *d, int t, unsigned *v) { *v = 45; return 0; }
R nvmlDeviceGetCurrentClocksThrottleReasons(void *d, unsigned long long *v) { *v = fault("hot") ? 0x40 : 0; return 0; }
