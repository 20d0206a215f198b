// A libnccl.so.2 beside the driver of cuda.c, which includes this: ranks are processes that meet at the first rank's socket; what is
// queued is done by a thread, in order, so that a stream is busy until then. It moves the real bytes and adds them up; its figures
// mean nothing.
//
// FAKE_NCCL_VERSION (22703); FAKE_NCCL_LOG and FAKE_NCCL_TOPOLOGY: files that it says. FAKE_FAULT: `nccl-hang` (rank 1 never does its
// third operation), `nccl-die` (it dies in it), `nccl-stop` (it is stopped in it), `nccl-wrong` (it gets one element wrong), `nccl-init-die`, `nccl-init-hang`.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

typedef struct { char bytes[128]; } Id;
struct comm { int rank, n, fd[64], listener, failed; };
static int meeting = -1;

static void say(const char *variable, const char *from) {
    const char *to = getenv(variable), *path = getenv(from);
    if (!to || !path) return;
    FILE *in = fopen(path, "r"), *out = fopen(to, "w");
    if (in && out) for (int c; (c = fgetc(in)) != EOF;) fputc(c, out);
    if (in) fclose(in);
    if (out) fclose(out);
}
static int all(int fd, void *p, size_t n, int writing) {
    for (char *at = p; n;) { ssize_t k = writing ? send(fd, at, n, MSG_NOSIGNAL) : recv(fd, at, n, 0); if (k <= 0) return 6; at += k; n -= k; }
    return 0;
}

