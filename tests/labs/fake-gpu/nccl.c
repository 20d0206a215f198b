// A libnccl.so.2. Ranks are processes; each sends what it queues, as descriptions and times, to a thread in the process that made the unique
// id, which answers with results and the moment of their end. Results are exact by description, times follow the table.
//
// FAKE_NCCL_VERSION (22703).

typedef struct {
    char bytes[128];
} Id;
enum kind { ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, BROADCAST, POINT };
static const char *const OPERATIONS[] = {"AllReduce", "AllGather", "ReduceScatter", "Broadcast", "SendRecv"};
#define MOST 64
struct peer {
    int gpu, rank;
    uint64_t bus;
    char node[64];
    int place;
}; // place: which of the nodes, once known
struct comm {
    int rank, n, fd, failed, gone, told, nodes, gpu, connected;
    unsigned sent, operations, p2p[MOST];
    uint64_t id;
    struct peer peers[MOST];
    struct work *first, **last;
    char *out;
    size_t out_n, out_cap;
    pthread_cond_t more;
};
struct part {
    int peer, gets;
    uint64_t at, n;
    struct list what;
};
struct work {
    struct comm *comm;
    enum kind kind;
    uint64_t count;
    int parts, sent, done, counted;
    struct part part[2 * MOST];
    Time end;
    struct work *next;
};

static int version(void) {
    const char *s = getenv("FAKE_NCCL_VERSION");
    return s ? atoi(s) : 22703;
}
#include "nccl-log.c"
#include "nccl-server.c"

R ncclGetVersion(int *v) {
    *v = version();
    return 0;
}
const char *ncclGetErrorString(int c) {
    return c == 0   ? "no error"
           : c == 1 ? "unhandled cuda error"
           : c == 2 ? "unhandled system error"
           : c == 4 ? "invalid argument"
           : c == 5 ? "invalid usage"
           : c == 6 ? "remote process exited or there was a network error"
                    : "internal error";
}
static char last_error[256];
const char *ncclGetLastError(void *c) { return last_error; }
R ncclGetUniqueId(Id *id) {
    log_open();
    return server_start(id);
}

static void *sender(void *arg) {
    struct comm *c = arg;
    for (;;) {
        pthread_mutex_lock(&lock);
        while (!c->out_n && !c->gone) pthread_cond_wait(&c->more, &lock);
        char *out = c->out;
        size_t n = c->out_n;
        c->out = 0;
        c->out_n = c->out_cap = 0;
        int gone = c->gone;
        pthread_mutex_unlock(&lock);
        // In the third operation of rank 1.
        for (size_t at = 0; at < n; at += *(uint32_t *)(out + at))
            if (*(int *)(out + at + 4) != BYE && c->rank == 1 && ++c->operations == 3) {
                if (fault("nccl-die")) _exit(9);
                if (fault("nccl-hang"))
                    for (;;) pause();
                if (fault("nccl-stop")) raise(SIGSTOP);
            }
        if (n) all(c->fd, out, n, 1);
        free(out);
        if (gone) {
            shutdown(c->fd, SHUT_WR);
            pthread_mutex_lock(&lock);
            c->told = 1;
            pthread_cond_broadcast(&changed);
            pthread_mutex_unlock(&lock);
            return 0;
        }
    }
}
static void *receiver(void *arg) {
    struct comm *c = arg;
    uint32_t size;
    for (;;) {
        if (all(c->fd, &size, 4, 0)) break;
        char *m = malloc(size), *p = m;
        if (all(c->fd, m, size, 0)) break;
        pthread_mutex_lock(&lock);
        struct work *w = c->first;
        if (w) {
            if (!(c->first = w->next)) c->last = &c->first;
            memcpy(&w->end, p, 8);
            p += 8;
            for (int i = 0; i < w->parts; i++)
                if (w->part[i].gets) p = list_from(p, &w->part[i].what);
            w->done = 1;
            pump();
            pthread_cond_broadcast(&changed);
        }
        pthread_mutex_unlock(&lock);
        free(m);
    }
    pthread_mutex_lock(&lock);
    if (!c->gone) {
        c->failed = 6;
        snprintf(last_error, sizeof last_error, "socketProgress: Connection closed by remote peer");
    }
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return 0;
}
static void start(void *(*run)(void *), void *arg) {
    pthread_t t;
    pthread_attr_t a;
    pthread_attr_init(&a);
    pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
    pthread_create(&t, &a, run, arg);
}

