// What libibverbs' callers see, as rdma-core 44's infiniband/verbs.h lays it out (ABI IBVERBS_1.1): written here once more, so that
// the stand-in needs no package. The offsets below are those that a compiler makes of that header on a 64-bit machine.
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

struct ibv_context; struct ibv_cq; struct ibv_qp; struct ibv_send_wr; struct ibv_recv_wr; struct ibv_wc;

struct ibv_device {
    void *ops[2];
    int node_type, transport_type;
    char name[64], dev_name[64], dev_path[256], ibdev_path[256];
};

// The header's inline functions call through these.
struct ibv_context_ops {
    void *before[11];
    int (*poll_cq)(struct ibv_cq *, int, struct ibv_wc *);
    int (*req_notify_cq)(struct ibv_cq *, int);
    void *between[12];
    int (*post_send)(struct ibv_qp *, struct ibv_send_wr *, struct ibv_send_wr **);
    int (*post_recv)(struct ibv_qp *, struct ibv_recv_wr *, struct ibv_recv_wr **);
    void *after[5];
};

struct ibv_context {
    struct ibv_device *device;
    struct ibv_context_ops ops;
    int cmd_fd, async_fd, num_comp_vectors;
    pthread_mutex_t mutex;
    void *abi_compat; // null: no extended operations
};

struct ibv_pd { struct ibv_context *context; uint32_t handle; };
struct ibv_mr { struct ibv_context *context; struct ibv_pd *pd; void *addr; size_t length; uint32_t handle, lkey, rkey; };
struct ibv_cq {
    struct ibv_context *context;
    void *channel, *cq_context;
    uint32_t handle;
    int cqe;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    uint32_t comp_events_completed, async_events_completed;
};
struct ibv_qp {
    struct ibv_context *context;
    void *qp_context;
    struct ibv_pd *pd;
    struct ibv_cq *send_cq, *recv_cq;
    void *srq;
    uint32_t handle, qp_num;
    int state, qp_type;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    uint32_t events_completed;
};

struct ibv_qp_cap { uint32_t max_send_wr, max_recv_wr, max_send_sge, max_recv_sge, max_inline_data; };
struct ibv_qp_init_attr {
    void *qp_context;
    struct ibv_cq *send_cq, *recv_cq;
    void *srq;
    struct ibv_qp_cap cap;
    int qp_type, sq_sig_all;
};
struct ibv_ah_attr {
    uint64_t dgid[2];
    uint32_t flow_label;
    uint8_t sgid_index, hop_limit, traffic_class;
    uint16_t dlid;
    uint8_t sl, src_path_bits, static_rate, is_global, port_num;
};
struct ibv_qp_attr {
    int qp_state, cur_qp_state, path_mtu, path_mig_state;
    uint32_t qkey, rq_psn, sq_psn, dest_qp_num;
    unsigned qp_access_flags;
    struct ibv_qp_cap cap;
    struct ibv_ah_attr ah_attr, alt_ah_attr;
    uint16_t pkey_index, alt_pkey_index;
    uint8_t en_sqd_async_notify, sq_draining, max_rd_atomic, max_dest_rd_atomic, min_rnr_timer, port_num, timeout, retry_cnt,
        rnr_retry, alt_port_num, alt_timeout;
    uint32_t rate_limit;
};
// Without port_cap_flags2, which old callers have no room for.
struct ibv_port_attr {
    int state, max_mtu, active_mtu, gid_tbl_len;
    uint32_t port_cap_flags, max_msg_sz, bad_pkey_cntr, qkey_viol_cntr;
    uint16_t pkey_tbl_len, lid, sm_lid;
    uint8_t lmc, max_vl_num, sm_sl, subnet_timeout, init_type_reply, active_width, active_speed, phys_state, link_layer, flags;
};
struct ibv_device_attr {
    char fw_ver[64];
    uint64_t node_guid, sys_image_guid, max_mr_size, page_size_cap;
    uint32_t vendor_id, vendor_part_id, hw_ver;
    int max_qp, max_qp_wr;
    unsigned device_cap_flags;
    int max_sge, max_sge_rd, max_cq, max_cqe, max_mr, max_pd, max_qp_rd_atom, max_ee_rd_atom, max_res_rd_atom, max_qp_init_rd_atom,
        max_ee_init_rd_atom, atomic_cap, rest[14];
    uint16_t max_pkeys;
    uint8_t local_ca_ack_delay, phys_port_cnt;
};
struct ibv_sge { uint64_t addr; uint32_t length, lkey; };
struct ibv_send_wr {
    uint64_t wr_id;
    struct ibv_send_wr *next;
    struct ibv_sge *sg_list;
    int num_sge, opcode;
    unsigned send_flags;
    uint32_t imm_data;
    uint64_t remote_addr; // of a read or a write
    uint32_t rkey;
    uint8_t rest[76];
};
struct ibv_recv_wr { uint64_t wr_id; struct ibv_recv_wr *next; struct ibv_sge *sg_list; int num_sge; };
struct ibv_wc {
    uint64_t wr_id;
    int status, opcode;
    uint32_t vendor_err, byte_len, imm_data, qp_num, src_qp;
    unsigned wc_flags;
    uint16_t pkey_index, slid;
    uint8_t sl, dlid_path_bits;
};

