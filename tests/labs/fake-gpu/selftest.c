// Whether the stand-in does what its guide says: cc -w -o selftest selftest.c libcuda.so.1 && LD_LIBRARY_PATH=. ./selftest
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef int R;
R cuInit(unsigned);
R cuDeviceGetCount(int *);
R cuDevicePrimaryCtxRetain(void **, int);
R cuCtxSetCurrent(void *);
R cuDeviceGetPCIBusId(char *, int, int);
R cuDeviceGetName(char *, int, int);
R cuMemAlloc_v2(uint64_t *, size_t);
R cuMemFree_v2(uint64_t);
R cuMemAllocHost_v2(void **, size_t);
R cuMemGetInfo_v2(size_t *, size_t *);
R cuStreamCreate(void **, unsigned);
R cuStreamSynchronize(void *);
R cuStreamQuery(void *);
R cuStreamWaitEvent(void *, void *, unsigned);
R cuEventCreate(void **, unsigned);
R cuEventRecord(void *, void *);
R cuEventSynchronize(void *);
R cuEventElapsedTime(float *, void *, void *);
R cuMemcpyDtoHAsync_v2(void *, uint64_t, size_t, void *);
R cuMemcpyHtoDAsync_v2(uint64_t, const void *, size_t, void *);
R cuMemcpyPeerAsync(uint64_t, void *, uint64_t, void *, size_t, void *);
R cuMemsetD8Async(uint64_t, unsigned char, size_t, void *);
R cuModuleLoadData(void **, const void *);
R cuModuleGetFunction(void **, void *, const char *);
R cuLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
R cuMemGetHandleForAddressRange(void *, uint64_t, size_t, int, uint64_t);
typedef struct {
    char bytes[128];
} Id;
R ncclGetUniqueId(Id *);
R ncclCommInitRankConfig(void **, int, Id, int, uint64_t *);
R ncclAllReduce(const void *, void *, size_t, int, int, void *, void *);
R ncclCommGetAsyncError(void *, int *);
R ncclCommDestroy(void *);

#define MUST(x)                                                                                                                            \
    do {                                                                                                                                   \
        if (!(x)) {                                                                                                                        \
            fprintf(stderr, "selftest.c:%d: not so: %s\n", __LINE__, #x);                                                                  \
            exit(1);                                                                                                                       \
        }                                                                                                                                  \
    } while (0)
static uint64_t mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}
static void *module, *stream;
static uint64_t counters;
static void launch(const char *name, int n, ...) {
    void *f, *at[10];
    uint64_t v[10];
    __builtin_va_list l;
    __builtin_va_start(l, n);
    for (int i = 0; i < n; i++) {
        v[i] = __builtin_va_arg(l, uint64_t);
        at[i] = v + i;
    }
    __builtin_va_end(l);
    MUST(!cuModuleGetFunction(&f, module, name) && !cuLaunchKernel(f, 64, 1, 1, 256, 1, 1, 0, stream, at, 0));
}
static uint64_t counted(void) {
    uint64_t x;
    MUST(!cuMemcpyDtoHAsync_v2(&x, counters, 8, stream));
    cuStreamSynchronize(stream);
    return x;
}
static uint64_t wrong(uint64_t at, uint64_t words, uint64_t seed) {
    cuMemsetD8Async(counters, 0, 64, stream);
    launch("pattern_check", 6, at, words, seed, 0ull, counters, counters + 8);
    return counted();
}
static void *open_gpu(int g) {
    void *c;
    MUST(!cuDevicePrimaryCtxRetain(&c, g));
    cuCtxSetCurrent(c);
    return c;
}

