//! NCCL: communicators and collectives on GPUs. Loaded at run time, of version 2.18 or later.
//!
//! A communicator is made by a thread of its own, and is otherwise a blocking one: a non-blocking one starts a thread for every
//! operation (NCCL src/group.cc), which would be in the time that is measured. Who made it waits for no longer than it is
//! told; after that the process can only end, as nothing that is half made can be aborted.

#![expect(non_snake_case, reason = "the names are those of the library")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::sys::cuda::{CudaError, Gpu, Memory, Stream};
use crate::sys::dl::{self, Built, Found, Wanted, library};

/// Bytes of a unique id (NCCL_UNIQUE_ID_BYTES).
pub const ID_BYTES: usize = 128;
/// Before 2.18 a communicator has no configuration as here.
const OLDEST: i32 = 21_800;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct RawId([u8; ID_BYTES]);

/// ncclConfig_t as it was in 2.18. A newer library takes what it is given, and the rest as not set; what was padding then is
/// the traffic class since.
#[repr(C)]
pub struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
    cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
    traffic_class: c_int,
}

impl Config {
    fn blocking() -> Self {
        let unset = c_int::MIN;
        Config {
            size: size_of::<Config>(),
            magic: 0xcafe_beef,
            version: OLDEST as u32,
            blocking: 1,
            cluster_size: unset,
            min_ctas: unset,
            max_ctas: unset,
            net_name: std::ptr::null(),
            split_share: unset,
            traffic_class: unset,
        }
    }
}

type RawComm = *mut c_void;

library! {
    /// The functions of the library.
    Raw
    needs {
        ncclGetVersion: fn(*mut c_int) -> c_int;
        ncclGetUniqueId: fn(*mut RawId) -> c_int;
        ncclGetErrorString: fn(c_int) -> *const c_char;
        ncclCommInitRankConfig: fn(*mut RawComm, c_int, RawId, c_int, *mut Config) -> c_int;
        ncclCommGetAsyncError: fn(RawComm, *mut c_int) -> c_int;
        ncclCommAbort: fn(RawComm) -> c_int;
        ncclCommDestroy: fn(RawComm) -> c_int;
        ncclAllReduce: fn(*const c_void, *mut c_void, usize, c_int, c_int, RawComm, *mut c_void) -> c_int;
        ncclAllGather: fn(*const c_void, *mut c_void, usize, c_int, RawComm, *mut c_void) -> c_int;
        ncclReduceScatter: fn(*const c_void, *mut c_void, usize, c_int, c_int, RawComm, *mut c_void) -> c_int;
        ncclBroadcast: fn(*const c_void, *mut c_void, usize, c_int, c_int, RawComm, *mut c_void) -> c_int;
        ncclSend: fn(*const c_void, usize, c_int, c_int, RawComm, *mut c_void) -> c_int;
        ncclRecv: fn(*mut c_void, usize, c_int, c_int, RawComm, *mut c_void) -> c_int;
        ncclGroupStart: fn() -> c_int;
        ncclGroupEnd: fn() -> c_int;
    }
    may {
        ncclGetLastError: fn(RawComm) -> *const c_char;
    }
}

/// ncclFloat32 and ncclSum.
const FLOAT32: c_int = 7;
const SUM: c_int = 0;

mod result {
    //! ncclResult_t, as far as it is looked at.
    pub const UNHANDLED_CUDA_ERROR: i32 = 1;
    pub const SYSTEM_ERROR: i32 = 2;
    pub const REMOTE_ERROR: i32 = 6;
}

