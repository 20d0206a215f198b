//! RDMA verbs: a device, registered memory, one completion queue and reliable connections over it.
//!
//! Setup may allocate; posting and polling do not, and make no system call where the provider makes none.

mod raw;
mod status;

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::{Duration, Instant};

use raw::{Verbs, mask};

use crate::sys::dl;
use crate::sys::pages::Pages;

pub use raw::Wc;
pub use status::explain;

/// Why verbs cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum VerbsError {
    #[error("{0}; install it (Debian: libibverbs1 ibverbs-providers), also in the container")]
    NoLibrary(#[from] dl::DlError),
    #[error("the kernel gives no RDMA devices ({0}); is ib_uverbs loaded, and is /dev/infiniband in the container?")]
    NoKernel(io::Error),
    #[error("this libibverbs cannot register a dma-buf (rdma-core 34 and later can)")]
    NoDmaBuf,
    #[error("there is no RDMA device {0}; libibverbs has no provider for it, or it is gone")]
    NoDevice(String),
    #[error("{what}: {source}{hint}")]
    Call { what: &'static str, source: io::Error, hint: &'static str },
}

/// The call that failed, as errno has it.
fn failed(what: &'static str) -> VerbsError {
    let source = io::Error::last_os_error();
    with_hint(what, source)
}

/// The call that failed, as it returned it.
fn code(what: &'static str, code: c_int) -> VerbsError {
    with_hint(what, io::Error::from_raw_os_error(code.abs()))
}

fn with_hint(what: &'static str, source: io::Error) -> VerbsError {
    let memory = matches!(source.raw_os_error(), Some(12 | 11));
    let hint = match (what, memory) {
        ("cannot register memory", true) => {
            "; the locked-memory limit is too low: `ulimit -l unlimited`, in the launcher and the container, too"
        }
        // EFAULT of ibv_reg_mr, EOPNOTSUPP and EINVAL of the other.
        ("cannot register a GPU's memory", _) if source.raw_os_error() == Some(14) => {
            "; the kernel does not know this address: load nvidia_peermem (`modprobe nvidia-peermem`)"
        }
        ("cannot register a GPU's memory", true) => {
            "; the GPU's BAR1 window is full, or the locked-memory limit is too low (`ulimit -l unlimited`)"
        }
        ("cannot register a GPU's memory", _) => "; the adapter's driver takes no dma-buf: kernel 5.12 and mlx5 can",
        ("cannot create a queue pair" | "cannot create a completion queue", true) => {
            "; the device has no room for so many, or the locked-memory limit is too low (`ulimit -l`)"
        }
        ("cannot connect a queue pair", _) => {
            "; the GID or the path does not fit the peer's: look at both GIDs, at the MTU, and at the link"
        }
        _ => "",
    };
    VerbsError::Call { what, source, hint }
}

/// A port's state and what it can do.
#[derive(Debug, Clone, Copy)]
pub struct Port {
    pub active: bool,
    pub lid: u16,
    /// The path MTU's code: 1 for 256 bytes to 5 for 4096.
    pub mtu: u8,
    pub ethernet: bool,
}

impl Port {
    pub fn mtu_bytes(&self) -> u32 {
        128 << self.mtu
    }
}

/// What a connection needs to know of its other end.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Endpoint {
    pub qp: u32,
    pub psn: u32,
    pub lid: u16,
    pub gid: [u64; 2],
    pub mtu: u8,
    pub address: u64,
    pub rkey: u32,
    pub reads: u8,
}

/// How a connection is made.
#[derive(Debug, Clone, Copy)]
pub struct Path {
    pub port: u8,
    pub gid_index: u8,
    pub global: bool,
    pub service_level: u8,
    pub traffic_class: u8,
}

/// What is asked of the peer's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Write,
    Read,
    Send,
}