static void copies(void) {
    const size_t n = 64 << 20;
    uint64_t a, b;
    uint32_t *host;
    void *other, *begin, *up, *down;
    float ms, both;
    MUST(!cuMemAlloc_v2(&a, n) && !cuMemAlloc_v2(&b, n) && !cuMemAllocHost_v2((void **)&host, n));
    MUST(!cuStreamCreate(&other, 1) && !cuEventCreate(&begin, 0) && !cuEventCreate(&up, 0) && !cuEventCreate(&down, 0));
    launch("pattern_fill", 4, a, n / 4, 7ull, 0ull);
    MUST(wrong(a, n / 4, 7) == 0 && wrong(a, n / 4, 8) == n / 4 && wrong(b, n / 4, 7) == n / 4);
    // A copy that is not waited for has not come. A host that is late may find it done: then again.
    int seen = 0;
    for (int i = 0; i < 100 && !seen; i++) {
        usleep(1000);
        host[5] = 1;
        MUST(!cuMemcpyDtoHAsync_v2(host, a, n, stream));
        seen = host[5] == 1 && cuStreamQuery(stream) == 600;
        cuStreamSynchronize(stream);
    }
    MUST(seen);
    MUST(cuStreamQuery(stream) == 0);
    for (uint64_t i = 0; i < n / 4; i += 4093) MUST(host[i] == (uint32_t)mix(7 + i));
    // What the host has goes up as it is, and a word that it changed is one.
    cuMemcpyHtoDAsync_v2(b, host, n, stream);
    MUST(wrong(b, n / 4, 7) == 0);
    host[n / 8] ^= 4;
    cuMemcpyHtoDAsync_v2(b, host, n, stream);
    MUST(wrong(b, n / 4, 7) == 1);
    cuMemcpyDtoHAsync_v2(host, a, n, stream);
    cuStreamSynchronize(stream);
    MUST(host[n / 8] == (uint32_t)mix(7 + n / 8));
    memset(host, 0, n);
    cuMemcpyHtoDAsync_v2(b, host, n, stream);
    MUST(wrong(b, n / 4, 7) == n / 4);
    // Both ways at once take less than one after the other.
    cuEventRecord(begin, stream);
    cuStreamWaitEvent(other, begin, 0);
    cuMemcpyHtoDAsync_v2(b, host, n, stream);
    cuMemcpyDtoHAsync_v2(host, a, n, other);
    cuEventRecord(up, stream);
    cuEventRecord(down, other);
    cuEventSynchronize(up);
    cuEventSynchronize(down);
    MUST(!cuEventElapsedTime(&ms, begin, up) && !cuEventElapsedTime(&both, begin, down));
    MUST(ms > 0.9 && ms < 1.6 && both > 0.9 && both < 1.8); // 64 MiB at 55 GB/s: 1.2 ms
}
static void export(void) {
    uint64_t a;
    int fd;
    MUST(!cuMemAlloc_v2(&a, 2 << 20));
    launch("pattern_fill", 4, a, 1024ull, 3ull, 0ull);
    cuStreamSynchronize(stream);
    MUST(!cuMemGetHandleForAddressRange(&fd, a, 2 << 20, 1, 0) && lseek(fd, 0, SEEK_END) == 2 << 20);
    uint32_t *m = mmap(0, 2 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(m != MAP_FAILED && m[9] == (uint32_t)mix(3 + 9));
    m[9] = 0;
    MUST(wrong(a, 1024, 3) == 1);
    launch("pattern_fill", 4, a, 1024ull, 4ull, 0ull);
    cuStreamSynchronize(stream);
    MUST(m[9] == (uint32_t)mix(4 + 9) && wrong(a, 1024, 4) == 0);
}
// Ranks are processes, and make one communicator after another.
static void rank(int r, int n, int *ids) {
    uint64_t a, b, config[6] = {48, 0xcafebeef};
    size_t count = 16 << 20;
    MUST(!cuInit(0));
    open_gpu(r);
    MUST(!cuStreamCreate(&stream, 1) && !cuModuleLoadData(&module, ".version 7.7") && !cuMemAlloc_v2(&counters, 64) &&
         !cuMemAlloc_v2(&a, 4 * count) && !cuMemAlloc_v2(&b, 4 * count));
    for (int k = 0; k < 2; k++) {
        Id id;
        void *comm;
        if (!r) {
            MUST(!ncclGetUniqueId(&id));
            for (int i = 1; i < n; i++) MUST(write(ids[1], &id, sizeof id) == sizeof id);
        } else MUST(read(ids[0], &id, sizeof id) == sizeof id);
        MUST(!ncclCommInitRankConfig(&comm, n, id, r, config));
        launch("ranks_fill", 4, a, (uint64_t)count, 5ull, (uint64_t)r);
        for (int i = 0; i < 20; i++) MUST(!ncclAllReduce((void *)a, (void *)b, count, 7, 0, comm, stream));
        cuMemsetD8Async(counters, 0, 64, stream);
        launch("ranks_check", 7, b, (uint64_t)count, 0ull, 5ull, 0ull, (uint64_t)n, counters);
        MUST(counted() == 0);
        cuMemsetD8Async(counters, 0, 64, stream);
        launch("ranks_check", 7, b, (uint64_t)count, 0ull, 5ull, 0ull, (uint64_t)n - 1, counters);
        MUST(counted() > count / 2);
        MUST(!ncclCommDestroy(comm));
        // The next id must not be read by who has not read this.
        usleep(200000);
    }
    _exit(0);
}

int main(void) {
    int n, ids[2], status;
    char name[96];
    setenv("FAKE_MACHINE", "hgx-h100", 1);
    setenv("FAKE_GPUS", "3", 1);
    pipe(ids);
    for (int r = 0; r < 3; r++)
        if (!fork()) rank(r, 3, ids);
    for (int r = 0; r < 3; r++) {
        wait(&status);
        MUST(status == 0);
    }
    MUST(!cuInit(0) && !cuDeviceGetCount(&n) && n == 3 && !cuDeviceGetName(name, 96, 0) && strstr(name, "stand-in"));
    open_gpu(0);
    MUST(!cuStreamCreate(&stream, 1) && !cuModuleLoadData(&module, ".version 7.7") && !cuMemAlloc_v2(&counters, 64));
    copies();
    export();
    puts("well");
    return 0;
}
