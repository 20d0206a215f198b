// The driver's memory: allocations, pinned memory, and copies of both.

static uint64_t free_of(int g) {
    const struct machine *m = machine();
    uint64_t used = m->taken + allocated[g] + (fault_of("filled", g, 1) ? m->memory / 80 * 79 - m->taken : 0);
    return used < m->memory ? m->memory - used : 0;
}
R cuMemGetInfo_v2(size_t *f, size_t *t) {
    ALIVE;
    *f = free_of(current);
    *t = machine()->memory;
    return 0;
}
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
    a->next = allocations;
    allocations = a;
    allocated[current] += whole;
    pthread_mutex_unlock(&lock);
    if (n > 1 << 20 && !machine()->bare) takes(0.3);
    *p = a->at;
    return 0;
}
R cuMemFree_v2(uint64_t p) {
    ALIVE;
    struct allocation *a = 0;
    pthread_mutex_lock(&lock);
    for (struct allocation *x = allocations; x; x = x->next)
        if (x->at == p) a = x;
    pthread_mutex_unlock(&lock);
    if (!a) return 1;
    wait_for_gpu(a->gpu); // as the driver does
    pthread_mutex_lock(&lock);
    for (struct allocation **x = &allocations; *x; x = &(*x)->next)
        if (*x == a) {
            *x = a->next;
            break;
        }
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
            if (real != MAP_FAILED) {
                if (!(a->is.n == 1 && a->is.v->kind == PRODUCT)) bytes_of(&a->is, 0, a->n, real);
                a->real = real;
            }
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
    for (int i = 0; i < 256; i++)
        if (!pinned[i].at) {
            pinned[i] = (struct pinned){at, n};
            break;
        }
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
    clear(&h->is);
    clear(&h->will);
    munmap(h->at, pinned_pages(h->n));
    *h = (struct pinned){0};
    pthread_mutex_unlock(&lock);
    return 0;
}

static R upload(uint64_t d, const void *p, size_t n, struct stream *s) {
    struct op *o = op_new(UPLOAD, s);
    o->v[0] = d;
    o->v[1] = n;
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
    o->v[0] = (uint64_t)d;
    o->v[1] = n;
    o->v[2] = p;
    int paged = !pinned_at(d, n);
    queue(o);
    if (paged) wait_for(s);
    return 0;
}
static R copy(uint64_t d, uint64_t p, size_t n, struct stream *s) {
    struct op *o = op_new(COPY, s);
    o->v[0] = d;
    o->v[1] = n;
    o->v[2] = p;
    queue(o);
    return 0;
}
static int gpu_at(uint64_t p, size_t n) {
    pthread_mutex_lock(&lock);
    struct allocation *a = find(p, n);
    pthread_mutex_unlock(&lock);
    return a ? a->gpu : -1;
}
static struct stream *none(int gpu);
#define STREAM(st) ((struct stream *)(st) ? (struct stream *)(st) : none(current))

R cuMemcpyHtoDAsync_v2(uint64_t d, const void *p, size_t n, void *st) {
    ALIVE;
    return gpu_at(d, n) < 0 ? 1 : upload(d, p, n, STREAM(st));
}
R cuMemcpyDtoHAsync_v2(void *d, uint64_t p, size_t n, void *st) {
    ALIVE;
    return gpu_at(p, n) < 0 ? 1 : download(d, p, n, STREAM(st));
}
R cuMemcpyDtoDAsync_v2(uint64_t d, uint64_t p, size_t n, void *st) {
    ALIVE;
    return gpu_at(d, n) < 0 || gpu_at(p, n) < 0 ? 1 : copy(d, p, n, STREAM(st));
}
R cuMemcpyPeerAsync(uint64_t d, void *dc, uint64_t p, void *pc, size_t n, void *st) {
    ALIVE;
    return gpu_at(d, n) != (long)dc - 1 || gpu_at(p, n) != (long)pc - 1 ? 1 : copy(d, p, n, STREAM(st));
}
R cuMemcpyHtoD_v2(uint64_t d, const void *p, size_t n) {
    ALIVE;
    if (gpu_at(d, n) < 0) return 1;
    upload(d, p, n, none(current));
    wait_for(none(current));
    return 0;
}
R cuMemcpyDtoH_v2(void *d, uint64_t p, size_t n) {
    ALIVE;
    if (gpu_at(p, n) < 0) return 1;
    download(d, p, n, none(current));
    wait_for(none(current));
    return 0;
}
R cuMemsetD8Async(uint64_t d, unsigned char v, size_t n, void *st) {
    ALIVE;
    if (gpu_at(d, n) < 0) return 1;
    struct op *o = op_new(SET, STREAM(st));
    o->v[0] = d;
    o->v[1] = n;
    o->v[2] = v;
    queue(o);
    return 0;
}