/// What is registered.
pub enum Source {
    /// So many bytes of the host's memory, allocated here.
    Host(usize),
    /// Another device's memory, at its own address; the caller keeps it alive for as long as what is opened with it.
    Device { address: u64, bytes: usize, by: Handover },
}

/// How another device's memory is handed over.
pub enum Handover {
    /// By a file descriptor that its driver exported.
    DmaBuf(std::os::fd::OwnedFd),
    /// By its address, which a kernel module (nvidia_peermem) knows.
    Peer,
}

/// An open device with memory, a completion queue, and queue pairs.
pub struct Rdma {
    // Dropped in `Drop`, in this order: queue pairs, queue, memory, domain, device; the library last.
    qps: Vec<*mut raw::Qp>,
    cq: *mut raw::Cq,
    mr: *mut raw::Mr,
    pd: *mut raw::Pd,
    context: *mut raw::Context,
    poll_cq: raw::PollCq,
    post_send: raw::PostSend,
    post_recv: raw::PostRecv,
    verbs: Verbs,
    /// Empty where the memory is another device's.
    memory: Pages,
    /// Where the registered memory begins, and its length.
    base: u64,
    length: usize,
    pub inline: u32,
    pub reads: u8,
    sge: raw::Sge,
    wr: raw::SendWr,
}

// SAFETY: verbs objects may be used from any thread; this struct is used by one at a time (`&mut self`).
unsafe impl Send for Rdma {}

/// Room in the queues beyond what is outstanding: some providers free a slot later than its completion shows.
const HEADROOM: u32 = 64;
/// Inline data that is asked for; what a device gives instead is taken.
const INLINE: u32 = 220;
/// What peers may do with the memory.
const ACCESS: c_int = raw::ACCESS_LOCAL_WRITE | raw::ACCESS_REMOTE_WRITE | raw::ACCESS_REMOTE_READ;

impl Rdma {
    /// Opens `device`, registers memory, and makes `qps` queue pairs with room for `depth` requests each.
    pub fn open(device: &str, source: Source, qps: usize, depth: u32) -> Result<Self, VerbsError> {
        let (library, found) = dl::open(&["libibverbs.so.1"])?;
        let verbs = Verbs::load(library, &found.path)?;
        let context = open_device(&verbs, device)?;
        // SAFETY: `context` is open; the attribute struct has room beyond what any library writes (see raw).
        let (rc, attr) = unsafe {
            let mut attr: raw::DeviceAttr = std::mem::zeroed();
            ((verbs.ibv_query_device)(context, &mut attr), attr)
        };
        // SAFETY: `context` points to an open context, whose operations do not change while it is open.
        let ops = unsafe { &(*context).ops };
        let (Some(poll_cq), Some(post_send), Some(post_recv)) = (ops.poll_cq, ops.post_send, ops.post_recv) else {
            return Err(VerbsError::NoDevice(device.to_owned()));
        };
        let mut this = Rdma {
            qps: Vec::with_capacity(qps),
            cq: ptr::null_mut(),
            mr: ptr::null_mut(),
            pd: ptr::null_mut(),
            context,
            poll_cq,
            post_send,
            post_recv,
            verbs,
            memory: Pages::new(if let Source::Host(bytes) = source { bytes.max(4096) } else { 0 }),
            base: 0,
            length: 0,
            inline: 0,
            reads: attr.max_qp_rd_atom.min(attr.max_qp_init_rd_atom).clamp(1, 128) as u8,
            sge: raw::Sge::default(),
            wr: raw::SendWr::new(),
        };
        if rc != 0 {
            return Err(code("cannot query the device", rc));
        }
        let depth = depth.min(attr.max_qp_wr.max(16) as u32 - 1);
        // SAFETY: the context is open; a null channel and cookie ask for a queue without events.
        unsafe {
            this.pd = (this.verbs.ibv_alloc_pd)(context);
            if this.pd.is_null() {
                return Err(failed("cannot allocate a protection domain"));
            }
            let entries = (2 * qps as u32 * (depth + HEADROOM)) as c_int;
            this.cq = (this.verbs.ibv_create_cq)(context, entries, ptr::null_mut(), ptr::null_mut(), 0);
            if this.cq.is_null() {
                return Err(failed("cannot create a completion queue"));
            }
        }
        match source {
            Source::Host(_) => this.register()?,
            Source::Device { address, bytes, by } => this.register_device(address, bytes, &by)?,
        }
        for _ in 0..qps {
            this.create(depth)?;
        }
        Ok(this)
    }

