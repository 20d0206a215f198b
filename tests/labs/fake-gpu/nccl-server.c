// Where ranks meet: a thread of the process that made the unique id. It gets what each rank queues, in order, and answers when all that an
// operation needs is there: with what it gives, and the moment at which it ends for all.

struct hello {
    int n;
    struct peer peer;
};
struct welcome {
    Time end;
    uint64_t id;
    int nodes;
    struct peer peers[MOST];
};
struct request {
    uint32_t size;
    int kind, chained, parts;
    Time ready;
    uint64_t count;
};
struct wire_part {
    int peer, gets;
    uint64_t n;
};
struct wire_seg {
    uint64_t at, n, kind, from, p[3];
};
#define BYE 99

static int all(int fd, void *p, size_t n, int writing) {
    for (char *at = p; n;) {
        ssize_t k = writing ? send(fd, at, n, MSG_NOSIGNAL) : recv(fd, at, n, 0);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return 6;
        at += k;
        n -= k;
    }
    return 0;
}
static void out_add(char **out, size_t *n, size_t *cap, const void *p, size_t k) {
    if (*n + k > *cap) *out = realloc(*out, *cap = (*n + k) * 2 + 1024);
    memcpy(*out + *n, p, k);
    *n += k;
}
static void list_to(char **out, size_t *n, size_t *cap, const struct list *l) {
    out_add(out, n, cap, &l->n, 4);
    for (int i = 0; i < l->n; i++) {
        struct seg *s = l->v + i;
        struct wire_seg w = {s->at, s->n, s->kind, s->from, {s->p[0], s->p[1], s->p[2]}};
        if (s->kind == RAW) w.from = 0;
        out_add(out, n, cap, &w, sizeof w);
        if (s->kind == RAW) out_add(out, n, cap, s->raw->bytes + s->from, s->n);
    }
}
static char *list_from(char *p, struct list *l) {
    int n;
    memcpy(&n, p, 4);
    p += 4;
    while (n--) {
        struct wire_seg w;
        memcpy(&w, p, sizeof w);
        p += sizeof w;
        struct seg s = {w.at, w.n, w.kind, w.from, {w.p[0], w.p[1], w.p[2]}};
        if (s.kind == RAW) {
            s.raw = raw_new(p, s.n);
            p += s.n;
        }
        push(l, s);
    }
    return p;
}

struct asked {
    struct request r;
    struct wire_part part[2 * MOST];
    struct list list[2 * MOST];
    struct asked *next;
};
struct rank {
    int fd, bye, eof;
    char *in;
    size_t in_n, in_cap;
    char *out;
    size_t out_n, out_cap;
    struct asked *first, **last;
    Time end;
};
struct server {
    int listener, n;
    struct rank rank[MOST];
    struct welcome w;
};

#include "nccl-model.c"

