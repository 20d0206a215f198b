//! libibverbs as rdma-core's verbs.h declares it (ABI IBVERBS_1.1, unchanged since 2008): what is used here, and no more.
//! Loaded at run time: the same binary starts where there is no RDMA, and that absence is a finding.
//!
//! The sizes and offsets are held against those of the header by a test below.

use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::sys::dl::library;

#[repr(C)]
pub struct Device {
    ops: [*mut c_void; 2],
    node_type: c_int,
    transport_type: c_int,
    pub name: [c_char; 64],
    dev_name: [c_char; 64],
    dev_path: [c_char; 256],
    ibdev_path: [c_char; 256],
}

pub type PollCq = unsafe extern "C" fn(*mut Cq, c_int, *mut Wc) -> c_int;
pub type PostSend = unsafe extern "C" fn(*mut Qp, *mut SendWr, *mut *mut SendWr) -> c_int;
pub type PostRecv = unsafe extern "C" fn(*mut Qp, *mut RecvWr, *mut *mut RecvWr) -> c_int;

/// The provider's own functions: the header's inline functions call through these.
#[repr(C)]
pub struct ContextOps {
    _before: [*mut c_void; 11],
    pub poll_cq: Option<PollCq>,
    _between: [*mut c_void; 13],
    pub post_send: Option<PostSend>,
    pub post_recv: Option<PostRecv>,
    _after: [*mut c_void; 5],
}

#[repr(C)]
pub struct Context {
    device: *mut Device,
    pub ops: ContextOps,
    // cmd_fd, async_fd, num_comp_vectors, mutex, abi_compat: libibverbs' own.
}

#[repr(C)]
pub struct Pd {
    _private: [u8; 0],
}

#[repr(C)]
pub struct Cq {
    pub context: *mut Context,
}

#[repr(C)]
pub struct Mr {
    context: *mut Context,
    pd: *mut Pd,
    addr: *mut c_void,
    length: usize,
    handle: u32,
    pub lkey: u32,
    pub rkey: u32,
}