/// A call that failed, or a library that is not here.
#[derive(Debug, thiserror::Error)]
pub enum NcclError {
    #[error("no NCCL: {0}; pip's nvidia-nccl or the distribution's libnccl2 has it")]
    NoLibrary(dl::DlError),
    /// What is here cannot be loaded: the job's own NCCL may be broken, too.
    #[error("NCCL: {0}")]
    Broken(dl::DlError),
    #[error("NCCL {0} is older than 2.18, the oldest that this works with")]
    TooOld(String),
    #[error("{what}: {text} (NCCL result {code}){last}{hint}")]
    Call { what: &'static str, code: c_int, text: String, last: String, hint: &'static str },
    #[error("{what} did not end within {:.0} s", after.as_secs_f64())]
    Late { what: &'static str, after: Duration },
    #[error(transparent)]
    Cuda(#[from] CudaError),
}

impl From<dl::DlError> for NcclError {
    fn from(e: dl::DlError) -> Self {
        if e.is_absent() { NcclError::NoLibrary(e) } else { NcclError::Broken(e) }
    }
}

/// What to look at; empty for those that say it themselves.
const fn hint(code: c_int) -> &'static str {
    match code {
        result::UNHANDLED_CUDA_ERROR => "; a call to CUDA failed: look for Xid in the kernel log",
        result::SYSTEM_ERROR => {
            "; a call to the system or the network failed: the interface (NCCL_SOCKET_IFNAME), memlock or /dev/shm"
        }
        result::REMOTE_ERROR => "; a peer died or its network failed: look at what its rank said",
        _ => "",
    }
}

/// The library.
pub struct Nccl {
    raw: Raw,
    /// Such as 22703 for 2.27.3.
    pub version: i32,
    /// What was opened, and why that.
    pub found: Found,
}

impl Nccl {
    /// Loads the NCCL of the job for a driver of that CUDA, 12080 being 12.8.
    pub fn load(driver: Option<i32>) -> Result<Rc<Self>, NcclError> {
        // Its version's text has the CUDA that it was built with: `NCCL version 2.27.3+cuda12.9` (init.cc).
        let wanted = Wanted { names: &["libnccl.so.2"], built: Built::Mark(b"+cuda"), driver };
        let (library, found) = dl::open_for_job(&wanted)?;
        let raw = Raw::load(library, &found.path)?;
        let mut version = 0;
        // SAFETY: the number is written to a local.
        let code = unsafe { (raw.ncclGetVersion)(&mut version) };
        let nccl = Nccl { raw, version, found };
        nccl.check("ncclGetVersion", code, None)?;
        if version < OLDEST {
            return Err(NcclError::TooOld(show_version(version)));
        }
        Ok(Rc::new(nccl))
    }

    fn check(&self, what: &'static str, code: c_int, comm: Option<RawComm>) -> Result<(), NcclError> {
        if code == 0 {
            return Ok(());
        }
        let text = |at: *const c_char| {
            // SAFETY: the library returns texts of its own that live for ever, or null.
            (!at.is_null()).then(|| unsafe { CStr::from_ptr(at) }.to_string_lossy().trim().to_owned())
        };
        // SAFETY: takes a number; the last error is kept for the whole process, the communicator is not looked at.
        let (said, last) = unsafe {
            let last = self.raw.ncclGetLastError.map(|get| get(comm.unwrap_or(std::ptr::null_mut())));
            (text((self.raw.ncclGetErrorString)(code)), last.and_then(text))
        };
        let last = last.filter(|l| !l.is_empty()).map_or(String::new(), |l| format!(": {l}"));
        Err(NcclError::Call { what, code, text: said.unwrap_or_default(), last, hint: hint(code) })
    }

