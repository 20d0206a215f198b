// Bytes from one process's memory into another's, and what a GPU's memory holds into another GPU's: the stand-in of CUDA keeps
// descriptions there, not bytes, and README-verbs.md says which functions of it are called. Without them its memory is the host's.
#include <dlfcn.h>
#include <sys/uio.h>

struct place { int pid, gpu; uint64_t addr; };

static int (*gpu_describe)(uint64_t, size_t, void *, size_t *), (*gpu_apply)(uint64_t, size_t, const void *, size_t);
static int (*gpu_read)(uint64_t, void *, size_t), (*gpu_write)(uint64_t, const void *, size_t), (*gpu_spoil)(uint64_t, size_t);

// Whether the memory at this address is a GPU's that holds descriptions. CUDA is opened by its caller, not for all to see.
static int gpu_has(uint64_t addr) {
    uint8_t text[PARCEL];
    size_t len = sizeof text;
    void *cuda = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    if (!cuda) return 0;
    gpu_describe = dlsym(cuda, "fake_gpu_describe"), gpu_apply = dlsym(cuda, "fake_gpu_apply");
    gpu_read = dlsym(cuda, "fake_gpu_dma_read"), gpu_write = dlsym(cuda, "fake_gpu_dma_write");
    gpu_spoil = dlsym(cuda, "fake_gpu_spoil");
    return gpu_describe && gpu_apply && !gpu_describe(addr, 4096, text, &len);
}

enum { DESCRIBE, APPLY, SPOIL, READ, WRITE };
static int gpu_do(int op, uint64_t addr, size_t n, void *data, size_t *len) {
    switch (op) {
    case DESCRIBE: return gpu_describe ? gpu_describe(addr, n, data, len) : -1;
    case APPLY: return gpu_apply ? gpu_apply(addr, n, data, *len) : -1;
    case SPOIL: return gpu_spoil ? gpu_spoil(addr, n) : -1;
    case READ: return *len = n, gpu_read ? gpu_read(addr, data, n) : -1;
    default: return gpu_write ? gpu_write(addr, data, n) : -1;
    }
}

enum { FREE, TAKEN, ASKED, ANSWERED };
static void *serve(void *of) {
    struct office *o = of;
    for (;;) {
        uint32_t state = o->state;
        if (state != ASKED) { futex(&o->state, FUTEX_WAIT, state, 100000000); continue; }
        size_t len = o->len;
        o->rc = gpu_do(o->op, o->addr, o->bytes, o->data, &len);
        o->len = len;
        o->state = ANSWERED;
        futex(&o->state, FUTEX_WAKE, 8, 0);
    }
    return 0;
}

static void office_open(void) {
    static int open;
    pthread_t t;
    if (open++) return;
    fabric_lock();
    for (int i = 0; i < OFFICES; i++) {
        struct office *o = &fabric->offices[i];
        if (o->pid && !gone(o->pid)) continue;
        o->state = FREE;
        o->pid = getpid();
        if (!pthread_create(&t, 0, serve, o)) pthread_detach(t);
        break;
    }
    fabric_unlock();
}

// Asks the process that has the memory. It answers within a second, or it is dead.
static int gpu_ask(int pid, int op, uint64_t addr, size_t n, void *data, size_t *len) {
    if (pid == getpid()) return gpu_do(op, addr, n, data, len);
    struct office *o = 0;
    for (int i = 0; i < OFFICES && !o; i++) if (fabric->offices[i].pid == pid) o = &fabric->offices[i];
    int64_t until = now() + 1000000000;
    uint32_t want = FREE;
    if (!o) return -1;
    while (!atomic_compare_exchange_strong(&o->state, &want, TAKEN)) {
        want = FREE;
        if (now() > until) return -1;
        pause_ns(50000);
    }
    o->op = op, o->addr = addr, o->bytes = n, o->len = *len;
    if (op == APPLY || op == WRITE) memcpy(o->data, data, *len);
    o->state = ASKED;
    futex(&o->state, FUTEX_WAKE, 8, 0);
    for (uint32_t state; (state = o->state) != ANSWERED && now() < until;) futex(&o->state, FUTEX_WAIT, state, 100000000);
    int rc = o->state == ANSWERED ? o->rc : -1;
    if (!rc && (op == DESCRIBE || op == READ)) memcpy(data, o->data, *len = o->len);
    o->state = FREE;
    return rc;
}

static int host_copy(int pid, int out, void *here, uint64_t there, size_t n) {
    struct iovec local = {here, n}, remote = {(void *)there, n};
    return (out ? process_vm_writev : process_vm_readv)(pid, &local, 1, &remote, 1, 0) == (ssize_t)n ? 0 : -1;
}

// One of the two is this process's own, or the peer that it serves. A wrong adapter changes a bit on the way.
static int copy(struct place from, struct place to, size_t n, int wrong) {
    static uint8_t parcel[PARCEL];
    size_t len = sizeof parcel;
    if (!n) return 0;
    if (from.gpu && to.gpu) {
        if (gpu_ask(from.pid, DESCRIBE, from.addr, n, parcel, &len) || gpu_ask(to.pid, APPLY, to.addr, n, parcel, &len)) return -1;
        return wrong ? gpu_ask(to.pid, SPOIL, to.addr, n, parcel, &len) : 0;
    }
    if (!from.gpu && !to.gpu && !wrong) {
        if (from.pid == getpid()) return host_copy(to.pid, 1, (void *)from.addr, to.addr, n);
        return host_copy(from.pid, 0, (void *)to.addr, from.addr, n);
    }
    for (size_t at = 0; at < n; at += PARCEL) {
        size_t part = len = n - at < PARCEL ? n - at : PARCEL;
        if (from.gpu ? gpu_ask(from.pid, READ, from.addr + at, part, parcel, &len) : host_copy(from.pid, 0, parcel, from.addr + at, part)) return -1;
        if (wrong && at <= n / 2 && n / 2 < at + part) parcel[n / 2 - at] ^= 4;
        if (to.gpu ? gpu_ask(to.pid, WRITE, to.addr + at, part, parcel, &len) : host_copy(to.pid, 1, parcel, to.addr + at, part)) return -1;
    }
    return 0;
}