R ncclCommInitRankConfig(struct comm **out, int n, Id id, int rank, uint64_t *config) {
    ALIVE;
    if (config && (uint32_t)config[1] != 0xcafebeef || n > MOST || n < 1 || rank < 0 || rank >= n) return 4;
    log_open();
    struct comm *c = calloc(1, sizeof *c);
    c->rank = rank;
    c->n = n;
    c->gpu = current;
    c->last = &c->first;
    pthread_cond_init(&c->more, 0);
    log_begin(c, config ? "ncclCommInitRankConfig" : "ncclCommInitRank");
    if ((fault("nccl-init-die") || fault("nccl-init-dead")) && rank == 1) _exit(9);
    if (fault("nccl-init-hang") && rank == 1)
        for (;;) pause();
    struct sockaddr_in a;
    memcpy(&a, &id, sizeof a);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    const char *node = getenv("FAKE_NODE");
    struct hello h = {n, {c->gpu, rank, (uint64_t)bus_of(c->gpu) << 12 | (uint64_t)domain_of(c->gpu) << 20}};
    snprintf(h.peer.node, sizeof h.peer.node, "%s", node ? node : "");
    struct welcome w;
    if (connect(c->fd, (void *)&a, sizeof a) || all(c->fd, &h, sizeof h, 1) || all(c->fd, &w, sizeof w, 0)) {
        close(c->fd);
        return 2;
    }
    memcpy(c->peers, w.peers, sizeof w.peers);
    c->nodes = w.nodes;
    c->id = w.id;
    sleep_until(w.end);
    log_made(c);
    start(sender, c);
    start(receiver, c);
    *out = c;
    return 0;
}
R ncclCommInitRank(struct comm **out, int n, Id id, int rank) { return ncclCommInitRankConfig(out, n, id, rank, 0); }
R ncclCommCount(struct comm *c, int *n) {
    *n = c->n;
    return 0;
}
R ncclCommUserRank(struct comm *c, int *n) {
    *n = c->rank;
    return 0;
}
R ncclCommCuDevice(struct comm *c, int *n) {
    *n = c->gpu;
    return 0;
}
R ncclCommGetAsyncError(struct comm *c, int *e) {
    *e = c->failed;
    return 0;
}
static R leave(struct comm *c, int wait) {
    pthread_mutex_lock(&lock);
    // What is under way never ends, unless it is aborted.
    for (pump(); wait && c->first && !c->failed; pump()) pthread_cond_wait(&changed, &lock);
    struct request bye = {sizeof bye, BYE};
    out_add(&c->out, &c->out_n, &c->out_cap, &bye, sizeof bye);
    c->gone = 1;
    for (struct work *w = c->first; w; w = w->next) {
        w->done = 1;
        w->end = now();
        for (int i = 0; i < w->parts; i++) w->part[i].gets = 0;
    }
    c->first = 0;
    c->last = &c->first;
    pump();
    pthread_cond_broadcast(&changed);
    pthread_cond_broadcast(&c->more);
    // The process may end at once, and the others must hear of it before.
    struct timespec soon;
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_nsec += 200000000;
    soon.tv_sec += soon.tv_nsec / 1000000000;
    soon.tv_nsec %= 1000000000;
    while (!c->told && !pthread_cond_timedwait(&changed, &lock, &soon));
    pthread_mutex_unlock(&lock);
    takes(machine()->bare ? 0 : 60);
    return 0;
}
R ncclCommAbort(struct comm *c) { return leave(c, 0); }
R ncclCommFinalize(struct comm *c) { return 0; }
R ncclCommDestroy(struct comm *c) { return leave(c, 1); }

// For stream.c.
static void nccl_send(struct work *w, int chained, Time ready) {
    struct comm *c = w->comm;
    if (w->sent) return;
    w->sent = 1;
    // Of a communicator that was aborted nothing is done.
    if (c->gone) {
        w->done = 1;
        w->end = ready;
        for (int i = 0; i < w->parts; i++) w->part[i].gets = 0;
        return;
    }
    w->next = 0;
    *c->last = w;
    c->last = &w->next;
    for (int i = 0; i < w->parts; i++)
        if (!w->part[i].gets) read_list(w->part[i].at, w->part[i].n, &w->part[i].what);
    size_t begin = c->out_n;
    struct request r = {0, w->kind, chained, w->parts, ready, w->count};
    out_add(&c->out, &c->out_n, &c->out_cap, &r, sizeof r);
    for (int i = 0; i < w->parts; i++) {
        struct wire_part p = {w->part[i].peer, w->part[i].gets, w->part[i].n};
        out_add(&c->out, &c->out_n, &c->out_cap, &p, sizeof p);
        if (!p.gets) list_to(&c->out, &c->out_n, &c->out_cap, &w->part[i].what);
        clear(&w->part[i].what);
    }
    *(uint32_t *)(c->out + begin) = c->out_n - begin;
    pthread_cond_signal(&c->more);
}
static int nccl_done(struct work *w, Time *end) {
    if (!w->done) return 0;
    for (int i = 0; i < w->parts; i++)
        if (w->part[i].gets) {
            struct part *p = w->part + i;
            write_list(p->at, p->n, &p->what);
            if (fault("nccl-wrong") && w->comm->rank == 1 && i == w->parts - 1) {
                uint32_t x;
                read_bytes(p->at, 4, &x);
                x ^= 1;
                write_bytes(p->at, 4, &x);
            }
        }
    *end = w->end;
    return 1;
}
static void nccl_free(struct work *w) {
    for (int i = 0; i < w->parts; i++) clear(&w->part[i].what);
    free(w);
}
static int nccl_may_follow(const struct work *w, const struct work *first, const struct range *r, int n) {
    if (w->comm != first->comm) return 0;
    for (int i = 0; i < w->parts; i++)
        if (!w->part[i].gets)
            for (int k = 0; k < n; k++)
                if (w->part[i].at < r[k].at + r[k].n && r[k].at < w->part[i].at + w->part[i].n) return 0;
    return 1;
}
static int nccl_writes(struct work *w, struct range *r, int most) {
    if (!w->parts || most <= 0) return 0;
    // From the first to the last: ranges of one operation lie in one buffer.
    uint64_t low = ~0ull, high = 0;
    for (int i = 0; i < w->parts; i++)
        if (w->part[i].gets) {
            if (w->part[i].at < low) low = w->part[i].at;
            if (w->part[i].at + w->part[i].n > high) high = w->part[i].at + w->part[i].n;
        }
    if (low >= high) return 0;
    *r = (struct range){low, high - low};
    return 1;
}