R ncclGetVersion(int *v) { const char *s = getenv("FAKE_NCCL_VERSION"); *v = s ? atoi(s) : 22703; return 0; }
const char *ncclGetErrorString(int c) { return c == 6 ? "remote process exited or there was a network error" : "fake"; }
const char *ncclGetLastError(void *c) { return ""; }
R ncclGetUniqueId(Id *id) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t l = sizeof a;
    meeting = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(meeting, (void *)&a, l) || listen(meeting, 64) || getsockname(meeting, (void *)&a, &l)) return 2;
    memset(id, 0, sizeof *id);
    memcpy(id, &a, sizeof a);
    return 0;
}
R ncclCommInitRankConfig(void **out, int n, Id id, int rank, uint64_t *config) {
    if (config[0] != 48 || (uint32_t)config[1] != 0xcafebeef || n > 64) return 4;
    say("NCCL_DEBUG_FILE", "FAKE_NCCL_LOG");
    if (rank == 0) say("NCCL_TOPO_DUMP_FILE", "FAKE_NCCL_TOPOLOGY");
    if (fault("nccl-init-die") && rank == 1) _exit(9);
    if (fault("nccl-init-hang") && rank == 1) for (;;) pause();
    struct comm *c = calloc(1, sizeof *c);
    c->rank = rank; c->n = n;
    if (rank) {
        struct sockaddr_in a;
        memcpy(&a, &id, sizeof a);
        c->fd[0] = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(c->fd[0], (void *)&a, sizeof a) || all(c->fd[0], &rank, 4, 1)) return 2;
    } else for (int i = 1; i < n; i++) {
        int fd = accept(meeting, 0, 0), r;
        if (fd < 0 || all(fd, &r, 4, 0) || r < 1 || r >= n) return 2;
        c->fd[r] = fd;
    }
    // Small parts in both directions would wait for acknowledgements.
    for (int i = 0, on = 1; i < n; i++) if (c->fd[i]) setsockopt(c->fd[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    *out = c;
    return 0;
}
R ncclCommGetAsyncError(struct comm *c, int *e) { *e = c->failed; return 0; }
R ncclCommAbort(struct comm *c) { return 0; }
R ncclCommDestroy(struct comm *c) { return 0; }

// An operation is a round: every rank sends parts to some ranks and gets parts of some; all by way of rank 0.
struct part { int peer; size_t n; void *at; };
struct work { struct comm *c; int sends, gets, add; struct part send[64], get[64]; void *result; size_t count; struct timespec *stamp; struct work *next; };
static struct work *first, **last = &first;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;
static int pending, done, running;

static int deliver(struct work *w, int from, void *data, size_t n) {
    for (int i = 0; i < w->gets; i++) if (w->get[i].peer == from) {
        if (n != w->get[i].n) return 5;
        if (w->add) for (size_t k = 0; k < n / 4; k++) ((float *)w->result)[k] += ((float *)data)[k];
        else memmove(w->get[i].at, data, n);
        w->get[i].peer = -1;
        return 0;
    }
    return 5;
}
static int round_(struct work *w) {
    struct comm *c = w->c;
    int e = 0;
    float *sum = 0;
    void *result = w->result;
    if (w->add) w->result = sum = calloc(w->count + 1, 4);
    struct { int from, to; size_t n; } h;
    if (c->rank) {
        for (int i = 0; i < w->sends && !e; i++) { h.from = c->rank; h.to = w->send[i].peer; h.n = w->send[i].n; e = all(c->fd[0], &h, sizeof h, 1) || all(c->fd[0], w->send[i].at, h.n, 1); }
        h.to = -1; h.n = 0;
        e = e || all(c->fd[0], &h, sizeof h, 1);
        while (!e && !(e = all(c->fd[0], &h, sizeof h, 0)) && h.to >= 0) { void *p = malloc(h.n + 1); e = all(c->fd[0], p, h.n, 0) || deliver(w, h.from, p, h.n); free(p); }
    } else {
        struct held { int from, to; size_t n; void *at; } *held = 0;
        int n = 0;
        for (int i = 0; i < w->sends; i++) { held = realloc(held, (n + 1) * sizeof *held); void *p = malloc(w->send[i].n + 1); memcpy(p, w->send[i].at, w->send[i].n); held[n++] = (struct held){0, w->send[i].peer, w->send[i].n, p}; }
        for (int r = 1; r < c->n && !e; r++) while (!e && !(e = all(c->fd[r], &h, sizeof h, 0)) && h.to >= 0) {
            held = realloc(held, (n + 1) * sizeof *held);
            void *p = malloc(h.n + 1);
            e = all(c->fd[r], p, h.n, 0);
            held[n++] = (struct held){r, h.to, h.n, p};
        }
        // In the order of ranks, so that sums are added alike everywhere.
        for (int from = 0; from < c->n && !e; from++) for (int i = 0; i < n && !e; i++) if (held[i].from == from) {
            if (held[i].to == 0) { e = deliver(w, from, held[i].at, held[i].n); continue; }
            h.from = from; h.to = held[i].to; h.n = held[i].n;
            e = all(c->fd[h.to], &h, sizeof h, 1) || all(c->fd[h.to], held[i].at, h.n, 1);
        }
        h.to = -1; h.n = 0;
        for (int r = 1; r < c->n && !e; r++) e = all(c->fd[r], &h, sizeof h, 1);
        for (int i = 0; i < n; i++) free(held[i].at);
        free(held);
    }
    if (sum) { memcpy(result, sum, w->count * 4); free(sum); w->result = result; }
    if (fault("nccl-wrong") && c->rank == 1 && w->gets) ((uint32_t *)(w->add ? w->result : w->get[0].at))[0] ^= 1;
    return e ? 6 : 0;
}
static void *worker(void *_) {
    for (;;) {
        pthread_mutex_lock(&lock);
        while (!first) pthread_cond_wait(&more, &lock);
        struct work *w = first;
        if (!(first = w->next)) last = &first;
        pthread_mutex_unlock(&lock);
        if (w->stamp) {
            // An event: the time when all before it is done.
            clock_gettime(CLOCK_MONOTONIC, w->stamp);
            pthread_mutex_lock(&lock);
            pending--;
            pthread_mutex_unlock(&lock);
            free(w);
            continue;
        }
        if (++done == 3 && w->c->rank == 1) { if (fault("nccl-die")) _exit(9); if (fault("nccl-hang")) for (;;) pause(); if (fault("nccl-stop")) raise(SIGSTOP); }
        int e = w->c->failed ? w->c->failed : round_(w);
        if (e) w->c->failed = e;
        pthread_mutex_lock(&lock);
        // What failed never ends, as on a GPU.
        if (!e) pending--;
        pthread_mutex_unlock(&lock);
        free(w);
    }
}
static int busy(void) { pthread_mutex_lock(&lock); int n = pending; pthread_mutex_unlock(&lock); return n; }
static R queue(struct work *w) {
    pthread_mutex_lock(&lock);
    pthread_t t;
    if (!running++) pthread_create(&t, 0, worker, 0);
    w->next = 0; *last = w; last = &w->next; pending++;
    pthread_cond_signal(&more);
    pthread_mutex_unlock(&lock);
    return 0;
}
static void stamp(struct timespec *at) {
    if (!busy()) { clock_gettime(CLOCK_MONOTONIC, at); return; }
    struct work *w = calloc(1, sizeof *w);
    w->stamp = at;
    queue(w);
}
static struct work *new_(struct comm *c) { struct work *w = calloc(1, sizeof *w); w->c = c; return w; }
static void to(struct work *w, int peer, const void *at, size_t count) { w->send[w->sends++] = (struct part){peer, 4 * count, (void *)at}; }
static void from(struct work *w, int peer, void *at, size_t count) { w->get[w->gets++] = (struct part){peer, 4 * count, at}; }

R ncclAllReduce(const void *s, void *r, size_t n, int type, int op, struct comm *c, void *st) {
    if (type != 7 || op || !st) return 4;
    struct work *w = new_(c);
    w->add = 1; w->result = r; w->count = n;
    for (int p = 0; p < c->n; p++) { to(w, p, s, n); from(w, p, 0, n); }
    return queue(w);
}
R ncclReduceScatter(const void *s, void *r, size_t n, int type, int op, struct comm *c, void *st) {
    if (type != 7 || op || !st) return 4;
    struct work *w = new_(c);
    w->add = 1; w->result = r; w->count = n;
    for (int p = 0; p < c->n; p++) { to(w, p, (const float *)s + p * n, n); from(w, p, 0, n); }
    return queue(w);
}
R ncclAllGather(const void *s, void *r, size_t n, int type, struct comm *c, void *st) {
    if (type != 7 || !st) return 4;
    struct work *w = new_(c);
    for (int p = 0; p < c->n; p++) { to(w, p, s, n); from(w, p, (float *)r + p * n, n); }
    return queue(w);
}
R ncclBroadcast(const void *s, void *r, size_t n, int type, int root, struct comm *c, void *st) {
    if (type != 7 || root || !st) return 4;
    struct work *w = new_(c);
    if (!c->rank) for (int p = 0; p < c->n; p++) to(w, p, s, n);
    from(w, 0, r, n);
    return queue(w);
}
static struct work *grouped;
static int depth;
static R one(struct work *w) { if (!depth) return queue(w); return 0; }
R ncclSend(const void *s, size_t n, int type, int peer, struct comm *c, void *st) {
    struct work *w = depth ? (grouped ? grouped : (grouped = new_(c))) : new_(c);
    to(w, peer, s, n);
    return type == 7 && st && peer < c->n ? one(w) : 4;
}
R ncclRecv(void *r, size_t n, int type, int peer, struct comm *c, void *st) {
    struct work *w = depth ? (grouped ? grouped : (grouped = new_(c))) : new_(c);
    from(w, peer, r, n);
    return type == 7 && st && peer < c->n ? one(w) : 4;
}
R ncclGroupStart(void) { depth++; return 0; }
R ncclGroupEnd(void) { struct work *w = grouped; depth--; grouped = 0; return w ? queue(w) : 0; }
