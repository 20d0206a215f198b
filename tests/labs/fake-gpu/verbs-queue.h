// Work queues: when a message arrives by the timeline, what is copied, and what completes.
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/uio.h>

enum { INLINE_MOST = 256, AT_ONCE = 8192, DEEP = 8, MESSAGES_UNTIL_ERROR = 100 };
// Link to link through one switch, and the acknowledgement's way back (perftest on NDR: 0.9 to 1.0 us a write, 1.9 us a read).
static const int64_t ONE_WAY = 800, BACK = 500, MESSAGE = 60;
// Payload of what the link carries: 4096 of 4096 + 30 bytes of headers, and what flow control leaves.
static const double PAYLOAD = 0.985;
// A program that the machine's other load kept from posting in time does not slow the adapter down, for so long.
static const int64_t LATE = 100000000, SMOOTH = 70000;

struct device { struct ibv_device ibv; };
struct context { struct ibv_context ibv; struct lane *lane; int lane_index; double rate; int wrong, error, hang; };
struct work {
    uint64_t id, from, to;
    int64_t arrives, completes, paced, until;
    uint32_t bytes, lkey, rkey;
    int op, signaled, is_inline, status;
    uint8_t data[INLINE_MOST];
};
struct qp {
    struct ibv_qp ibv;
    struct context *context;
    struct end *own;
    struct ibv_qp_cap cap;
    struct ibv_ah_attr path;
    uint32_t dest;
    int timeout, retries, all_signaled, deep, fresh, crowded, crowd;
    // Retired before `head`, executed before `next`, posted before `tail`.
    uint32_t head, next, tail;
    int64_t polled, copied, copy_took, alone, pace;
    uint64_t executed;
    pthread_t thread;
    struct work ring[ROOM];
    struct qp *after;
};
struct cq { struct ibv_cq ibv; struct ibv_wc *ring; uint32_t size, head, tail, empty, slept, last; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work_left = PTHREAD_COND_INITIALIZER;
static struct qp *all;
static int armed, engine_runs;

// Bytes between this process's memory and the peer's, or its own. A wrong adapter changes a bit of them on the way.
static int copy(int out, uint64_t here, int pid, uint64_t there, size_t n, int wrong) {
    struct iovec local = {(void *)here, n}, remote = {(void *)there, n};
    uint8_t bit;
    if (!n) return 0;
    if ((out ? process_vm_writev : process_vm_readv)(pid, &local, 1, &remote, 1, 0) != (ssize_t)n) return -1;
    if (!wrong) return 0;
    if (!out) return ((uint8_t *)here)[n / 2] ^= 4, 0;
    bit = ((uint8_t *)here)[n / 2] ^ 4;
    local = (struct iovec){&bit, 1}, remote = (struct iovec){(void *)(there + n / 2), 1};
    return process_vm_writev(pid, &local, 1, &remote, 1, 0) == 1 ? 0 : -1;
}

static void complete(struct qp *q, struct work *w, int status) {
    struct cq *c = (struct cq *)q->ibv.send_cq;
    if (c->tail - c->head >= c->size) return;
    struct ibv_wc *wc = &c->ring[c->tail++ % c->size];
    memset(wc, 0, sizeof *wc);
    wc->wr_id = w->id, wc->status = status, wc->byte_len = w->bytes, wc->qp_num = q->ibv.qp_num;
    wc->opcode = w->op == OP_SEND ? WC_SEND : w->op == OP_READ ? WC_READ : WC_WRITE;
    wc->vendor_err = status == RETRIES ? 0x81 : status == REMOTE_ACCESS ? 0x88 : 0;
}

// Times that this thread gave its core away of its own will: a gap in which it did so is its program's, any other is the machine's.
static __thread long switches;
static long switched(void) {
    struct rusage r;
    getrusage(RUSAGE_THREAD, &r);
    return r.ru_nvcsw;
}

// Whether the program posts as soon as it can. A gap since it last polled may be other programs' time on this core.
static int keeps_on(struct qp *q, int64_t t) {
    if (t - q->polled < 50000) return 1;
    long is = switched(), was = switches;
    switches = is;
    return is == was;
}

// Reserves both lanes for a message, and says when its last byte arrives. Who kept its queue full may have been late.
static int64_t reserve(struct qp *q, struct lane *from, struct lane *to, uint32_t bytes, int64_t t, int64_t *paced) {
    int64_t cost = bytes / q->context->rate, floor = q->deep ? t - LATE : t;
    // Both ways together must not seem to exceed what two ways can: checks hold that against physics.
    int both = from != to && from->in > t - 5000000;
    *paced = cost / (both ? 1.01 : 1.15);
    if (cost < MESSAGE) cost = MESSAGE;
    int64_t free = from->out, start;
    do start = free > floor ? free : floor; while (!atomic_compare_exchange_weak(&from->out, &free, start + cost));
    free = to->in;
    int64_t lands;
    do lands = free > start ? free : start; while (!atomic_compare_exchange_weak(&to->in, &free, lands + cost));
    return lands + cost;
}

static struct end *peer_of(struct qp *q) {
    struct end *e = end_of(q->dest);
    if (!e || e->peer != q->ibv.qp_num || q->context->lane->down) return 0;
    struct lane *l = &fabric->lanes[e->lane];
    int there = q->path.is_global ? !memcmp(l->gid, q->path.dgid, 16) : l->lid == q->path.dlid;
    return there && !l->down ? e : 0;
}

static int holds(struct key *k, uint64_t addr, uint64_t n, int access) {
    return k && (k->access & access) == access && addr >= k->addr && addr - k->addr <= k->length && n <= k->length - (addr - k->addr);
}

static uint64_t real(struct key *k, uint64_t addr) { return k->real + (addr - k->addr); }

// Whether what is already posted overwrites all that this message would write.
static int overwritten(struct qp *q, struct work *w, struct end *e) {
    if (q->next + 1 == q->tail) return 0;
    struct work *n = &q->ring[(q->next + 1) % ROOM];
    if (n->op != w->op || n->bytes != w->bytes) return 0;
    if (w->op == OP_READ) return n->from == w->from;
    if (w->op == OP_WRITE) return n->to == w->to && n->rkey == w->rkey;
    uint32_t at = e->taken;
    return e->posted - at > 1 && e->rooms[at % ROOM].addr == e->rooms[(at + 1) % ROOM].addr;
}

// The next message of a queue: its status, or -1 while the peer is not ready for it.
static int execute(struct qp *q, struct work *w, int64_t t) {
    struct end *e = peer_of(q);
    struct key *local = key_of(w->lkey), *remote;
    struct room *room = 0;
    int send = w->op == OP_SEND, read = w->op == OP_READ;
    if (q->context->error && ++q->executed > MESSAGES_UNTIL_ERROR) e = 0;
    if (!e) return -1;
    if (!w->is_inline && !holds(local, w->from, w->bytes, read ? LOCAL_WRITE : 0)) return LOCAL_PROTECTION;
    if (send) {
        if (e->posted == e->taken) return -1; // until it makes room, as with rnr_retry 7
        room = &e->rooms[e->taken % ROOM];
        if (room->bytes < w->bytes) return REMOTE_INVALID;
    }
    uint64_t to = send ? room->addr : w->to;
    remote = key_of(send ? room->lkey : w->rkey);
    if (!holds(remote, to, w->bytes, send ? LOCAL_WRITE : read ? REMOTE_READ : REMOTE_WRITE)) return send ? REMOTE_OPERATION : REMOTE_ACCESS;
    if (!overwritten(q, w, e) || t - q->copied > 100 * q->copy_took) {
        uint64_t here = w->is_inline ? (uint64_t)w->data : real(local, w->from);
        int64_t start = now();
        if (copy(!read, here, remote->pid, real(remote, to), w->bytes, q->context->wrong && w->bytes > 64)) {
            static int told;
            if (!told++) fprintf(stderr, "stand-in verbs: cannot reach the memory of process %d: %s\n", remote->pid, strerror(errno));
            return REMOTE_OPERATION;
        }
        q->copied = now(), q->copy_took = q->copied - start;
    }
    if (send) {
        e->came[e->arrived % ROOM] = (struct came){room->id, w->arrives, w->bytes, OK};
        e->taken++;
        e->arrived++;
    }
    return OK;
}

// What a broken queue pair still holds comes back as flushed.
static void broken(struct qp *q) {
    q->ibv.state = ERR;
    for (; q->head != q->tail; q->head++) complete(q, &q->ring[q->head % ROOM], FLUSHED);
    q->next = q->head;
    for (struct end *e = q->own; e->taken != e->posted; e->taken++) {
        e->came[e->arrived % ROOM] = (struct came){e->rooms[e->taken % ROOM].id, 0, 0, FLUSHED};
        e->arrived++;
    }
}

static void tell_peer(struct qp *q) {
    struct end *e = end_of(q->dest);
    if (e) ring(e->door);
}

// `more`: the program is likely to post another at once, that overwrites the last.
static void progress(struct qp *q, int64_t t, int more) {
    if (q->context->hang) return;
    uint32_t before = q->next;
    for (; q->next != q->tail && q->ring[q->next % ROOM].arrives <= t; q->next++) {
        if (more && q->next + 1 == q->tail) break;
        struct work *w = &q->ring[q->next % ROOM];
        int status = execute(q, w, t);
        if (status < 0) {
            // Retried for as long as the queue pair says; for room, for ever.
            int waits = peer_of(q) && !(q->context->error && q->executed > MESSAGES_UNTIL_ERROR);
            if (!w->until || waits) w->until = t + (4096ll << q->timeout) * (q->retries + 1);
            if (waits || t < w->until) break;
            sys_count(q->context->ibv.device->name, "hw_counters/local_ack_timeout_err", q->retries + 1);
            status = RETRIES;
        }
        if (w->until && w->completes < t) w->completes = t;
        w->status = status;
    }
    if (q->next != before) tell_peer(q);
    // What was late is caught up on a little faster than the rate, not at once: a block of messages is to look like one. An adapter
    // whose program had no core has done what was outstanding, and no more.
    int64_t undone = q->head != q->tail ? (int64_t)(q->tail - q->head) * q->ring[q->head % ROOM].paced : 0, most = undone < SMOOTH ? undone : SMOOTH;
    if (q->pace < t - most) q->pace = t - most;
    for (; q->head != q->next && q->ring[q->head % ROOM].completes <= t && q->pace <= t; q->head++) {
        struct work *w = &q->ring[q->head % ROOM];
        q->pace += w->paced;
        if (w->status || w->signaled) complete(q, w, w->status);
        if (w->status) { q->head++; broken(q); return; }
    }
}

// Moves on what nobody polls for: a peer may wait for it by looking at its memory.
static void *engine(void *unused) {
    pthread_mutex_lock(&lock);
    for (;;) {
        int64_t t = now();
        armed = 0;
        for (struct qp *q = all; q; q = q->after) { progress(q, t, t - q->polled < 1000000); armed |= q->next != q->tail; }
        if (!armed) { pthread_cond_wait(&work_left, &lock); continue; }
        pthread_mutex_unlock(&lock);
        pause_ns(1000000);
        pthread_mutex_lock(&lock);
    }
    return 0;
}

static int post_send(struct ibv_qp *of, struct ibv_send_wr *wr, struct ibv_send_wr **bad) {
    struct qp *q = (struct qp *)of;
    int rc = 0, crowded = 0;
    uint32_t rung = fabric->doors[own_door()].rung;
    pthread_mutex_lock(&lock);
    int64_t t = now();
    progress(q, t, q->deep);
    q->fresh = 1;
    if (q->deep && !keeps_on(q, t)) q->deep = 0;
    for (; wr && !rc; wr = wr->next) {
        struct ibv_sge none = {0}, *s = wr->num_sge ? wr->sg_list : &none;
        int is_inline = wr->send_flags & INLINE && wr->opcode != OP_READ;
        *bad = wr;
        if (q->tail - q->head >= q->cap.max_send_wr) { rc = ENOMEM; break; }
        if (q->ibv.state < RTS || wr->num_sge > 1 || (wr->opcode != OP_WRITE && wr->opcode != OP_SEND && wr->opcode != OP_READ)
            || (is_inline && s->length > q->cap.max_inline_data)) { rc = EINVAL; break; }
        struct work *w = &q->ring[q->tail % ROOM];
        w->id = wr->wr_id, w->from = s->addr, w->bytes = s->length, w->lkey = s->lkey, w->to = wr->remote_addr, w->rkey = wr->rkey;
        w->op = wr->opcode, w->signaled = q->all_signaled || wr->send_flags & SIGNALED, w->is_inline = is_inline, w->status = 0, w->until = 0;
        if (is_inline) memcpy(w->data, (void *)s->addr, s->length);
        q->tail++;
        if (q->ibv.state == ERR) { broken(q); continue; }
        struct end *e = end_of(q->dest);
        struct lane *own = q->context->lane, *other = e ? &fabric->lanes[e->lane] : own;
        int read = w->op == OP_READ;
        int64_t lands = reserve(q, read ? other : own, read ? own : other, w->bytes, t, &w->paced);
        w->arrives = lands + ONE_WAY + (read ? ONE_WAY : 0), w->completes = read ? w->arrives : w->arrives + BACK;
        if (q->tail - q->head >= DEEP) q->deep = 1;
        // Nobody may poll for a short message that is alone: its peer looks for it. The copy takes the rest of its way.
        if (!q->deep && w->bytes <= AT_ONCE && q->next + 1 == q->tail && !q->context->hang) {
            while (w->op == OP_WRITE && now() < w->arrives - 500) ;
            int status = execute(q, w, t);
            if (status >= 0) w->status = status, q->next++, tell_peer(q);
            // An answer that took so long came from a peer without a core. For a while the caller sleeps until the next is there:
            // who sleeps is woken at once, who spins takes the peer's core.
            if (w->op != OP_WRITE) q->crowded = 0; // who sends or reads asks for completions, and sleeps there
            else if (t - q->alone > 300000 && t - q->alone < 1000000000) q->crowded = q->crowd = q->crowd < 16 ? 16 : q->crowd < 512 ? 2 * q->crowd : 512;
            else if (q->crowded) q->crowded--;
            else q->crowd = 0;
            crowded = q->crowded;
            q->alone = t;
        }
        if (q->next != q->tail && !armed) armed = 1, pthread_cond_signal(&work_left);
    }
    pthread_mutex_unlock(&lock);
    if (crowded) wait_at_door(rung, 20000000);
    return rc;
}

static int post_recv(struct ibv_qp *of, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad) {
    struct qp *q = (struct qp *)of;
    struct end *e = q->own;
    int rc = 0;
    pthread_mutex_lock(&lock);
    for (; wr; wr = wr->next) {
        *bad = wr;
        if (e->posted - e->polled >= q->cap.max_recv_wr) { rc = ENOMEM; break; }
        if (wr->num_sge > 1) { rc = EINVAL; break; }
        struct ibv_sge none = {0}, *s = wr->num_sge ? wr->sg_list : &none;
        e->rooms[e->posted % ROOM] = (struct room){wr->wr_id, s->addr, s->length, s->lkey};
        e->posted++;
        if (q->ibv.state == ERR) broken(q);
    }
    // A peer that waits for room is told when there is some, not at each message.
    struct end *from = end_of(e->peer);
    if (from && e->posted - e->taken == 16) ring(from->door);
    pthread_mutex_unlock(&lock);
    return rc;
}

static int received(struct qp *q, int n, struct ibv_wc *wc, int64_t t) {
    struct end *e = q->own;
    int got = 0;
    for (; got < n && e->polled != e->arrived; got++, e->polled++) {
        struct came *c = &e->came[e->polled % ROOM];
        if (c->at > t) break;
        memset(&wc[got], 0, sizeof *wc);
        wc[got].wr_id = c->id, wc[got].status = c->status, wc[got].opcode = WC_RECV, wc[got].byte_len = c->bytes;
        wc[got].qp_num = q->ibv.qp_num, wc[got].src_qp = q->dest;
    }
    return got;
}

// Whoever looks in vain gives its core away: until most of what is outstanding is due, or until somebody rings. By sleeping, for who
// spins or yields on a busy machine waits for others' whole time slices. Only who waits for one answer spins a little, as long as that
// is of use.
static void rest(struct cq *c, int64_t due, uint32_t rung) {
    static __thread int sharp;
    uint32_t spins = c->last > 2 ? 20 : c->slept % 16 ? 50 : 1000;
    if (!sharp++) prctl(PR_SET_TIMERSLACK, 1000ul);
    if (due > 0 && due <= 20000) return;
    if (due <= 0 && ++c->empty < spins) return;
    if (due <= 0 && c->empty == spins) c->slept++;
    if (due > 0) pause_ns(due < 300000 ? due : 300000);
    else wait_at_door(rung, c->empty < 4000 ? 50000 : 200000);
    switches = switched();
}

static int poll_cq(struct ibv_cq *of, int n, struct ibv_wc *wc) {
    struct cq *c = (struct cq *)of;
    int got = 0, fresh = 0, others;
    int64_t due = 0;
    uint32_t rung = fabric->doors[own_door()].rung;
    pthread_mutex_lock(&lock);
    int64_t t = now();
    for (struct qp *q = all; q; q = q->after) {
        int own = q->ibv.send_cq == of;
        if (own) progress(q, t, q->deep && q->fresh), q->polled = t, q->thread = pthread_self();
        if (q->ibv.recv_cq == of) got += received(q, n - got, wc + got, t);
        // A thread that drives several adapters sleeps only when none of them has anything for it, nor may get anything from it.
        if (!own && !pthread_equal(q->thread, pthread_self())) continue;
        fresh |= q->fresh || q->own->polled != q->own->arrived;
        if (own) q->fresh = 0;
        if (q->head == q->tail) continue;
        int64_t most = q->ring[(q->head + (q->tail - q->head - 1) / 3) % ROOM].completes - t;
        if (most < q->pace - t) most = q->pace - t;
        if (!own && most <= 0) fresh = 1;
        if (q->deep && most < 50000) most = 50000;
        if (!due || most < due) due = most ? most : -1;
    }
    others = got;
    for (; got < n && c->head != c->tail; c->head++) wc[got++] = c->ring[c->head % c->size];
    pthread_mutex_unlock(&lock);
    if (!got) {
        if (!fresh) rest(c, due, rung); // else it may have more to post, or something is about to arrive
        return 0;
    }
    if (others) {
        if (c->empty < 50) c->slept -= c->slept % 16;
        c->empty = 0;
    }
    c->last = got;
    return got;
}

static int req_notify_cq(struct ibv_cq *c, int solicited) { return ENOSYS; }