    fn register(&mut self) -> Result<(), VerbsError> {
        let access = ACCESS;
        let (at, bytes) = (self.memory.as_mut_ptr().cast::<c_void>(), self.memory.len());
        // SAFETY: the memory belongs to this struct and outlives its registration (`Drop` deregisters first). Relaxed
        // ordering goes through the call that tells the kernel which flags may be ignored, where it is there.
        unsafe {
            if let Some(reg) = self.verbs.ibv_reg_mr_iova2 {
                self.mr = reg(self.pd, at, bytes, at as u64, (access | raw::ACCESS_RELAXED_ORDERING) as c_uint);
            }
            if self.mr.is_null() {
                self.mr = (self.verbs.ibv_reg_mr)(self.pd, at, bytes, access);
            }
        }
        (self.base, self.length) = (at as u64, bytes);
        if self.mr.is_null() { Err(failed("cannot register memory")) } else { Ok(()) }
    }

    fn register_device(&mut self, address: u64, bytes: usize, by: &Handover) -> Result<(), VerbsError> {
        let relaxed = ACCESS | raw::ACCESS_RELAXED_ORDERING;
        // SAFETY: the caller keeps the memory for as long as this struct lives; what is no such memory, the kernel refuses.
        // The descriptor is needed for the call only.
        unsafe {
            match by {
                Handover::DmaBuf(fd) => {
                    let reg = self.verbs.ibv_reg_dmabuf_mr.ok_or(VerbsError::NoDmaBuf)?;
                    for access in [relaxed, ACCESS] {
                        if self.mr.is_null() {
                            self.mr = reg(self.pd, 0, bytes, address, fd.as_raw_fd(), access);
                        }
                    }
                }
                Handover::Peer => self.mr = (self.verbs.ibv_reg_mr)(self.pd, address as *mut c_void, bytes, ACCESS),
            }
        }
        (self.base, self.length) = (address, bytes);
        if self.mr.is_null() { Err(failed("cannot register a GPU's memory")) } else { Ok(()) }
    }

    fn create(&mut self, depth: u32) -> Result<(), VerbsError> {
        let slots = depth + HEADROOM;
        // Not every device has inline data, nor so much: less is asked for until it agrees.
        for inline in [INLINE, 64, 0] {
            let mut init = raw::QpInitAttr {
                qp_context: ptr::null_mut(),
                send_cq: self.cq,
                recv_cq: self.cq,
                srq: ptr::null_mut(),
                cap: raw::QpCap {
                    max_send_wr: slots,
                    max_recv_wr: slots,
                    max_send_sge: 1,
                    max_recv_sge: 1,
                    max_inline_data: inline,
                },
                qp_type: raw::QPT_RC,
                sq_sig_all: 0,
            };
            // SAFETY: domain and queue are alive and of one context.
            let qp = unsafe { (self.verbs.ibv_create_qp)(self.pd, &mut init) };
            if !qp.is_null() {
                self.qps.push(qp);
                // What was asked for: a device may claim more than it was asked, and not mean it.
                self.inline = init.cap.max_inline_data.min(inline);
                return Ok(());
            }
        }
        Err(failed("cannot create a queue pair"))
    }

