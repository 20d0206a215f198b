// A libcuda.so.1, libcublasLt.so.12, libnvidia-ml.so.1 and libnccl.so.2 in one, that stand in for a machine with GPUs: README.md says what of
// it is like one. It measures nothing: no figure of it may go into a report that is kept.
//
//     cc -shared -fPIC -O2 -w -o libcuda.so.1 cuda.c
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ALIVE do { if (lost) return 999; } while (0)
#include "arithmetic.c"
#include "machines.c"
#include "faults.c"
#include "clock.c"
#include "memory.c"
#include "stream.c"
#include "kernels.c"
#include "blas.c"
#include "nvml.c"
#include "nccl.c"

// GPUs that CUDA shows: those that CUDA_VISIBLE_DEVICES names, up to the first that is none. Two that are the same make it none at all.
struct visible { int gpu, mig; };
static int visible(struct visible *out) {
    const char *s = getenv("CUDA_VISIBLE_DEVICES");
    int n = 0;
    for (int g = 0; !s && g < gpus(); g++) if (!fault_of("lost", g, 99) && !fault_of("mig", g, 1)) out[n++] = (struct visible){g};
    while (s && *s && n < 32) {
        char name[64], uuid[48], *end;
        size_t l = strcspn(s, ",");
        snprintf(name, sizeof name, "%.*s", (int)l, s);
        s += l + (s[l] == ',');
        int found = -1, found_n = 0, mig = !strncmp(name, "MIG-", 4);
        long index = strtol(name, &end, 10);
        // Indices count what is there.
        if (end != name && !*end) { for (int g = 0, i = 0; g < gpus(); g++) if (!fault_of("lost", g, 99) && i++ == index && !fault_of("mig", g, 1)) { found = g; found_n = 1; } }
        else for (int g = 0; g < gpus(); g++) {
            uuid_text(g, uuid, sizeof uuid);
            int is = mig ? fault_of("mig", g, 1) && !strncmp(name + 4, uuid + 4, strlen(name + 4)) : !strncmp(name, "GPU-", 4) && !strncmp(name, uuid, strlen(name)) && !fault_of("mig", g, 1);
            if (is && strlen(name) > 4 && !fault_of("lost", g, 99)) { found = g; found_n++; }
        }
        if (found_n != 1) break;
        for (int i = 0; i < n; i++) if (out[i].gpu == found) return 0;
        out[n++] = (struct visible){found, mig};
    }
    return n;
}
static struct visible shown_gpus[32];
static int shown_n = -1;
static int shown(void) { if (shown_n < 0) shown_n = visible(shown_gpus); return shown_n; }
static int gpu_of(int d) { return shown_gpus[d].gpu; }
#define DEVICE(d) do { if ((d) < 0 || (d) >= shown()) return 101; } while (0)
static int retained[32];