static void add_part(struct work *w, int peer, int gets, const void *at, uint64_t n) {
    w->part[w->parts++] = (struct part){peer, gets, (uint64_t)at, n};
}
static R enqueue(struct work *w, void *st) {
    struct comm *c = w->comm;
    if (c->failed) {
        free(w);
        return c->failed;
    }
    log_operation(c, w);
    if (!c->connected && w->kind != POINT) {
        c->connected = 1;
        if (fault("nccl-first-dead") && c->rank == 1) _exit(9);
        // Since 2.22 the first collective connects.
        if (version() >= 22200) takes(machine()->connect);
    }
    struct op *o = op_new(NCCL, st);
    o->work = w;
    queue(o);
    return 0;
}
static struct work *new_work(struct comm *c, enum kind kind, uint64_t count) {
    struct work *w = calloc(1, sizeof *w);
    w->comm = c;
    w->kind = kind;
    w->count = count;
    return w;
}
static R collective(enum kind kind, const void *s, void *r, size_t n, int type, struct comm *c, void *st, size_t sends, size_t gets) {
    ALIVE;
    if (type != 7 || !st) return 4;
    struct work *w = new_work(c, kind, n);
    if (sends) add_part(w, -1, 0, s, 4 * sends);
    add_part(w, -1, 1, r, 4 * gets);
    return enqueue(w, st);
}
R ncclAllReduce(const void *s, void *r, size_t n, int type, int op, struct comm *c, void *st) {
    return op ? 4 : collective(ALL_REDUCE, s, r, n, type, c, st, n, n);
}
R ncclReduceScatter(const void *s, void *r, size_t n, int type, int op, struct comm *c, void *st) {
    return op ? 4 : collective(REDUCE_SCATTER, s, r, n, type, c, st, n * c->n, n);
}
R ncclAllGather(const void *s, void *r, size_t n, int type, struct comm *c, void *st) {
    return collective(ALL_GATHER, s, r, n, type, c, st, n, n * c->n);
}
R ncclBroadcast(const void *s, void *r, size_t n, int type, int root, struct comm *c, void *st) {
    return root ? 4 : collective(BROADCAST, s, r, n, type, c, st, c->rank ? 0 : n, n);
}

static __thread struct work *grouped;
static __thread void *grouped_on;
static __thread int depth;
static R point(int gets, const void *at, size_t n, int type, int peer, struct comm *c, void *st) {
    ALIVE;
    if (type != 7 || !st || peer < 0 || peer >= c->n) return 4;
    struct work *w = depth && grouped ? grouped : new_work(c, POINT, 0);
    if (w->comm != c || w->parts == 2 * MOST) return 5;
    add_part(w, peer, gets, at, 4 * n);
    w->count += n;
    if (!depth) return enqueue(w, st);
    grouped = w;
    grouped_on = st;
    return 0;
}
R ncclSend(const void *s, size_t n, int type, int peer, struct comm *c, void *st) { return point(0, s, n, type, peer, c, st); }
R ncclRecv(void *r, size_t n, int type, int peer, struct comm *c, void *st) { return point(1, r, n, type, peer, c, st); }
R ncclGroupStart(void) {
    depth++;
    return 0;
}
R ncclGroupEnd(void) {
    if (!depth) return 5;
    if (--depth) return 0;
    struct work *w = grouped;
    grouped = 0;
    return w ? enqueue(w, grouped_on) : 0;
}