    pub fn port(&self, port: u8) -> Result<Port, VerbsError> {
        let mut attr = raw::PortAttr::default();
        // SAFETY: the context is open; the struct has room beyond what the call writes.
        let rc = unsafe { (self.verbs.ibv_query_port)(self.context, port, &mut attr) };
        if rc != 0 {
            return Err(code("cannot query the port", rc));
        }
        Ok(Port {
            active: attr.state == raw::PORT_ACTIVE,
            lid: attr.lid,
            mtu: attr.active_mtu.clamp(1, 5) as u8,
            ethernet: attr.link_layer == raw::LINK_LAYER_ETHERNET,
        })
    }

    /// An entry of the port's table of addresses, as it is on the wire.
    pub fn gid(&self, port: u8, index: u8) -> Result<[u64; 2], VerbsError> {
        let mut gid = [0u64; 2];
        // SAFETY: the context is open; a GID has 16 bytes.
        let rc = unsafe { (self.verbs.ibv_query_gid)(self.context, port, c_int::from(index), &mut gid) };
        if rc == 0 { Ok(gid) } else { Err(failed("cannot query a GID")) }
    }

    /// The number of a queue pair.
    pub fn number(&self, qp: usize) -> u32 {
        // SAFETY: every pointer in `qps` is of a queue pair that is alive.
        unsafe { (*self.qps[qp]).qp_num }
    }

    /// Where the registered memory begins, and the key to it for the peer.
    pub fn remote(&self) -> (u64, u32) {
        // SAFETY: `mr` is registered for as long as `self` lives.
        (self.base, unsafe { (*self.mr).rkey })
    }

    #[inline]
    fn local_key(&self) -> u32 {
        // SAFETY: `mr` is registered for as long as `self` lives.
        unsafe { (*self.mr).lkey }
    }

    /// The registered memory; empty where it is another device's.
    pub fn memory(&mut self) -> &mut [u8] {
        &mut self.memory
    }

    /// Looks at one byte that the device may write at any time.
    pub fn peek(&self, at: usize) -> u8 {
        // SAFETY: in bounds by the slice's own check; volatile, since no code of ours writes it.
        unsafe { ptr::read_volatile(&self.memory[at]) }
    }

    /// Looks at a number that the peer may write at any time; `at` is a multiple of 8.
    pub fn peek_u64(&self, at: usize) -> u64 {
        let bytes = &self.memory[at..at + 8];
        debug_assert!(at.is_multiple_of(8));
        // SAFETY: eight bytes in bounds by the slice's own check; the memory begins at a page, so that a multiple of 8 is
        // aligned. Volatile, since no code of ours writes it.
        unsafe { ptr::read_volatile(bytes.as_ptr().cast::<u64>()) }
    }