R cuInit(unsigned f) {
    static int done;
    if (f) return 1;
    if (!shown()) return 100;
    if (machine()->fabric && fault("no-fabric")) return 802;
    if (!done++) takes(machine()->init * gpus());
    return 0;
}
R cuDriverGetVersion(int *v) { *v = machine()->cuda; return 0; }
static const struct { int code; const char *name, *text; } ERRORS[] = {
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"}, {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}, {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"}, {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}, {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"}, {600, "CUDA_ERROR_NOT_READY", "device not ready"}, {704, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", "peer access is already enabled"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"}, {802, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"}, {999, "CUDA_ERROR_UNKNOWN", "unknown error"}};
R cuGetErrorName(int c, const char **s) { *s = 0; for (unsigned i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++) if (ERRORS[i].code == c) *s = ERRORS[i].name; return *s ? 0 : 1; }
R cuGetErrorString(int c, const char **s) { *s = 0; for (unsigned i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++) if (ERRORS[i].code == c) *s = ERRORS[i].text; return *s ? 0 : 1; }
R cuDeviceGetCount(int *n) { *n = shown(); return 0; }
R cuDeviceGet(int *d, int i) { DEVICE(i); *d = i; return 0; }
R cuDeviceGetName(char *s, int n, int d) { DEVICE(d); name_of(gpu_of(d), s, n); return 0; }
R cuDeviceGetUuid(unsigned char *u, int d) { DEVICE(d); uuid_of(gpu_of(d), u); return 0; }
R cuDeviceGetUuid_v2(unsigned char *u, int d) { return cuDeviceGetUuid(u, d); }
R cuDeviceGetPCIBusId(char *s, int n, int d) { DEVICE(d); snprintf(s, n, "%04X:%02X:00.0", domain_of(gpu_of(d)), bus_of(gpu_of(d))); return 0; }
R cuDeviceGetByPCIBusId(int *d, const char *s) {
    unsigned domain = 0, bus, slot;
    if (sscanf(s, "%x:%x:%x", &domain, &bus, &slot) != 3) { domain = 0; if (sscanf(s, "%x:%x", &bus, &slot) != 2) return 1; }
    for (int i = 0; i < shown(); i++) if ((unsigned)domain_of(gpu_of(i)) == domain && (unsigned)bus_of(gpu_of(i)) == bus && !slot) { *d = i; return 0; }
    return 101;
}
R cuDeviceTotalMem_v2(size_t *n, int d) { DEVICE(d); *n = machine()->memory / (shown_gpus[d].mig ? 7 : 1); return 0; }
R cuDeviceGetAttribute(int *v, int a, int d) {
    DEVICE(d);
    const struct machine *m = machine();
    int g = gpu_of(d);
    switch (a) {
    case 13: *v = m->sm_mhz * 1000; break;
    case 16: *v = m->sms; break;
    case 20: *v = fault_of("exclusive", g, -1) ? 3 : 0; break;
    case 33: *v = bus_of(g); break;
    case 34: *v = 0; break;
    case 36: *v = m->memory_mhz * 1000; break;
    case 37: *v = m->major == 8 || m->major == 9 ? 5120 : 8192; break;
    case 38: *v = m->major == 8 ? 40 << 20 : m->major == 9 ? 50 << 20 : 126 << 20; break;
    case 50: *v = domain_of(g); break;
    case 75: *v = m->major; break;
    case 76: *v = m->minor; break;
    case 116: case 124: *v = !m->bare; break;
    default: *v = 0;
    }
    return 0;
}
R cuDeviceCanAccessPeer(int *v, int a, int b) { DEVICE(a); DEVICE(b); *v = a != b; return 0; }
R cuDeviceGetP2PAttribute(int *v, int which, int a, int b) {
    DEVICE(a); DEVICE(b);
    int x = gpu_of(a), y = gpu_of(b), linked = machine()->links && (!machine()->pairs || x / 2 == y / 2);
    *v = which == 1 ? !linked : which == 3 ? linked || machine()->bare : 1;
    return 0;
}
R cuDevicePrimaryCtxRetain(void **c, int d) {
    DEVICE(d);
    int g = gpu_of(d);
    if (fault_of("exclusive", g, -1)) return 46;
    if (fault_of("hbm-ecc", g, 1) && fault_of("hbm-ecc", g, 1)->share > 0) return 214;
    if (!retained[g]++) { takes_alone(machine()->alone); takes(machine()->context - machine()->alone); }
    *c = (void *)(long)(g + 1);
    return 0;
}
R cuDevicePrimaryCtxRelease_v2(int d) { DEVICE(d); if (retained[gpu_of(d)] > 0 && !--retained[gpu_of(d)]) takes(machine()->end); return 0; }
R cuCtxSetCurrent(void *c) { current = (long)c - 1; return 0; }
R cuCtxGetCurrent(void **c) { *c = (void *)(long)(current + 1); return 0; }
R cuCtxGetDevice(int *d) { for (*d = 0; *d < shown(); ++*d) if (gpu_of(*d) == current) return 0; return 201; }
R cuCtxSynchronize(void) { ALIVE; wait_for_gpu(current); return 0; }
R cuCtxEnablePeerAccess(void *c, unsigned f) {
    static uint32_t on[32];
    int g = (long)c - 1;
    if (on[current & 31] >> g & 1) return 704;
    on[current & 31] |= 1u << g;
    return 0;
}

