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
#include <dlfcn.h>

#include "verbs-abi.h"
#include "verbs-fabric.h"
#include "verbs-queue.h"

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

static struct ibv_mr *register_memory(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova, void *real, int access) {
    struct ibv_mr *m = calloc(1, sizeof *m);
    struct key *k = m ? key_new(iova, length, (uint64_t)real, access) : 0;
    if (!k) { free(m); return 0; }
    pause_ns(40000 + (int64_t)(length >> 12) * 100); // pages are pinned one by one
    *m = (struct ibv_mr){pd->context, pd, addr, length, k->value, k->value, k->value};
    return m;
}

// A descriptor that CUDA's stand-in exported is a file of the allocation's bytes.
struct ibv_mr *ibv_reg_dmabuf_mr(struct ibv_pd *pd, uint64_t offset, size_t length, uint64_t iova, int fd, int access) {
    uint64_t page = offset & ~4095ull;
    uint8_t *at = mmap(0, length + (offset - page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, page);
    if (at == MAP_FAILED) return 0;
    struct ibv_mr *m = register_memory(pd, (void *)iova, length, iova, at + (offset - page), access);
    if (!m) munmap(at, length + (offset - page));
    return m;
}

// Memory that no program may read is a GPU's: CUDA's stand-in reserves addresses for it.
static int readable(void *addr, size_t length) {
    uint8_t first;
    struct iovec local = {&first, 1}, remote = {addr, 1};
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1
        && (remote.iov_base = (char *)addr + length - 1, process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1);
}

// Through nvidia_peermem, a kernel's module, a GPU's memory is registered by its address. What it would ask of the driver, CUDA's stand-in
// has under another name.
static struct ibv_mr *register_peer(struct ibv_pd *pd, void *addr, size_t length, int access) {
    int fd = -1, (*export)(void *, uint64_t, size_t, int, uint64_t) = 0;
    void *cuda = fault("no-peermem", "all") > 0 ? 0 : dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD); // opened by its caller, not for all to see
    if (cuda) export = dlsym(cuda, "cuMemGetHandleForAddressRange");
    if (!export || export(&fd, (uint64_t)addr, length, 1, 0) || fd < 0) { errno = EFAULT; return 0; }
    struct ibv_mr *m = ibv_reg_dmabuf_mr(pd, 0, length, (uint64_t)addr, fd, access);
    close(fd);
    return m;
}

static struct ibv_mr *register_host(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova, int access) {
    if (!length || !readable(addr, length)) return register_peer(pd, addr, length, access);
    return register_memory(pd, addr, length, iova, addr, access);
}
struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access) { return register_host(pd, addr, length, (uint64_t)addr, access); }
struct ibv_mr *ibv_reg_mr_iova(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova, int access) { return register_host(pd, addr, length, iova, access); }
struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova, unsigned access) { return register_host(pd, addr, length, iova, access); }

int ibv_dereg_mr(struct ibv_mr *m) {
    struct key *k = key_of(m->lkey);
    if (k && k->real != (uint64_t)m->addr) {
        uint64_t page = k->real & ~4095ull;
        munmap((void *)page, k->length + (k->real - page));
    }
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