    /// Takes a queue pair to the state in which it sends and receives.
    pub fn connect(
        &mut self,
        qp: usize,
        own_psn: u32,
        peer: &Endpoint,
        path: &Path,
        own_mtu: u8,
    ) -> Result<(), VerbsError> {
        let access = (raw::ACCESS_REMOTE_WRITE | raw::ACCESS_REMOTE_READ | raw::ACCESS_LOCAL_WRITE) as c_uint;
        let mut attr = raw::QpAttr {
            qp_state: raw::QPS_INIT,
            port_num: path.port,
            qp_access_flags: access,
            ..raw::QpAttr::default()
        };
        self.modify(qp, &mut attr, mask::STATE | mask::PKEY_INDEX | mask::PORT | mask::ACCESS_FLAGS)?;
        let grh = raw::GlobalRoute {
            dgid: peer.gid,
            sgid_index: path.gid_index,
            hop_limit: 64,
            traffic_class: path.traffic_class,
            ..raw::GlobalRoute::default()
        };
        let ah_attr = raw::AhAttr {
            grh: if path.global { grh } else { raw::GlobalRoute::default() },
            dlid: peer.lid,
            sl: path.service_level,
            is_global: u8::from(path.global),
            port_num: path.port,
            ..raw::AhAttr::default()
        };
        let mut attr = raw::QpAttr {
            qp_state: raw::QPS_RTR,
            path_mtu: c_int::from(own_mtu.min(peer.mtu).clamp(1, 5)),
            dest_qp_num: peer.qp,
            rq_psn: peer.psn,
            max_dest_rd_atomic: self.reads,
            // 0.64 ms until a receiver that was not ready is tried again.
            min_rnr_timer: 12,
            ah_attr,
            ..raw::QpAttr::default()
        };
        let to_receive = mask::STATE
            | mask::AV
            | mask::PATH_MTU
            | mask::DEST_QPN
            | mask::RQ_PSN
            | mask::MAX_DEST_RD_ATOMIC
            | mask::MIN_RNR_TIMER;
        self.find_peer(qp, &mut attr, to_receive)?;
        let mut attr = raw::QpAttr {
            qp_state: raw::QPS_RTS,
            sq_psn: own_psn,
            // 4.096 us * 2^16 is 0.27 s, seven times: a link that is down is told within two seconds.
            timeout: 16,
            retry_cnt: 7,
            // For ever, within the step's own deadline.
            rnr_retry: 7,
            max_rd_atomic: self.reads.min(peer.reads.max(1)),
            ..raw::QpAttr::default()
        };
        let to_send =
            mask::STATE | mask::SQ_PSN | mask::TIMEOUT | mask::RETRY_CNT | mask::RNR_RETRY | mask::MAX_QP_RD_ATOMIC;
        self.modify(qp, &mut attr, to_send)
    }

    /// The step of [`Rdma::connect`] for which RoCE looks up the peer's Ethernet address: the kernel gives ARP one second, which a
    /// busy network can miss. Tried again as NCCL does it (NCCL_IB_MQP_RETRY_CNT).
    fn find_peer(&mut self, qp: usize, attr: &mut raw::QpAttr, which: c_int) -> Result<(), VerbsError> {
        const PATIENCE: Duration = Duration::from_secs(5);
        let begun = Instant::now();
        loop {
            match self.modify(qp, attr, which) {
                Err(VerbsError::Call { source, .. })
                    if source.kind() == io::ErrorKind::TimedOut && begun.elapsed() < PATIENCE =>
                {
                    std::thread::sleep(Duration::from_millis(100));
                }
                ended => return ended,
            }
        }
    }

    fn modify(&mut self, qp: usize, attr: &mut raw::QpAttr, which: c_int) -> Result<(), VerbsError> {
        // SAFETY: the queue pair is alive.
        let rc = unsafe { (self.verbs.ibv_modify_qp)(self.qps[qp], attr, which) };
        if rc == 0 { Ok(()) } else { Err(code("cannot connect a queue pair", rc)) }
    }

    /// Posts a request of `bytes` bytes from the own memory at `from` to the peer's at `to`. False when the queue is full:
    /// poll, then try again.
    #[inline]
    pub fn post(
        &mut self,
        qp: usize,
        op: Op,
        (from, bytes): (usize, u32),
        (to, rkey): (u64, u32),
        id: Option<u64>,
    ) -> Result<bool, VerbsError> {
        debug_assert!(from + bytes as usize <= self.length);
        self.sge = raw::Sge { addr: self.base + from as u64, length: bytes, lkey: self.local_key() };
        self.wr.sg_list = &mut self.sge;
        self.wr.opcode = match op {
            Op::Write => raw::WR_WRITE,
            Op::Read => raw::WR_READ,
            Op::Send => raw::WR_SEND,
        };
        // The CPU copies what goes inline: only from its own memory.
        let inline = op != Op::Read && bytes <= self.inline && !self.memory.is_empty();
        self.wr.send_flags =
            if inline { raw::SEND_INLINE } else { 0 } | if id.is_some() { raw::SEND_SIGNALED } else { 0 };
        self.wr.wr_id = id.unwrap_or(0);
        (self.wr.remote_addr, self.wr.rkey) = (to, rkey);
        let mut bad = ptr::null_mut();
        // SAFETY: the queue pair is alive; request and element are fields of this struct, read before the call returns;
        // the memory that they name is registered, and the device checks bounds and keys.
        match unsafe { (self.post_send)(self.qps[qp], &mut self.wr, &mut bad) } {
            0 => Ok(true),
            full if is_full(full) => Ok(false),
            rc => Err(code("cannot post a request", rc)),
        }
    }

