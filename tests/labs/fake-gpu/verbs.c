// A libibverbs.so.1 that stands in for adapters on a machine without any: reliable connections between processes of one machine.
//   cc -shared -fPIC -O2 -o libibverbs.so.1 verbs.c -lpthread
//
// Devices are those of /sys/class/infiniband whose node_desc says `stand-in` (tests/labs/fake-gpu/enter makes such a /sys), with the
// rate that is written there. Payload truly arrives; when, a timeline says: a message takes its bytes over the rate on the sender's lane
// and on the receiver's. NOTHING IS MEASURED: rates and latencies of it are the timeline's, and what this machine's cores add.
//
// Bytes at 50 GB/s cannot be moved here. A message that a later one, already posted, will overwrite whole need not arrive: it is
// counted and not copied, save one now and then. What a program finds in its memory when its queues are empty is what was sent.
//
// FAKE_FAULT, several parted by commas: rdma-slow:DEV:SHARE of the rate; rdma-wrong:DEV changes a bit of what it sends or reads;
// rdma-error:DEV ends each connection after 100 messages with status 12; rdma-hang:DEV completes nothing. (rdma-down:DEV is the
// machine's: enter writes it into /sys.) no-peermem:all lets no address of a GPU be registered but by dma-buf.
#define _GNU_SOURCE
#include <dirent.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "verbs-abi.h"
#include "verbs-fabric.h"
#include "verbs-copy.h"

enum { INLINE_MOST = 256, AT_ONCE = 8192, DEEP = 8, MESSAGES_UNTIL_ERROR = 100 };
// Link to link through one switch, and the acknowledgement's way back (perftest on NDR: 0.9 to 1.0 us a write, 1.9 us a read).
static const int64_t ONE_WAY = 800, BACK = 500, MESSAGE = 60;
// Payload of what the link carries: 4096 of 4096 + 30 bytes of headers, and what flow control leaves.
static const double PAYLOAD = 0.985;
// A program that the machine's other load kept from posting in time does not slow the adapter down, for so long.
static const int64_t LATE = 100000000, SMOOTH = 200000;