    /// A new id, by which ranks find each other.
    pub fn unique_id(&self) -> Result<[u8; ID_BYTES], NcclError> {
        let mut id = RawId([0; ID_BYTES]);
        // SAFETY: the id is written to a local of its size.
        self.check("ncclGetUniqueId", unsafe { (self.raw.ncclGetUniqueId)(&mut id) }, None)?;
        Ok(id.0)
    }
}

/// `2.27.3` of 22703.
pub fn show_version(version: i32) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

/// A pointer that goes to another thread and back, which alone uses it meanwhile.
struct Carried<T>(T);
// SAFETY: what is carried is a communicator's handle, which NCCL lets any one thread at a time use.
unsafe impl<T> Send for Carried<T> {}

/// A communicator of this rank. What is queued on a stream runs when all ranks have queued it.
pub struct Comm {
    nccl: Rc<Nccl>,
    comm: RawComm,
    pub rank: usize,
    pub ranks: usize,
}

impl Comm {
    /// Joins `ranks` ranks that all have `id`, each with a GPU of its own, and waits for no longer than `patience`.
    ///
    /// After [`NcclError::Late`] a thread of the library is left behind: the process should end.
    pub fn join(
        nccl: &Rc<Nccl>,
        gpu: &Gpu,
        (rank, ranks): (usize, usize),
        id: [u8; ID_BYTES],
        patience: Duration,
    ) -> Result<Self, NcclError> {
        let (sender, joined) = mpsc::channel();
        let join = nccl.raw.ncclCommInitRankConfig;
        let here = gpu.elsewhere();
        std::thread::spawn(move || {
            let mut comm: RawComm = std::ptr::null_mut();
            let mut config = Config::blocking();
            let code = if here.make_current() {
                // SAFETY: handle and configuration are locals of this thread, and the call returns before they end.
                unsafe { join(&mut comm, ranks as c_int, RawId(id), rank as c_int, &mut config) }
            } else {
                result::UNHANDLED_CUDA_ERROR
            };
            let _ = sender.send(Carried((comm, code)));
        });
        let Ok(Carried((comm, code))) = joined.recv_timeout(patience) else {
            return Err(NcclError::Late { what: "ncclCommInitRankConfig", after: patience });
        };
        nccl.check("ncclCommInitRankConfig", code, None)?;
        Ok(Comm { nccl: nccl.clone(), comm, rank, ranks })
    }

    /// `to[i] = sum over ranks of from[i]`, `count` elements; `from` and `to` may be the same.
    pub fn all_reduce(&self, stream: &Stream, from: Span<'_>, to: Span<'_>, count: usize) -> Result<(), NcclError> {
        let (from, to) = (from.of(count), to.of(count));
        // SAFETY: both hold `count` elements of four bytes.
        let code = unsafe { (self.nccl.raw.ncclAllReduce)(from, to, count, FLOAT32, SUM, self.comm, stream.raw()) };
        self.check("ncclAllReduce", code)
    }

    /// `to` = `count` elements of each rank, in rank order.
    pub fn all_gather(&self, stream: &Stream, from: Span<'_>, to: Span<'_>, count: usize) -> Result<(), NcclError> {
        let (from, to) = (from.of(count), to.of(count * self.ranks));
        // SAFETY: `from` holds `count` elements of four bytes, `to` that of all ranks.
        let code = unsafe { (self.nccl.raw.ncclAllGather)(from, to, count, FLOAT32, self.comm, stream.raw()) };
        self.check("ncclAllGather", code)
    }

    /// `to` = this rank's `count` elements of the sum over ranks of `from`.
    pub fn reduce_scatter(&self, stream: &Stream, from: Span<'_>, to: Span<'_>, count: usize) -> Result<(), NcclError> {
        let (from, to) = (from.of(count * self.ranks), to.of(count));
        // SAFETY: as above, the other way round.
        let code = unsafe { (self.nccl.raw.ncclReduceScatter)(from, to, count, FLOAT32, SUM, self.comm, stream.raw()) };
        self.check("ncclReduceScatter", code)
    }

    /// `to` = rank 0's `count` elements of `from`.
    pub fn broadcast(&self, stream: &Stream, from: Span<'_>, to: Span<'_>, count: usize) -> Result<(), NcclError> {
        let (from, to) = (from.of(count), to.of(count));
        // SAFETY: both hold `count` elements of four bytes.
        let code = unsafe { (self.nccl.raw.ncclBroadcast)(from, to, count, FLOAT32, 0, self.comm, stream.raw()) };
        self.check("ncclBroadcast", code)
    }

