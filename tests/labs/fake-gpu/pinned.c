// Memory of the host that the GPU reads and writes by itself.

// Pinned memory of the host is real. It is known what the GPU wrote there, and the host's first write is seen by a fault; so the same copy again
// costs nothing, and bytes are made once.
struct pinned {
    char *at;
    size_t n;
    volatile int clean;
    int known;
    struct list is, will;
};
static struct pinned pinned[256];
static struct sigaction before;

static void touched(int sig, siginfo_t *info, void *context) {
    char *at = info->si_addr;
    for (int i = 0; i < 256; i++)
        if (pinned[i].at && at >= pinned[i].at && at < pinned[i].at + pinned[i].n) {
            pinned[i].clean = 0;
            mprotect(pinned[i].at, pinned[i].n, PROT_READ | PROT_WRITE);
            return;
        }
    if (before.sa_flags & SA_SIGINFO) before.sa_sigaction(sig, info, context);
    else {
        sigaction(sig, &before, 0);
        raise(sig);
    }
}
static void watch_writes(void) {
    static int on;
    if (on++) return;
    struct sigaction a = {.sa_sigaction = touched, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    sigaction(SIGSEGV, &a, &before);
}
static struct pinned *pinned_at(const void *p, size_t n) {
    for (int i = 0; i < 256; i++)
        if (pinned[i].at && (char *)p >= pinned[i].at && (char *)p + n <= pinned[i].at + pinned[i].n) return pinned + i;
    return 0;
}
// What the host has at `p`, as a description.
static void host_read(const void *p, size_t n, struct list *out) {
    struct pinned *h = pinned_at(p, n);
    uint64_t at = h ? (char *)p - h->at : 0;
    if (h && !h->clean && h->known) {
        clear(&h->is);
        clear(&h->will);
        h->known = 0;
    }
    if (h && h->known) {
        slice(&h->will, at, n, out, 0);
        return;
    }
    const uint32_t *w = p;
    size_t i = 1;
    if (n % 4 == 0 && n)
        while (i < n / 4 && w[i] == w[0]) i++;
    if (n && n % 4 == 0 && i >= n / 4) push(out, (struct seg){0, n, CONST, .p = {w[0]}});
    else push(out, (struct seg){0, n, RAW, .raw = raw_new(p, n)});
    if (h && n == h->n && n > SMALL) {
        slice(out, 0, n, &h->is, 0);
        slice(out, 0, n, &h->will, 0);
        h->known = h->clean = 1;
        mprotect(h->at, h->n, PROT_READ);
    }
}
// The GPU is going to write there: who copies from it next gets that.
static void host_will(void *p, size_t n, const struct list *what) {
    struct pinned *h = pinned_at(p, n);
    if (!h) return;
    if (!h->clean && h->known) {
        clear(&h->is);
        clear(&h->will);
        h->known = 0;
    }
    if (!h->known && n == h->n) {
        h->known = 1;
        h->clean = 1;
        clear(&h->is);
    }
    if (h->known) put(&h->will, (char *)p - h->at, n, what, h->n);
}
static void host_write(void *p, size_t n, const struct list *what) {
    struct pinned *h = pinned_at(p, n);
    if (!h) {
        bytes_of(what, 0, n, p);
        return;
    }
    uint64_t at = (char *)p - h->at;
    struct list has = {0};
    if (h->known && h->clean) slice(&h->is, at, n, &has, 0);
    if (!(has.n && same(&has, what))) {
        mprotect(h->at, h->n, PROT_READ | PROT_WRITE);
        bytes_of(what, 0, n, p);
        if (h->known) {
            // What the host did meanwhile is overwritten where all is.
            if (n == h->n) {
                h->clean = 1;
                clear(&h->will);
                slice(what, 0, n, &h->will, 0);
            }
            put(&h->is, at, n, what, h->n);
            if (h->clean && n > SMALL) mprotect(h->at, h->n, PROT_READ);
            else if (h->clean) h->clean = 0;
        }
    }
    clear(&has);
}