enum { OP_WRITE = 0, OP_SEND = 2, OP_READ = 4 };
enum { SIGNALED = 2, INLINE = 8 };
enum { WC_SEND = 0, WC_WRITE = 1, WC_READ = 2, WC_RECV = 128 };
enum { OK = 0, LOCAL_LENGTH = 1, LOCAL_PROTECTION = 4, FLUSHED = 5, REMOTE_INVALID = 9, REMOTE_ACCESS = 10, REMOTE_OPERATION = 11, RETRIES = 12 };
enum { INIT = 1, RTR = 2, RTS = 3, ERR = 6 };
enum { SET_STATE = 1, SET_AV = 128, SET_TIMEOUT = 512, SET_RETRY = 1024, SET_DEST = 1 << 20 };
enum { LOCAL_WRITE = 1, REMOTE_WRITE = 2, REMOTE_READ = 4 };

#define AT(type, field, at) _Static_assert(offsetof(struct type, field) == at, #type "." #field)
AT(ibv_device, name, 24);
AT(ibv_context, ops.poll_cq, 8 + 88); AT(ibv_context, ops.post_send, 8 + 200); AT(ibv_context, ops.post_recv, 8 + 208);
AT(ibv_context, cmd_fd, 8 + 256);
AT(ibv_mr, lkey, 36); AT(ibv_mr, rkey, 40); AT(ibv_qp, qp_num, 52); AT(ibv_qp, state, 56); AT(ibv_cq, cqe, 28);
AT(ibv_qp_attr, ah_attr, 56); AT(ibv_qp_attr, pkey_index, 120); AT(ibv_qp_attr, timeout, 130); AT(ibv_qp_attr, retry_cnt, 131);
AT(ibv_ah_attr, dlid, 24); AT(ibv_ah_attr, is_global, 29);
AT(ibv_port_attr, lid, 34); AT(ibv_port_attr, link_layer, 46);
AT(ibv_device_attr, max_qp_wr, 112); AT(ibv_device_attr, max_qp_rd_atom, 144); AT(ibv_device_attr, max_qp_init_rd_atom, 156);
AT(ibv_device_attr, phys_port_cnt, 227);
AT(ibv_send_wr, send_flags, 32); AT(ibv_send_wr, remote_addr, 40); AT(ibv_send_wr, rkey, 48); AT(ibv_wc, qp_num, 28);
_Static_assert(sizeof(struct ibv_device) == 664 && sizeof(struct ibv_context_ops) == 256 && sizeof(struct ibv_port_attr) == 48, "sizes");
_Static_assert(sizeof(struct ibv_qp_init_attr) == 64 && sizeof(struct ibv_qp_attr) == 144 && sizeof(struct ibv_device_attr) == 232, "sizes");
_Static_assert(sizeof(struct ibv_send_wr) == 128 && sizeof(struct ibv_recv_wr) == 32 && sizeof(struct ibv_wc) == 48, "sizes");