    /// Posts room for one message of up to `bytes` bytes at `at`. False when the queue is full.
    #[inline]
    pub fn post_receive(&mut self, qp: usize, at: usize, bytes: u32, id: u64) -> Result<bool, VerbsError> {
        debug_assert!(at + bytes as usize <= self.length);
        let mut sge = raw::Sge { addr: self.base + at as u64, length: bytes, lkey: self.local_key() };
        let mut wr = raw::RecvWr { wr_id: id, next: ptr::null_mut(), sg_list: &mut sge, num_sge: 1 };
        let mut bad = ptr::null_mut();
        // SAFETY: as in `post`.
        match unsafe { (self.post_recv)(self.qps[qp], &mut wr, &mut bad) } {
            0 => Ok(true),
            full if is_full(full) => Ok(false),
            rc => Err(code("cannot post a receive", rc)),
        }
    }

    /// Takes completions into `wcs`; how many there were.
    #[inline]
    pub fn poll(&mut self, wcs: &mut [Wc]) -> Result<usize, VerbsError> {
        // SAFETY: the queue is alive; `wcs` has as many entries as it is said to.
        let n = unsafe { (self.poll_cq)(self.cq, wcs.len() as c_int, wcs.as_mut_ptr()) };
        if n < 0 { Err(code("cannot poll for completions", n)) } else { Ok(n as usize) }
    }
}

/// ENOMEM of most providers; ENOSPC and EAGAIN of some.
fn is_full(rc: c_int) -> bool {
    matches!(rc.abs(), 12 | 28 | 11)
}

/// A completion of a message that came in.
pub fn is_receive(wc: &Wc) -> bool {
    wc.opcode & raw::WC_RECV != 0
}

impl Drop for Rdma {
    fn drop(&mut self) {
        // SAFETY: each object is alive, destroyed once, and after all that use it. What a destroy answers is of no use
        // any more: the process ends soon, and the kernel takes back what is left.
        unsafe {
            for qp in self.qps.drain(..) {
                (self.verbs.ibv_destroy_qp)(qp);
            }
            if !self.cq.is_null() {
                (self.verbs.ibv_destroy_cq)(self.cq);
            }
            if !self.mr.is_null() {
                (self.verbs.ibv_dereg_mr)(self.mr);
            }
            if !self.pd.is_null() {
                (self.verbs.ibv_dealloc_pd)(self.pd);
            }
            (self.verbs.ibv_close_device)(self.context);
        }
    }
}

/// The device of this name, opened.
fn open_device(verbs: &Verbs, wanted: &str) -> Result<*mut raw::Context, VerbsError> {
    let mut n: c_int = 0;
    // SAFETY: the list is valid until it is freed below; every entry up to `n` is a device with a terminated name.
    unsafe {
        let list = (verbs.ibv_get_device_list)(&mut n);
        if list.is_null() {
            return Err(VerbsError::NoKernel(io::Error::last_os_error()));
        }
        let found = (0..n.max(0) as usize)
            .map(|i| *list.add(i))
            .find(|d| CStr::from_ptr((**d).name.as_ptr()).to_bytes() == wanted.as_bytes());
        let opened = found.map(|d| (verbs.ibv_open_device)(d));
        let error = io::Error::last_os_error();
        (verbs.ibv_free_device_list)(list);
        match opened {
            None => Err(VerbsError::NoDevice(wanted.to_owned())),
            Some(c) if c.is_null() => Err(with_hint("cannot open the device", error)),
            Some(c) => Ok(c),
        }
    }
}