#[repr(C)]
pub struct Qp {
    pub context: *mut Context,
    qp_context: *mut c_void,
    pd: *mut Pd,
    send_cq: *mut Cq,
    recv_cq: *mut Cq,
    srq: *mut c_void,
    handle: u32,
    pub qp_num: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct QpCap {
    pub max_send_wr: u32,
    pub max_recv_wr: u32,
    pub max_send_sge: u32,
    pub max_recv_sge: u32,
    pub max_inline_data: u32,
}

#[repr(C)]
pub struct QpInitAttr {
    pub qp_context: *mut c_void,
    pub send_cq: *mut Cq,
    pub recv_cq: *mut Cq,
    pub srq: *mut c_void,
    pub cap: QpCap,
    pub qp_type: c_int,
    pub sq_sig_all: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct GlobalRoute {
    pub dgid: [u64; 2],
    pub flow_label: u32,
    pub sgid_index: u8,
    pub hop_limit: u8,
    pub traffic_class: u8,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct AhAttr {
    pub grh: GlobalRoute,
    pub dlid: u16,
    pub sl: u8,
    pub src_path_bits: u8,
    pub static_rate: u8,
    pub is_global: u8,
    pub port_num: u8,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct QpAttr {
    pub qp_state: c_int,
    pub cur_qp_state: c_int,
    pub path_mtu: c_int,
    pub path_mig_state: c_int,
    pub qkey: u32,
    pub rq_psn: u32,
    pub sq_psn: u32,
    pub dest_qp_num: u32,
    pub qp_access_flags: c_uint,
    pub cap: QpCap,
    pub ah_attr: AhAttr,
    pub alt_ah_attr: AhAttr,
    pub pkey_index: u16,
    pub alt_pkey_index: u16,
    pub en_sqd_async_notify: u8,
    pub sq_draining: u8,
    pub max_rd_atomic: u8,
    pub max_dest_rd_atomic: u8,
    pub min_rnr_timer: u8,
    pub port_num: u8,
    pub timeout: u8,
    pub retry_cnt: u8,
    pub rnr_retry: u8,
    pub alt_port_num: u8,
    pub alt_timeout: u8,
    pub rate_limit: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct PortAttr {
    pub state: c_int,
    pub max_mtu: c_int,
    pub active_mtu: c_int,
    pub gid_tbl_len: c_int,
    pub port_cap_flags: u32,
    pub max_msg_sz: u32,
    pub bad_pkey_cntr: u32,
    pub qkey_viol_cntr: u32,
    pub pkey_tbl_len: u16,
    pub lid: u16,
    pub sm_lid: u16,
    pub lmc: u8,
    pub max_vl_num: u8,
    pub sm_sl: u8,
    pub subnet_timeout: u8,
    pub init_type_reply: u8,
    pub active_width: u8,
    pub active_speed: u8,
    pub phys_state: u8,
    pub link_layer: u8,
    pub flags: u8,
    pub port_cap_flags2: u16,
    /// Newer libraries write on: room for what they know.
    _more: [u32; 8],
}

/// 232 bytes in today's header; the fields that are read, and room for more.
#[repr(C)]
pub struct DeviceAttr {
    _before: [u8; 112],
    pub max_qp_wr: c_int,
    _between: [u8; 28],
    pub max_qp_rd_atom: c_int,
    _then: [u8; 8],
    pub max_qp_init_rd_atom: c_int,
    _after: [u8; 256],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Sge {
    pub addr: u64,
    pub length: u32,
    pub lkey: u32,
}

#[repr(C)]
pub struct SendWr {
    pub wr_id: u64,
    pub next: *mut SendWr,
    pub sg_list: *mut Sge,
    pub num_sge: c_int,
    pub opcode: c_int,
    pub send_flags: c_uint,
    pub imm_data: u32,
    /// Of a read or write; atomics and datagrams would lie over it.
    pub remote_addr: u64,
    pub rkey: u32,
    _rest: [u8; 76],
}

impl SendWr {
    pub const fn new() -> Self {
        SendWr {
            wr_id: 0,
            next: std::ptr::null_mut(),
            sg_list: std::ptr::null_mut(),
            num_sge: 1,
            opcode: 0,
            send_flags: 0,
            imm_data: 0,
            remote_addr: 0,
            rkey: 0,
            _rest: [0; 76],
        }
    }
}

#[repr(C)]
pub struct RecvWr {
    pub wr_id: u64,
    pub next: *mut RecvWr,
    pub sg_list: *mut Sge,
    pub num_sge: c_int,
}

/// A work completion.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Wc {
    pub wr_id: u64,
    pub status: c_int,
    pub opcode: c_int,
    pub vendor_err: u32,
    pub byte_len: u32,
    pub imm_data: u32,
    pub qp_num: u32,
    pub src_qp: u32,
    pub wc_flags: c_uint,
    pub pkey_index: u16,
    pub slid: u16,
    pub sl: u8,
    pub dlid_path_bits: u8,
}

pub const QPT_RC: c_int = 2;
pub const QPS_INIT: c_int = 1;
pub const QPS_RTR: c_int = 2;
pub const QPS_RTS: c_int = 3;
pub const WR_WRITE: c_int = 0;
pub const WR_SEND: c_int = 2;
pub const WR_READ: c_int = 4;
pub const SEND_SIGNALED: c_uint = 2;
pub const SEND_INLINE: c_uint = 8;
pub const WC_RECV: c_int = 128;
pub const ACCESS_LOCAL_WRITE: c_int = 1;
pub const ACCESS_REMOTE_WRITE: c_int = 2;
pub const ACCESS_REMOTE_READ: c_int = 4;
pub const ACCESS_RELAXED_ORDERING: c_int = 1 << 20;
pub const LINK_LAYER_ETHERNET: u8 = 2;
pub const PORT_ACTIVE: c_int = 4;

pub mod mask {
    //! Which attributes of a queue pair a call sets.
    pub const STATE: i32 = 1;
    pub const ACCESS_FLAGS: i32 = 8;
    pub const PKEY_INDEX: i32 = 16;
    pub const PORT: i32 = 32;
    pub const AV: i32 = 128;
    pub const PATH_MTU: i32 = 256;
    pub const TIMEOUT: i32 = 512;
    pub const RETRY_CNT: i32 = 1024;
    pub const RNR_RETRY: i32 = 2048;
    pub const RQ_PSN: i32 = 4096;
    pub const MAX_QP_RD_ATOMIC: i32 = 8192;
    pub const MIN_RNR_TIMER: i32 = 32_768;
    pub const SQ_PSN: i32 = 65_536;
    pub const MAX_DEST_RD_ATOMIC: i32 = 131_072;
    pub const DEST_QPN: i32 = 1_048_576;
}

library! {
    /// The functions of libibverbs.
    Verbs
    needs {
    ibv_get_device_list: fn(*mut c_int) -> *mut *mut Device;
    ibv_free_device_list: fn(*mut *mut Device) -> ();
    ibv_open_device: fn(*mut Device) -> *mut Context;
    ibv_close_device: fn(*mut Context) -> c_int;
    ibv_query_device: fn(*mut Context, *mut DeviceAttr) -> c_int;
    ibv_query_port: fn(*mut Context, u8, *mut PortAttr) -> c_int;
    ibv_query_gid: fn(*mut Context, u8, c_int, *mut [u64; 2]) -> c_int;
    ibv_alloc_pd: fn(*mut Context) -> *mut Pd;
    ibv_dealloc_pd: fn(*mut Pd) -> c_int;
    ibv_reg_mr: fn(*mut Pd, *mut c_void, usize, c_int) -> *mut Mr;
    ibv_dereg_mr: fn(*mut Mr) -> c_int;
    ibv_create_cq: fn(*mut Context, c_int, *mut c_void, *mut c_void, c_int) -> *mut Cq;
    ibv_destroy_cq: fn(*mut Cq) -> c_int;
    ibv_create_qp: fn(*mut Pd, *mut QpInitAttr) -> *mut Qp;
    ibv_modify_qp: fn(*mut Qp, *mut QpAttr, c_int) -> c_int;
    ibv_destroy_qp: fn(*mut Qp) -> c_int;
    }
    may {
    // Since IBVERBS_1.8: takes access flags that older kernels may ignore.
    ibv_reg_mr_iova2: fn(*mut Pd, *mut c_void, usize, u64, c_uint) -> *mut Mr;
    // Since IBVERBS_1.12: memory of another device, by a file descriptor.
    ibv_reg_dmabuf_mr: fn(*mut Pd, u64, usize, u64, c_int, c_int) -> *mut Mr;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    /// What a C compiler makes of rdma-core 44's verbs.h on a 64-bit machine.
    #[test]
    fn layouts_are_those_of_the_header() {
        assert_eq!((size_of::<ContextOps>(), offset_of!(Context, ops)), (256, 8));
        assert_eq!(
            (offset_of!(ContextOps, poll_cq), offset_of!(ContextOps, post_send), offset_of!(ContextOps, post_recv)),
            (88, 200, 208)
        );
        assert_eq!((size_of::<Device>(), offset_of!(Device, name)), (664, 24));
        assert_eq!((offset_of!(PortAttr, lid), offset_of!(PortAttr, link_layer)), (34, 46));
        assert_eq!((size_of::<QpInitAttr>(), size_of::<QpAttr>()), (64, 144));
        assert_eq!(
            (offset_of!(QpAttr, ah_attr), offset_of!(QpAttr, pkey_index), offset_of!(QpAttr, timeout)),
            (56, 120, 130)
        );
        assert_eq!((size_of::<AhAttr>(), size_of::<GlobalRoute>()), (32, 24));
        assert_eq!(
            (size_of::<SendWr>(), offset_of!(SendWr, remote_addr), offset_of!(SendWr, send_flags)),
            (128, 40, 32)
        );
        assert_eq!((size_of::<RecvWr>(), size_of::<Wc>(), offset_of!(Wc, qp_num), size_of::<Sge>()), (32, 48, 28, 16));
        assert_eq!((offset_of!(Mr, lkey), offset_of!(Mr, rkey), offset_of!(Qp, qp_num)), (36, 40, 52));
        assert_eq!((offset_of!(DeviceAttr, max_qp_wr), offset_of!(DeviceAttr, max_qp_rd_atom)), (112, 144));
        assert_eq!(offset_of!(DeviceAttr, max_qp_init_rd_atom), 156);
    }
}