static uint64_t free_of(int g) {
    const struct machine *m = machine();
    uint64_t used = m->taken + allocated[g] + (fault_of("filled", g, 1) ? m->memory / 80 * 79 - m->taken : 0);
    return used < m->memory ? m->memory - used : 0;
}
R cuMemGetInfo_v2(size_t *f, size_t *t) { ALIVE; *f = free_of(current); *t = machine()->memory; return 0; }
R cuMemAlloc_v2(uint64_t *p, size_t n) {
    ALIVE;
    if (!n) return 1;
    if (fault_of("oom", current, -1) && n > 64ul << 20) return 2;
    // Large ones come in pages of 2 MiB.
    size_t whole = n > 1 << 20 ? (n + (2 << 20) - 1) & ~((2ul << 20) - 1) : (n + 511) & ~511ul;
    if (whole > free_of(current)) return 2;
    void *at = mmap(0, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return 2;
    struct allocation *a = calloc(1, sizeof *a);
    *a = (struct allocation){(uint64_t)at, whole, current};
    // What lies there at first is of no rule.
    push(&a->is, (struct seg){0, whole, PRODUCT, .p = {mix((uint64_t)at ^ now())}});
    pthread_mutex_lock(&lock);
    a->next = allocations; allocations = a; allocated[current] += whole;
    pthread_mutex_unlock(&lock);
    if (n > 1 << 20 && !machine()->bare) takes(0.3);
    *p = a->at;
    return 0;
}
R cuMemFree_v2(uint64_t p) {
    ALIVE;
    struct allocation *a = 0;
    pthread_mutex_lock(&lock);
    for (struct allocation *x = allocations; x; x = x->next) if (x->at == p) a = x;
    pthread_mutex_unlock(&lock);
    if (!a) return 1;
    wait_for_gpu(a->gpu); // as the driver does
    pthread_mutex_lock(&lock);
    for (struct allocation **x = &allocations; *x; x = &(*x)->next) if (*x == a) { *x = a->next; break; }
    allocated[a->gpu] -= a->n;
    pthread_mutex_unlock(&lock);
    clear(&a->is);
    if (a->real) munmap(a->real, a->n);
    munmap((void *)a->at, a->n);
    free(a);
    return 0;
}
// A file of the range's bytes, which another library may write: from then on the allocation has real bytes.
R cuMemGetHandleForAddressRange(void *handle, uint64_t p, size_t n, int kind, uint64_t flags) {
    ALIVE;
    if (kind != 1) return 1;
    pthread_mutex_lock(&lock);
    struct allocation *a = find(p, n);
    int fd = -1;
    if (a && p == a->at && !a->real) {
        fd = syscall(SYS_memfd_create, "fake-gpu", MFD_CLOEXEC);
        if (fd >= 0 && ftruncate(fd, a->n) == 0) {
            unsigned char *real = mmap(0, a->n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            if (real != MAP_FAILED) { if (!(a->is.n == 1 && a->is.v->kind == PRODUCT)) bytes_of(&a->is, 0, a->n, real); a->real = real; }
        }
    }
    pthread_mutex_unlock(&lock);
    if (!a || p % 4096) return 1;
    if (fd < 0) return 801;
    *(int *)handle = fd;
    return 0;
}
static size_t pinned_pages(size_t n) { return (n + 4095) & ~4095ul; }
R cuMemAllocHost_v2(void **p, size_t n) {
    ALIVE;
    char *at = mmap(0, pinned_pages(n), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (at == MAP_FAILED) return 2;
    watch_writes();
    pthread_mutex_lock(&lock);
    for (int i = 0; i < 256; i++) if (!pinned[i].at) { pinned[i] = (struct pinned){at, n}; break; }
    pthread_mutex_unlock(&lock);
    if (!machine()->bare) takes(n / 6e6); // locking pages: about 6 GB/s, an estimate
    *p = at;
    return 0;
}
R cuMemHostAlloc(void **p, size_t n, unsigned flags) { return cuMemAllocHost_v2(p, n); }
R cuMemFreeHost(void *p) {
    struct pinned *h = pinned_at(p, 1);
    if (!h || h->at != p) return 1;
    pthread_mutex_lock(&lock);
    clear(&h->is); clear(&h->will);
    munmap(h->at, pinned_pages(h->n));
    *h = (struct pinned){0};
    pthread_mutex_unlock(&lock);
    return 0;
}

static R upload(uint64_t d, const void *p, size_t n, struct stream *s) {
    struct op *o = op_new(UPLOAD, s);
    o->v[0] = d; o->v[1] = n;
    pthread_mutex_lock(&lock);
    host_read(p, n, &o->list);
    pthread_mutex_unlock(&lock);
    int paged = !pinned_at(p, n);
    queue(o);
    if (paged && n > 65536) wait_for(s);
    return 0;
}
static R download(void *d, uint64_t p, size_t n, struct stream *s) {
    struct op *o = op_new(DOWNLOAD, s);
    o->v[0] = (uint64_t)d; o->v[1] = n; o->v[2] = p;
    int paged = !pinned_at(d, n);
    queue(o);
    if (paged) wait_for(s);
    return 0;
}
static R copy(uint64_t d, uint64_t p, size_t n, struct stream *s) { struct op *o = op_new(COPY, s); o->v[0] = d; o->v[1] = n; o->v[2] = p; queue(o); return 0; }
static int gpu_at(uint64_t p, size_t n) { pthread_mutex_lock(&lock); struct allocation *a = find(p, n); pthread_mutex_unlock(&lock); return a ? a->gpu : -1; }
static struct stream *none(int gpu);
#define STREAM(st) ((struct stream *)(st) ? (struct stream *)(st) : none(current))

R cuMemcpyHtoDAsync_v2(uint64_t d, const void *p, size_t n, void *st) { ALIVE; return gpu_at(d, n) < 0 ? 1 : upload(d, p, n, STREAM(st)); }
R cuMemcpyDtoHAsync_v2(void *d, uint64_t p, size_t n, void *st) { ALIVE; return gpu_at(p, n) < 0 ? 1 : download(d, p, n, STREAM(st)); }
R cuMemcpyDtoDAsync_v2(uint64_t d, uint64_t p, size_t n, void *st) { ALIVE; return gpu_at(d, n) < 0 || gpu_at(p, n) < 0 ? 1 : copy(d, p, n, STREAM(st)); }
R cuMemcpyPeerAsync(uint64_t d, void *dc, uint64_t p, void *pc, size_t n, void *st) { ALIVE; return gpu_at(d, n) != (long)dc - 1 || gpu_at(p, n) != (long)pc - 1 ? 1 : copy(d, p, n, STREAM(st)); }
R cuMemcpyHtoD_v2(uint64_t d, const void *p, size_t n) { ALIVE; if (gpu_at(d, n) < 0) return 1; upload(d, p, n, none(current)); wait_for(none(current)); return 0; }
R cuMemcpyDtoH_v2(void *d, uint64_t p, size_t n) { ALIVE; if (gpu_at(p, n) < 0) return 1; download(d, p, n, none(current)); wait_for(none(current)); return 0; }
R cuMemsetD8Async(uint64_t d, unsigned char v, size_t n, void *st) { ALIVE; if (gpu_at(d, n) < 0) return 1; struct op *o = op_new(SET, STREAM(st)); o->v[0] = d; o->v[1] = n; o->v[2] = v; queue(o); return 0; }

R cuStreamCreate(void **out, unsigned f) {
    ALIVE;
    struct stream *s = calloc(1, sizeof *s);
    s->gpu = current; s->tail = &s->head;
    pthread_mutex_lock(&lock);
    s->next = streams; streams = s;
    pthread_mutex_unlock(&lock);
    *out = s;
    return 0;
}
// The stream without a name.
static struct stream *none(int gpu) { static struct stream *of[32]; if (!of[gpu & 31]) cuStreamCreate((void **)&of[gpu & 31], 0); return of[gpu & 31]; }
R cuStreamDestroy_v2(struct stream *s) {
    // What it still has to do is done; one that waits for other processes is left.
    pthread_mutex_lock(&lock);
    pump();
    if (!s->head) for (struct stream **x = &streams; *x; x = &(*x)->next) if (*x == s) { *x = s->next; free(s); break; }
    pthread_mutex_unlock(&lock);
    return 0;
}
R cuStreamSynchronize(void *s) { ALIVE; wait_for(STREAM(s)); ALIVE; return 0; }
R cuStreamQuery(void *st) {
    ALIVE;
    struct stream *s = STREAM(st);
    if (hangs(s->gpu)) return 600;
    pthread_mutex_lock(&lock);
    pump();
    Time t = now();
    int busy = s->head || s->t > t;
    settle(t);
    pthread_mutex_unlock(&lock);
    return busy ? 600 : 0;
}
R cuStreamWaitEvent(void *s, struct event *e, unsigned f) { ALIVE; struct op *o = op_new(WAIT, STREAM(s)); o->e = e; o->generation = e->asked; queue(o); return 0; }
R cuEventCreate(void **e, unsigned f) { ALIVE; *e = calloc(1, sizeof(struct event)); return 0; }
R cuEventDestroy_v2(struct event *e) {
    pthread_mutex_lock(&lock);
    // One that is still to be recorded is not freed.
    int busy = e->asked != e->done;
    pthread_mutex_unlock(&lock);
    if (!busy) free(e);
    return 0;
}
R cuEventRecord(struct event *e, void *s) {
    ALIVE;
    struct op *o = op_new(RECORD, STREAM(s));
    pthread_mutex_lock(&lock);
    o->e = e; o->generation = ++e->asked;
    pthread_mutex_unlock(&lock);
    queue(o);
    return 0;
}
R cuEventQuery(struct event *e) { ALIVE; pthread_mutex_lock(&lock); pump(); int busy = e->asked != e->done || e->at > now(); pthread_mutex_unlock(&lock); return busy ? 600 : 0; }
R cuEventSynchronize(struct event *e) {
    ALIVE;
    if (fault("hang") && hangs(current)) for (;;) pause();
    pthread_mutex_lock(&lock);
    for (pump(); e->asked != e->done; pump()) pthread_cond_wait(&changed, &lock);
    Time t = e->at;
    pthread_mutex_unlock(&lock);
    sleep_until(t);
    pthread_mutex_lock(&lock);
    settle(now());
    pthread_mutex_unlock(&lock);
    ALIVE;
    return 0;
}
R cuEventElapsedTime(float *ms, struct event *a, struct event *b) {
    pthread_mutex_lock(&lock);
    pump();
    int unknown = !a->asked || !b->asked, busy = a->asked != a->done || b->asked != b->done || a->at > now() || b->at > now();
    // Half a microsecond is what it resolves.
    *ms = (b->at - a->at) / 500 * 500 * 1e-6;
    pthread_mutex_unlock(&lock);
    return unknown ? 400 : busy ? 600 : 0;
}

R cuModuleLoadData(void **m, const void *text) {
    ALIVE;
    if (!strstr(text, ".version 7.7")) return 222;
    takes(machine()->module);
    *m = (void *)text;
    return 0;
}
R cuModuleUnload(void *m) { return 0; }
R cuModuleGetFunction(void **f, void *m, const char *name) {
    for (unsigned i = 0; i < sizeof KERNELS / sizeof *KERNELS; i++) if (!strcmp(KERNELS[i], name)) { *f = (void *)(KERNELS + i); return 0; }
    return 500;
}
R cuLaunchKernel(const char *const *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned sh, void *st, void **a, void **extra) {
    ALIVE;
    if (!gx || gy != 1 || gz != 1 || bx != 256) return 1;
    struct op *o = op_new(KERNEL, STREAM(st));
    o->kernel = *f; o->generation = gx;
    const char *bytes = ARGUMENTS[f - KERNELS];
    for (int i = 0; bytes[i]; i++) if (bytes[i] == '8') o->v[i] = *(uint64_t *)a[i]; else o->v[i] = *(uint32_t *)a[i];
    if (!strcmp(*f, "residual") && (o->v[3] < 64 || o->v[5] < 64)) { free(o); return 1; }
    queue(o);
    return 0;
}