    /// Part `j` of `from` goes to rank `j`; `to` holds this rank's part of every rank. `count` elements a part.
    pub fn all_to_all(&self, stream: &Stream, from: Span<'_>, to: Span<'_>, count: usize) -> Result<(), NcclError> {
        self.group(|| {
            (0..self.ranks).try_for_each(|peer| {
                let part = (peer * count * 4) as u64;
                self.send(stream, from.skip(part), count, peer)?;
                self.receive(stream, to.skip(part), count, peer)
            })
        })
    }

    /// What `queue` queues is one operation: sends and receives that wait for each other.
    pub fn group(&self, queue: impl FnOnce() -> Result<(), NcclError>) -> Result<(), NcclError> {
        // SAFETY: takes nothing.
        self.check("ncclGroupStart", unsafe { (self.nccl.raw.ncclGroupStart)() })?;
        let queued = queue();
        // SAFETY: takes nothing. A group that was begun is ended, whatever came between.
        let ended = self.check("ncclGroupEnd", unsafe { (self.nccl.raw.ncclGroupEnd)() });
        queued.and(ended)
    }

    pub fn send(&self, stream: &Stream, from: Span<'_>, count: usize, peer: usize) -> Result<(), NcclError> {
        let from = from.of(count);
        // SAFETY: `from` holds `count` elements of four bytes.
        let code = unsafe { (self.nccl.raw.ncclSend)(from, count, FLOAT32, peer as c_int, self.comm, stream.raw()) };
        self.check("ncclSend", code)
    }

    pub fn receive(&self, stream: &Stream, to: Span<'_>, count: usize, peer: usize) -> Result<(), NcclError> {
        let to = to.of(count);
        // SAFETY: `to` holds `count` elements of four bytes.
        let code = unsafe { (self.nccl.raw.ncclRecv)(to, count, FLOAT32, peer as c_int, self.comm, stream.raw()) };
        self.check("ncclRecv", code)
    }

    /// Waits until the stream has nothing left to do, or until it is known that it never will.
    pub fn wait(&self, stream: &Stream, patience: Duration) -> Result<(), NcclError> {
        let begin = Instant::now();
        loop {
            if stream.is_idle()? {
                return Ok(());
            }
            let mut error = 0;
            // SAFETY: the communicator is alive, the number is a local.
            let code = unsafe { (self.nccl.raw.ncclCommGetAsyncError)(self.comm, &mut error) };
            self.check("ncclCommGetAsyncError", code)?;
            self.check("an operation under way", error)?;
            if begin.elapsed() > patience {
                return Err(NcclError::Late { what: "what was queued on the GPU", after: patience });
            }
            // A spin would take a core from NCCL's own threads.
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn check(&self, what: &'static str, code: c_int) -> Result<(), NcclError> {
        self.nccl.check(what, code, Some(self.comm))
    }

    /// Ends what is under way, so that its kernels leave the GPU. May hang itself: no longer than `patience` is waited.
    pub fn abort(self, patience: Duration) {
        let (abort, comm) = (self.nccl.raw.ncclCommAbort, Carried(self.comm));
        // As above, should it hang.
        std::mem::forget(self);
        let (sender, done) = mpsc::channel();
        std::thread::spawn(move || {
            let comm = comm;
            // SAFETY: the communicator is alive, and nobody else has it any more.
            unsafe { abort(comm.0) };
            let _ = sender.send(());
        });
        let _ = done.recv_timeout(patience);
    }
}

impl Drop for Comm {
    fn drop(&mut self) {
        // SAFETY: made once, ended once.
        unsafe { (self.nccl.raw.ncclCommDestroy)(self.comm) };
    }
}

/// Memory from a place on.
#[derive(Clone, Copy)]
pub struct Span<'m> {
    memory: &'m Memory,
    from: u64,
}

impl<'m> Span<'m> {
    pub fn new(memory: &'m Memory) -> Self {
        Span { memory, from: 0 }
    }