static Time ready_at(const struct rank *r) {
    Time t = r->first->r.ready;
    return r->first->r.chained && r->end > t ? r->end : t;
}
static void answer(struct server *v, int rank, Time end, struct list *lists, int n) {
    struct rank *r = v->rank + rank;
    size_t begin = r->out_n;
    uint32_t size = 0;
    out_add(&r->out, &r->out_n, &r->out_cap, &size, 4);
    out_add(&r->out, &r->out_n, &r->out_cap, &end, 8);
    for (int i = 0; i < n; i++) list_to(&r->out, &r->out_n, &r->out_cap, lists + i);
    size = r->out_n - begin - 4;
    memcpy(r->out + begin, &size, 4);
    r->end = end;
    struct asked *a = r->first;
    if (!(r->first = a->next)) r->last = &r->first;
    for (int i = 0; i < a->r.parts; i++) clear(a->list + i);
    free(a);
}
static int try_collective(struct server *v) {
    struct list *in[MOST], result[MOST] = {0};
    struct asked *a = v->rank[0].first;
    if (!a || a->r.kind == POINT) return 0;
    Time begin = 0;
    for (int i = 0; i < v->n; i++) {
        struct asked *b = v->rank[i].first;
        // Ranks that call different things wait for ever, as NCCL's do.
        if (!b || b->r.kind != a->r.kind || b->r.count != a->r.count) return 0;
        in[i] = b->list;
        if (ready_at(v->rank + i) > begin) begin = ready_at(v->rank + i);
    }
    enum kind kind = a->r.kind;
    uint64_t bytes = 4 * a->r.count;
    Time end = begin + (Time)(collective_ns(v, kind, a->r.count) * noise(v->w.peers[0].gpu, begin));
    for (int i = 0; i < v->n; i++) {
        if (kind == ALL_REDUCE && i == 0) sum_of(in, v->n, 0, bytes, result);
        else if (kind == REDUCE_SCATTER) sum_of(in, v->n, i * bytes, bytes, result + i);
        else if (kind == BROADCAST && i == 0) slice(in[0], 0, bytes, result, 0);
        else if (kind == ALL_GATHER && i == 0)
            for (int k = 0; k < v->n; k++) slice(in[k], 0, bytes, result, k * bytes);
    }
    for (int i = v->n - 1; i >= 0; i--) answer(v, i, end, result + (kind == REDUCE_SCATTER ? i : 0), 1);
    for (int i = 0; i < v->n; i++) clear(result + i);
    return 1;
}
// The part of rank `to`'s first operation that fits the k-th one of `from` to or from it.
static int counterpart(struct server *v, int from, int part) {
    struct asked *a = v->rank[from].first, *b = v->rank[a->part[part].peer].first;
    int gets = a->part[part].gets, kth = 0;
    for (int i = 0; i < part; i++) kth += a->part[i].peer == a->part[part].peer && a->part[i].gets == gets;
    if (!b || b->r.kind != POINT) return -1;
    for (int i = 0; i < b->r.parts; i++)
        if (b->part[i].peer == from && b->part[i].gets == !gets && !kth--) return b->part[i].n == a->part[part].n ? i : -1;
    return -1;
}
static int try_points(struct server *v, int rank) {
    int with[MOST] = {0}, todo[MOST], n = 0;
    if (!v->rank[rank].first || v->rank[rank].first->r.kind != POINT) return 0;
    with[todo[n++] = rank] = 1;
    Time begin = 0;
    for (int i = 0; i < n; i++) {
        struct asked *a = v->rank[todo[i]].first;
        if (ready_at(v->rank + todo[i]) > begin) begin = ready_at(v->rank + todo[i]);
        for (int k = 0; k < a->r.parts; k++) {
            if (counterpart(v, todo[i], k) < 0) return 0;
            if (!with[a->part[k].peer]) with[todo[n++] = a->part[k].peer] = 1;
        }
    }
    struct list got[MOST][MOST * 2];
    memset(got, 0, sizeof got);
    int gets[MOST] = {0};
    double ns = 0;
    for (int i = 0; i < n; i++) {
        struct asked *a = v->rank[todo[i]].first;
        double own = point_ns(v, todo[i], a);
        if (own > ns) ns = own;
        for (int k = 0; k < a->r.parts; k++)
            if (a->part[k].gets)
                slice(v->rank[a->part[k].peer].first->list + counterpart(v, todo[i], k), 0, a->part[k].n, got[i] + gets[i]++, 0);
    }
    Time end = begin + (Time)(ns * noise(v->w.peers[rank].gpu, begin));
    for (int i = n - 1; i >= 0; i--) answer(v, todo[i], end, got[i], gets[i]);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < gets[i]; k++) clear(got[i] + k);
    return 1;
}
static void parse(struct rank *r) {
    size_t at = 0;
    for (struct request q; r->in_n - at >= sizeof q; at += q.size) {
        memcpy(&q, r->in + at, sizeof q);
        if (r->in_n - at < q.size) break;
        if (q.kind == BYE) {
            r->bye = 1;
            continue;
        }
        struct asked *a = calloc(1, sizeof *a);
        char *p = r->in + at + sizeof q;
        a->r = q;
        for (int i = 0; i < q.parts; i++) {
            memcpy(a->part + i, p, sizeof *a->part);
            p += sizeof *a->part;
            if (!a->part[i].gets) p = list_from(p, a->list + i);
        }
        // Of a collective the list of what is sent comes first.
        *r->last = a;
        r->last = &a->next;
    }
    memmove(r->in, r->in + at, r->in_n -= at);
}
static void *serve(void *arg) {
    struct server *v = arg;
    struct pollfd fds[MOST];
    prctl(PR_SET_NAME, "fake-nccl");
    v->n = 1;
    Time last = 0;
    for (int k = 0; k < v->n; k++) {
        struct hello h;
        int fd = accept4(v->listener, 0, 0, SOCK_CLOEXEC), on = 1;
        if (fd < 0 || all(fd, &h, sizeof h, 0) || h.n < 1 || h.n > MOST || h.peer.rank < 0 || h.peer.rank >= h.n ||
            v->rank[h.peer.rank].fd) {
            close(fd);
            k--;
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        v->n = h.n;
        v->rank[h.peer.rank].fd = fd;
        v->rank[h.peer.rank].last = &v->rank[h.peer.rank].first;
        v->w.peers[h.peer.rank] = h.peer;
        last = now();
    }
    close(v->listener);
    // A node: its name, and for one that has none the how many-th process of a GPU this is.
    for (int i = 0; i < v->n; i++) {
        struct peer *p = v->w.peers + i;
        int times = 0;
        p->place = -1;
        for (int k = 0; k < i; k++) times += v->w.peers[k].gpu == p->gpu && !strcmp(v->w.peers[k].node, p->node);
        for (int k = 0; k < i && p->place < 0; k++) {
            int other = 0;
            for (int j = 0; j < k; j++) other += v->w.peers[j].gpu == v->w.peers[k].gpu && !strcmp(v->w.peers[j].node, v->w.peers[k].node);
            if (other == times && !strcmp(v->w.peers[k].node, p->node)) p->place = v->w.peers[k].place;
        }
        if (p->place < 0) p->place = v->w.nodes++;
    }
    // 0.8 s and more for a node of eight; before 2.22 everything is connected now.
    double share = (double)v->n / v->w.nodes / machine()->gpus;
    double ms = machine()->communicator * (0.4 + 0.6 * share) + 200 * (v->w.nodes > 1) * !machine()->bare +
                (version() < 22200 ? machine()->connect : 0);
    v->w.end = last + (Time)(ms * 1e6);
    v->w.id = mix(last);
    for (int i = v->n - 1; i >= 0; i--) all(v->rank[i].fd, &v->w, sizeof v->w, 1);
    for (int open = 1; open;) {
        for (int i = 0; i < v->n; i++) fds[i] = (struct pollfd){v->rank[i].eof ? -1 : v->rank[i].fd, POLLIN};
        if (poll(fds, v->n, -1) < 0) continue;
        open = 0;
        for (int i = 0; i < v->n; i++) {
            struct rank *r = v->rank + i;
            if (fds[i].revents) {
                if (r->in_cap - r->in_n < 65536) r->in = realloc(r->in, r->in_cap = r->in_cap * 2 + 131072);
                ssize_t k = recv(r->fd, r->in + r->in_n, r->in_cap - r->in_n, MSG_DONTWAIT);
                if (k > 0) {
                    r->in_n += k;
                    parse(r);
                } else if (k == 0 || errno != EAGAIN && errno != EINTR) r->eof = 1;
            }
            // One died: all the others learn it.
            if (r->eof && !r->bye) goto end;
            open |= !r->eof;
        }
        for (int more = 1; more;) {
            more = try_collective(v);
            for (int i = 0; i < v->n; i++) more |= try_points(v, i);
        }
        // The first rank's process may end with its last answer.
        for (int i = v->n - 1; i >= 0; i--)
            if (v->rank[i].out_n) {
                all(v->rank[i].fd, v->rank[i].out, v->rank[i].out_n, 1);
                v->rank[i].out_n = 0;
            }
    }
end:
    for (int i = 0; i < v->n; i++) {
        shutdown(v->rank[i].fd, SHUT_RDWR);
        close(v->rank[i].fd);
        free(v->rank[i].in);
        free(v->rank[i].out);
    }
    free(v);
    return 0;
}
static void start(void *(*run)(void *), void *arg);
static R server_start(Id *id) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t l = sizeof a;
    struct server *v = calloc(1, sizeof *v);
    v->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(v->listener, (void *)&a, l) || listen(v->listener, MOST) || getsockname(v->listener, (void *)&a, &l)) {
        close(v->listener);
        free(v);
        return 2;
    }
    memset(id, 0, sizeof *id);
    memcpy(id, &a, sizeof a);
    start(serve, v);
    return 0;
}