struct device { struct ibv_device ibv; };
struct context { struct ibv_context ibv; struct lane *lane; int lane_index; double rate; int wrong, error, hang; };
struct work {
    uint64_t id, from, to;
    int64_t arrives, completes, until;
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
    struct work ring[ROOM];
    struct qp *after;
};
struct cq { struct ibv_cq ibv; struct ibv_wc *ring; uint32_t size, head, tail, empty, slept; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work_left = PTHREAD_COND_INITIALIZER;
static struct qp *all;
static int armed, engine_runs;

// The number after `name:DEV:` in FAKE_FAULT, 1 where there is none; 0 without this fault.
static double fault(const char *name, const char *device) {
    char text[1024], *rest, *kind, *of, *value, *save;
    snprintf(text, sizeof text, "%s", getenv("FAKE_FAULT") ?: "");
    for (rest = text; (kind = strtok_r(rest, ", ", &save)); rest = 0) {
        if (!(of = strchr(kind, ':'))) continue;
        *of++ = 0;
        if ((value = strchr(of, ':'))) *value++ = 0;
        if (!strcmp(kind, name) && !strcmp(of, device)) return value ? atof(value) : 1;
    }
    return 0;
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
static int64_t reserve(struct qp *q, struct lane *from, struct lane *to, uint32_t bytes, int64_t t) {
    int64_t cost = bytes / q->context->rate, floor = q->deep ? t - LATE : t;
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
        struct place here = {getpid(), !w->is_inline && local->gpu, w->is_inline ? (uint64_t)w->data : w->from}, there = {remote->pid, remote->gpu, to};
        int64_t start = now();
        if (copy(read ? there : here, read ? here : there, w->bytes, q->context->wrong && w->bytes > 64)) {
            static int told;
            if (!told++) fprintf(stderr, "stand-in verbs: cannot reach the memory of process %d: %s\n", there.pid, strerror(errno));
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
    // What was late is caught up on at half the rate more, not all at once: a block of messages is to look like one.
    if (q->pace < t - SMOOTH) q->pace = t - SMOOTH;
    for (; q->head != q->next && q->ring[q->head % ROOM].completes <= t && q->pace <= t; q->head++) {
        struct work *w = &q->ring[q->head % ROOM];
        q->pace += w->bytes / q->context->rate / 1.5;
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
        int64_t lands = reserve(q, read ? other : own, read ? own : other, w->bytes, t);
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

// Whoever looks in vain gives its core away: until half of what is outstanding is due, or until somebody rings. By sleeping, for who
// yields to a busy machine waits for its whole time slices; and sooner where spinning was of no use the last times.
static void rest(struct cq *c, int64_t due, uint32_t rung) {
    static __thread int sharp;
    int spins = c->slept % 16 ? 50 : 1000;
    if (!sharp++) prctl(PR_SET_TIMERSLACK, 1000ul);
    if (++c->empty < spins && due <= 40000) return;
    if (due > 40000) pause_ns(due < 500000 ? due : 500000);
    else if (c->empty == spins) c->slept++, wait_at_door(rung, 50000);
    else if (c->empty > spins) wait_at_door(rung, c->empty < 4000 ? 50000 : 200000);
    switches = switched();
}

static int poll_cq(struct ibv_cq *of, int n, struct ibv_wc *wc) {
    struct cq *c = (struct cq *)of;
    int got = 0;
    int64_t due = 0;
    uint32_t rung = fabric->doors[own_door()].rung;
    pthread_mutex_lock(&lock);
    int64_t t = now();
    for (struct qp *q = all; q; q = q->after) {
        if (q->ibv.send_cq == of) {
            progress(q, t, q->deep && q->fresh);
            q->polled = t;
            q->fresh = 0;
            if (q->head != q->tail) {
                int64_t half = q->ring[(q->head + (q->tail - q->head - 1) / 2) % ROOM].completes - t;
                if (half < q->pace - t) half = q->pace - t;
                if (!due || half < due) due = half;
            }
        }
        if (q->ibv.recv_cq == of) got += received(q, n - got, wc + got, t);
    }
    for (; got < n && c->head != c->tail; c->head++) wc[got++] = c->ring[c->head % c->size];
    pthread_mutex_unlock(&lock);
    if (!got) { rest(c, due, rung); return 0; }
    if (c->empty < 50) c->slept -= c->slept % 16;
    c->empty = 0;
    return got;
}

static int req_notify_cq(struct ibv_cq *c, int solicited) { return ENOSYS; }

static int is_stand_in(const char *name) {
    char text[128];
    return strstr(sys_read(name, "node_desc", text, sizeof text), "stand-in") != 0;
}

static int by_name(const struct dirent **a, const struct dirent **b) { return strverscmp((*a)->d_name, (*b)->d_name); }

struct ibv_device **ibv_get_device_list(int *count) {
    struct dirent **names;
    int n = scandir("/sys/class/infiniband", &names, 0, by_name), found = 0;
    if (count) *count = 0;
    struct ibv_device **list = calloc(n > 0 ? n + 1 : 1, sizeof *list);
    for (int i = 0; i < n; i++) {
        if (*names[i]->d_name != '.' && is_stand_in(names[i]->d_name)) {
            struct device *d = calloc(1, sizeof *d);
            d->ibv.node_type = 1; // a channel adapter
            snprintf(d->ibv.name, sizeof d->ibv.name, "%.63s", names[i]->d_name);
            snprintf(d->ibv.dev_name, sizeof d->ibv.dev_name, "uverbs%d", found);
            snprintf(d->ibv.dev_path, sizeof d->ibv.dev_path, "/sys/class/infiniband_verbs/uverbs%d", found);
            snprintf(d->ibv.ibdev_path, sizeof d->ibv.ibdev_path, "/sys/class/infiniband/%s", d->ibv.name);
            list[found++] = &d->ibv;
        }
        free(names[i]);
    }
    if (n >= 0) free(names);
    if (count) *count = found;
    return list;
}

// Devices that are open outlive their list; a few hundred bytes are not worth a count of users.
void ibv_free_device_list(struct ibv_device **list) { free(list); }
const char *ibv_get_device_name(struct ibv_device *d) { return d->name; }
uint64_t ibv_get_device_guid(struct ibv_device *d) { return sys_guid(d->name, "node_guid"); }

static void look_at_port(struct context *c) {
    char text[64];
    const char *name = c->ibv.device->name;
    c->lane->lid = strtol(sys_read(name, "ports/1/lid", text, sizeof text), 0, 16);
    sys_gid(name, 0, c->lane->gid);
    c->lane->down = atoi(sys_read(name, "ports/1/state", text, sizeof text)) != 4;
}

struct ibv_context *ibv_open_device(struct ibv_device *d) {
    char text[64], name[96];
    struct context *c = calloc(1, sizeof *c);
    if (!c || fabric_open()) { free(c); return 0; }
    pause_ns(20000000 + now() % 40000000); // the driver maps its doorbells: 20 to 60 ms
    snprintf(name, sizeof name, "%s:%s", getenv("FAKE_NODE") ?: "0", d->name);
    if ((c->lane_index = lane_of(name)) < 0) { free(c); errno = ENOMEM; return 0; }
    c->lane = &fabric->lanes[c->lane_index];
    c->ibv.device = d, c->ibv.cmd_fd = c->ibv.async_fd = -1, c->ibv.num_comp_vectors = 1;
    c->ibv.ops.poll_cq = poll_cq, c->ibv.ops.req_notify_cq = req_notify_cq, c->ibv.ops.post_send = post_send, c->ibv.ops.post_recv = post_recv;
    c->rate = atof(sys_read(d->name, "ports/1/rate", text, sizeof text)) / 8 * PAYLOAD;
    if (fault("rdma-slow", d->name) > 0) c->rate *= fault("rdma-slow", d->name);
    if (!(c->rate > 0)) c->rate = 1e-3;
    c->wrong = fault("rdma-wrong", d->name) > 0, c->error = fault("rdma-error", d->name) > 0, c->hang = fault("rdma-hang", d->name) > 0;
    look_at_port(c);
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY); // its peers reach into its memory, as an adapter would
    return &c->ibv;
}

int ibv_close_device(struct ibv_context *c) { free(c); return 0; }

int ibv_query_device(struct ibv_context *c, struct ibv_device_attr *a) {
    memset(a, 0, sizeof *a);
    sys_read(c->device->name, "fw_ver", a->fw_ver, sizeof a->fw_ver);
    a->node_guid = a->sys_image_guid = ibv_get_device_guid(c->device);
    a->max_mr_size = ~0ull, a->page_size_cap = ~0xfffull, a->vendor_id = 0x2c9;
    a->max_qp = ENDS, a->max_qp_wr = ROOM, a->max_sge = a->max_sge_rd = 1, a->max_cq = 1 << 16, a->max_cqe = 1 << 22, a->max_mr = KEYS, a->max_pd = 1 << 16;
    a->max_qp_rd_atom = a->max_qp_init_rd_atom = 16, a->max_pkeys = 128, a->local_ca_ack_delay = 16, a->phys_port_cnt = 1;
    return 0;
}

int ibv_query_port(struct ibv_context *of, uint8_t port, struct ibv_port_attr *a) {
    struct context *c = (struct context *)of;
    char text[64];
    const char *name = of->device->name;
    if (port != 1) return EINVAL;
    memset(a, 0, sizeof *a);
    look_at_port(c);
    a->state = atoi(sys_read(name, "ports/1/state", text, sizeof text)), a->phys_state = atoi(sys_read(name, "ports/1/phys_state", text, sizeof text));
    a->max_mtu = a->active_mtu = 5, a->gid_tbl_len = 16, a->max_msg_sz = 1u << 30, a->pkey_tbl_len = 128;
    a->lid = c->lane->lid, a->sm_lid = strtol(sys_read(name, "ports/1/sm_lid", text, sizeof text), 0, 16);
    int gbps = atoi(sys_read(name, "ports/1/rate", text, sizeof text));
    a->active_width = 2, a->active_speed = gbps >= 400 ? 128 : gbps >= 200 ? 64 : 32; // 4X; NDR, HDR, EDR
    a->link_layer = strcmp(sys_read(name, "ports/1/link_layer", text, sizeof text), "Ethernet") ? 1 : 2;
    return 0;
}

int ibv_query_gid(struct ibv_context *c, uint8_t port, int index, uint64_t gid[2]) {
    if (port != 1 || sys_gid(c->device->name, index, gid)) { errno = EINVAL; return -1; }
    return 0;
}

int ibv_query_pkey(struct ibv_context *c, uint8_t port, int index, uint16_t *pkey) { *pkey = index ? 0 : 0xffff; return 0; }

struct ibv_pd *ibv_alloc_pd(struct ibv_context *c) {
    struct ibv_pd *p = calloc(1, sizeof *p);
    if (p) p->context = c;
    return p;
}
int ibv_dealloc_pd(struct ibv_pd *p) { free(p); return 0; }

static struct ibv_mr *register_memory(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova, int access, int gpu) {
    struct ibv_mr *m = calloc(1, sizeof *m);
    struct key *k = m ? key_new(iova, length, access, gpu) : 0;
    if (!k) { free(m); return 0; }
    if (gpu) office_open();
    pause_ns(40000 + (int64_t)(length >> 12) * 100); // pages are pinned one by one
    *m = (struct ibv_mr){pd->context, pd, addr, length, k->value, k->value, k->value};
    return m;
}

// Memory that the kernel does not know is a GPU's, or nothing: of a GPU's it hears through nvidia_peermem only.
static struct ibv_mr *register_here(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova, int access) {
    uint64_t page = (uint64_t)addr & ~4095ull;
    unsigned char *seen = malloc(((uint64_t)addr + length - page + 4095) / 4096 + 1);
    int gpu = gpu_has((uint64_t)addr), mapped = seen && !mincore((void *)page, (uint64_t)addr + length - page, seen);
    free(seen);
    if (gpu ? fault("no-peermem", "all") > 0 : !mapped) { errno = EFAULT; return 0; }
    if (!gpu && iova != (uint64_t)addr) { errno = ENOTSUP; return 0; }
    return register_memory(pd, addr, length, iova, access, gpu);
}

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access) { return register_here(pd, addr, length, (uint64_t)addr, access); }
struct ibv_mr *ibv_reg_mr_iova(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova, int access) { return register_here(pd, addr, length, iova, access); }
struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova, unsigned access) { return register_here(pd, addr, length, iova, access); }

// By the descriptor that CUDA's stand-in exported; the memory itself is found by its address, which callers give as iova.
struct ibv_mr *ibv_reg_dmabuf_mr(struct ibv_pd *pd, uint64_t offset, size_t length, uint64_t iova, int fd, int access) {
    if (fcntl(fd, F_GETFD) < 0) { errno = EBADF; return 0; }
    int gpu = gpu_has(iova);
    if (!gpu) return register_here(pd, (void *)iova, length, iova, access);
    return register_memory(pd, (void *)iova, length, iova, access, 1);
}

int ibv_dereg_mr(struct ibv_mr *m) {
    struct key *k = key_of(m->lkey);
    if (k) k->value = 0;
    free(m);
    return 0;
}

struct ibv_cq *ibv_create_cq(struct ibv_context *x, int entries, void *cookie, void *channel, int vector) {
    struct cq *c = calloc(1, sizeof *c);
    if (channel || entries < 1 || entries > 1 << 22) { free(c); errno = EINVAL; return 0; }
    if (!c || !(c->ring = calloc(entries, sizeof *c->ring))) { free(c); return 0; }
    c->ibv.context = x, c->ibv.cq_context = cookie, c->ibv.cqe = entries, c->size = entries;
    return &c->ibv;
}
int ibv_destroy_cq(struct ibv_cq *c) { free(((struct cq *)c)->ring); free(c); return 0; }

struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *a) {
    struct context *c = (struct context *)pd->context;
    if (a->qp_type != 2 || a->srq || !a->send_cq || !a->recv_cq || a->cap.max_send_wr > ROOM || a->cap.max_recv_wr > ROOM
        || a->cap.max_send_sge > 1 || a->cap.max_recv_sge > 1 || a->cap.max_inline_data > INLINE_MOST) { errno = EINVAL; return 0; }
    struct qp *q = calloc(1, sizeof *q);
    if (!q || !(q->own = end_new(c->lane_index))) { free(q); return 0; }
    pause_ns(150000);
    q->context = c, q->cap = a->cap, q->all_signaled = a->sq_sig_all;
    q->ibv.context = pd->context, q->ibv.qp_context = a->qp_context, q->ibv.pd = pd, q->ibv.send_cq = a->send_cq, q->ibv.recv_cq = a->recv_cq;
    q->ibv.qp_type = a->qp_type, q->ibv.qp_num = q->own->number;
    pthread_mutex_lock(&lock);
    q->after = all, all = q;
    pthread_t t;
    if (!engine_runs++) {
        // Its code must stay when the last user closes this library.
        Dl_info here;
        if (dladdr((void *)ibv_create_qp, &here)) dlopen(here.dli_fname, RTLD_LAZY | RTLD_NODELETE);
        if (!pthread_create(&t, 0, engine, 0)) pthread_detach(t);
    }
    pthread_mutex_unlock(&lock);
    return &q->ibv;
}

int ibv_modify_qp(struct ibv_qp *of, struct ibv_qp_attr *a, int mask) {
    struct qp *q = (struct qp *)of;
    if (!(mask & SET_STATE)) return EINVAL;
    if (a->qp_state > INIT && a->qp_state <= RTS && of->state != a->qp_state - 1) return EINVAL;
    if (a->qp_state == RTR && (mask & (SET_AV | SET_DEST)) != (SET_AV | SET_DEST)) return EINVAL;
    pause_ns(60000);
    pthread_mutex_lock(&lock);
    if (mask & SET_AV) q->path = a->ah_attr;
    if (mask & SET_DEST) q->dest = a->dest_qp_num, q->own->peer = q->dest;
    if (mask & SET_TIMEOUT) q->timeout = a->timeout & 31;
    if (mask & SET_RETRY) q->retries = a->retry_cnt & 7;
    of->state = a->qp_state;
    if (a->qp_state == ERR) broken(q);
    pthread_mutex_unlock(&lock);
    return 0;
}

int ibv_destroy_qp(struct ibv_qp *of) {
    struct qp *q = (struct qp *)of;
    pthread_mutex_lock(&lock);
    for (struct qp **at = &all; *at; at = &(*at)->after) if (*at == q) { *at = q->after; break; }
    q->own->number = 0;
    pthread_mutex_unlock(&lock);
    free(q);
    return 0;
}

const char *ibv_wc_status_str(int status) { return status == RETRIES ? "transport retry counter exceeded" : status ? "error" : "success"; }
int ibv_fork_init(void) { return 0; }