    pub fn skip(self, bytes: u64) -> Self {
        Span { from: self.from + bytes, ..self }
    }

    /// The address of `count` elements of four bytes.
    ///
    /// # Panics
    /// Where they do not lie within: a mistake of the caller, which must not reach the GPU.
    fn of(self, count: usize) -> *mut c_void {
        assert!(self.from as usize + 4 * count <= self.memory.len(), "{count} elements do not fit");
        (self.memory.address() + self.from) as *mut c_void
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::signature::assert_signatures;
    use cudarc::nccl::sys::{ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclResult_t, ncclUniqueId};
    use std::mem::offset_of;

    #[test]
    fn functions_are_those_of_the_header() {
        assert_signatures!(Raw, cudarc::nccl::sys, {
            ncclGetVersion(_);
            ncclGetUniqueId(_);
            ncclGetErrorString(_);
            ncclGetLastError(_);
            ncclCommInitRankConfig(_, _, _, _, _);
            ncclCommGetAsyncError(_, _);
            ncclCommAbort(_);
            ncclCommDestroy(_);
            ncclAllReduce(_, _, _, _, _, _, _);
            ncclAllGather(_, _, _, _, _, _);
            ncclReduceScatter(_, _, _, _, _, _, _);
            ncclBroadcast(_, _, _, _, _, _, _);
            ncclSend(_, _, _, _, _, _);
            ncclRecv(_, _, _, _, _, _);
            ncclGroupStart();
            ncclGroupEnd();
        });
    }

    #[test]
    fn numbers_are_those_of_the_header() {
        assert_eq!(FLOAT32, ncclDataType_t::ncclFloat32 as c_int);
        assert_eq!(SUM, ncclRedOp_t::ncclSum as c_int);
        for (ours, theirs) in [
            (result::UNHANDLED_CUDA_ERROR, ncclResult_t::ncclUnhandledCudaError),
            (result::SYSTEM_ERROR, ncclResult_t::ncclSystemError),
            (result::REMOTE_ERROR, ncclResult_t::ncclRemoteError),
        ] {
            assert_eq!(ours, theirs as c_int, "{theirs:?}");
        }
        assert_eq!((size_of::<RawId>(), align_of::<RawId>()), (size_of::<ncclUniqueId>(), align_of::<ncclUniqueId>()));
        assert_eq!(size_of::<ncclResult_t>(), size_of::<c_int>());
    }

    /// Later versions put new fields behind those that 2.18 has, and in its padding.
    #[test]
    fn a_configuration_begins_as_the_headers_does() {
        let ours = [
            offset_of!(Config, size),
            offset_of!(Config, magic),
            offset_of!(Config, version),
            offset_of!(Config, blocking),
            offset_of!(Config, cluster_size),
            offset_of!(Config, min_ctas),
            offset_of!(Config, max_ctas),
            offset_of!(Config, net_name),
            offset_of!(Config, split_share),
            offset_of!(Config, traffic_class),
        ];
        let theirs = [
            offset_of!(ncclConfig_t, size),
            offset_of!(ncclConfig_t, magic),
            offset_of!(ncclConfig_t, version),
            offset_of!(ncclConfig_t, blocking),
            offset_of!(ncclConfig_t, cgaClusterSize),
            offset_of!(ncclConfig_t, minCTAs),
            offset_of!(ncclConfig_t, maxCTAs),
            offset_of!(ncclConfig_t, netName),
            offset_of!(ncclConfig_t, splitShare),
            offset_of!(ncclConfig_t, trafficClass),
        ];
        assert_eq!(ours, theirs);
        // What follows the last of our fields in the header is where our struct ends.
        assert_eq!(size_of::<Config>(), offset_of!(ncclConfig_t, commName));
    }

    #[test]
    fn versions_are_shown_as_the_library_has_them() {
        assert_eq!((show_version(21_805), show_version(23_203)), ("2.18.5".to_owned(), "2.32.3".to_owned()));
    }
}
