//! CUDA by the driver's API: devices, memory, streams, events, and the kernels of kernels.cu.
//!
//! Bound by hand rather than through `cudarc`: that crate panics where a library or a symbol is missing, and reads results
//! into Rust enums, which an answer of a newer driver makes undefined behaviour. Its generated types hold these in tests.

mod raw;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::rc::Rc;

use crate::sys::dl;

use raw::result;
pub use raw::{attribute, p2p};

/// A call to the driver that failed.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    #[error("no NVIDIA driver: {0}")]
    NoDriver(dl::DlError),
    #[error(
        "the kernel has NVIDIA's driver and libcuda.so.1 is not usable: {0}; a container is given it by \
         NVIDIA_DRIVER_CAPABILITIES=compute,utility, a machine by the driver's user-space packages"
    )]
    NoLibrary(dl::DlError),
    #[error("{what}: {text} ({name}, {code}){hint}")]
    Call { what: &'static str, code: i32, name: String, text: String, hint: &'static str },
    #[error("there is no GPU {wanted}; CUDA sees {count}")]
    NoDevice { wanted: String, count: usize },
}

impl From<dl::DlError> for CudaError {
    fn from(e: dl::DlError) -> Self {
        // A library that is there and is broken is a driver that is broken.
        if e.is_absent() && !std::path::Path::new(KERNEL_DRIVER).exists() {
            CudaError::NoDriver(e)
        } else {
            CudaError::NoLibrary(e)
        }
    }
}

/// There where the kernel's part of the driver is loaded.
const KERNEL_DRIVER: &str = "/proc/driver/nvidia/version";

impl CudaError {
    /// The driver's number of the error.
    pub fn code(&self) -> Option<i32> {
        if let CudaError::Call { code, .. } = self { Some(*code) } else { None }
    }

    /// There is no driver for programs here, as against one that fails.
    pub fn is_absent(&self) -> bool {
        match self {
            CudaError::NoDriver(_) => true,
            CudaError::NoLibrary(e) => e.is_absent(),
            _ => false,
        }
    }

    /// The hardware or the driver's hold on it failed: uncorrectable memory (214), an NVLink (220), a contained or other ECC error (226), a
    /// kernel that died (719), or an error without a name, which is what a GPU that fell off the bus gives (999).
    pub fn is_of_hardware(&self) -> bool {
        matches!(self.code(), Some(214 | 220 | 226 | 719 | 999))
    }

    /// No memory was left: less may fit.
    pub fn is_out_of_memory(&self) -> bool {
        self.code() == Some(result::OUT_OF_MEMORY)
    }
}

/// What to do about an error; empty for those that say it themselves.
const fn hint(code: i32) -> &'static str {
    match code {
        result::OUT_OF_MEMORY => "; something else fills this GPU's memory: `nvidia-smi` names it",
        result::STUB_LIBRARY => {
            "; this is the toolkit's stub, for linking only: take the `stubs` folder out of LD_LIBRARY_PATH"
        }
        result::DEVICE_UNAVAILABLE => {
            "; another process holds this GPU alone, or its compute mode forbids it: `nvidia-smi -q -d COMPUTE`"
        }
        result::NO_DEVICE => "; CUDA_VISIBLE_DEVICES hides all GPUs, or the driver sees none: `nvidia-smi -L`",
        result::INVALID_DEVICE => "; CUDA_VISIBLE_DEVICES names one that is not there",
        result::ECC_UNCORRECTABLE | result::NVLINK_UNCORRECTABLE | result::CONTAINED => {
            "; the hardware failed: look at `nvidia-smi -q -d ECC` and the kernel log for Xid, and drain the node"
        }
        result::UNSUPPORTED_PTX_VERSION => "; the driver is older than 515: it cannot load these kernels",
        result::SYSTEM_NOT_READY => {
            "; the NVSwitch fabric is not up: is nvidia-fabricmanager running, and of the driver's version?"
        }
        result::SYSTEM_DRIVER_MISMATCH => {
            "; libcuda and the kernel's driver are of different versions: restart, or mend the container's libraries"
        }
        result::COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "; the compatibility libcuda of the container does not fit this GPU or driver"
        }
        result::LAUNCH_FAILED | result::UNKNOWN => {
            "; the GPU may have fallen off the bus: look for Xid in the kernel log"
        }
        _ => "",
    }
}

/// The driver, loaded and initialised.
pub struct Cuda {
    raw: raw::Driver,
    /// Such as 12080 for CUDA 12.8: the newest that the driver knows.
    pub version: i32,
    /// The driver's library, and why that file.
    pub found: dl::Found,
}

impl Cuda {
    pub fn load() -> Result<Rc<Self>, CudaError> {
        let (library, found) = dl::open(&["libcuda.so.1"])?;
        let raw = raw::Driver::load(library, &found.path)?;
        let mut cuda = Cuda { raw, version: 0, found };
        // SAFETY: cuInit takes no pointer; the version goes into a field of this struct.
        unsafe {
            cuda.check("cuInit", (cuda.raw.cuInit)(0))?;
            let mut version = 0;
            cuda.check("cuDriverGetVersion", (cuda.raw.cuDriverGetVersion)(&mut version))?;
            cuda.version = version;
        }
        Ok(Rc::new(cuda))
    }

    fn check(&self, what: &'static str, code: c_int) -> Result<(), CudaError> {
        if code == 0 {
            return Ok(());
        }
        type Get = unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int;
        let text = |get: Get| {
            let mut text: *const c_char = std::ptr::null();
            // SAFETY: the driver sets the pointer to a text of its own that lives for ever, or to null.
            unsafe {
                get(code, &mut text);
                (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
            }
        };
        Err(CudaError::Call {
            what,
            code,
            name: text(self.raw.cuGetErrorName).unwrap_or_else(|| "unknown to this driver".to_owned()),
            text: text(self.raw.cuGetErrorString).unwrap_or_else(|| "an error without a text".to_owned()),
            hint: hint(code),
        })
    }

    /// Where the GPU that CUDA counts as `index` is on the bus: asked without a context.
    pub fn pci(&self, index: usize) -> Result<String, CudaError> {
        let (mut device, mut pci) = (0, [0u8; 32]);
        // SAFETY: everything is written to locals of the sizes that are told.
        unsafe {
            self.check("cuDeviceGet", (self.raw.cuDeviceGet)(&mut device, index as c_int))?;
            let at = pci.as_mut_ptr().cast();
            self.check("cuDeviceGetPCIBusId", (self.raw.cuDeviceGetPCIBusId)(at, pci.len() as c_int - 1, device))?;
        }
        let end = pci.iter().position(|b| *b == 0).unwrap_or(pci.len());
        Ok(String::from_utf8_lossy(&pci[..end]).to_ascii_lowercase())
    }

    pub fn count(&self) -> Result<usize, CudaError> {
        let mut n = 0;
        // SAFETY: the number is written to a local.
        self.check("cuDeviceGetCount", unsafe { (self.raw.cuDeviceGetCount)(&mut n) })?;
        Ok(n.max(0) as usize)
    }
}

/// A GPU with its primary context, current on the thread that opened it. Not to be sent to another.
pub struct Gpu {
    cuda: Rc<Cuda>,
    device: raw::Device,
    context: raw::Context,
    pub index: usize,
    pub name: String,
    /// `GPU-xxxxxxxx-...`, as nvidia-smi shows it.
    pub uuid: String,
    /// `0000:19:00.0`, as the kernel writes it.
    pub pci: String,
    pub memory: usize,
}

impl Gpu {
    /// Opens the GPU that CUDA counts as `index`.
    pub fn open(cuda: &Rc<Cuda>, index: usize) -> Result<Self, CudaError> {
        let count = cuda.count()?;
        if index >= count {
            return Err(CudaError::NoDevice { wanted: index.to_string(), count });
        }
        let raw = &cuda.raw;
        let (mut device, mut memory, mut uuid) = (0, 0usize, [0u8; 16]);
        let (mut name, mut pci) = ([0u8; 128], [0u8; 32]);
        let mut context = std::ptr::null_mut();
        // SAFETY: everything is written to locals of the sizes that are told; the context is released in `Drop`.
        unsafe {
            cuda.check("cuDeviceGet", (raw.cuDeviceGet)(&mut device, index as c_int))?;
            let at = name.as_mut_ptr().cast();
            cuda.check("cuDeviceGetName", (raw.cuDeviceGetName)(at, name.len() as c_int - 1, device))?;
            cuda.check("cuDeviceGetUuid", (raw.cuDeviceGetUuid)(&mut uuid, device))?;
            let at = pci.as_mut_ptr().cast();
            cuda.check("cuDeviceGetPCIBusId", (raw.cuDeviceGetPCIBusId)(at, pci.len() as c_int - 1, device))?;
            cuda.check("cuDeviceTotalMem", (raw.cuDeviceTotalMem_v2)(&mut memory, device))?;
            cuda.check("cuDevicePrimaryCtxRetain", (raw.cuDevicePrimaryCtxRetain)(&mut context, device))?;
        }
        let text = |bytes: &[u8]| {
            let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
            String::from_utf8_lossy(&bytes[..end]).into_owned()
        };
        let gpu = Gpu {
            cuda: cuda.clone(),
            device,
            context,
            index,
            name: text(&name),
            uuid: show_uuid(&uuid),
            pci: text(&pci).to_ascii_lowercase(),
            memory,
        };
        gpu.make_current()?;
        Ok(gpu)
    }

    /// Calls of this thread are for this GPU from here on.
    pub fn make_current(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained for as long as this struct lives.
        self.cuda.check("cuCtxSetCurrent", unsafe { (self.cuda.raw.cuCtxSetCurrent)(self.context) })
    }

    /// What makes this GPU current on another thread, for a library that is called there. The GPU must live as long.
    pub fn elsewhere(&self) -> Elsewhere {
        Elsewhere { set: self.cuda.raw.cuCtxSetCurrent, context: self.context }
    }

    /// The driver that it was opened by.
    pub fn driver(&self) -> &Cuda {
        &self.cuda
    }

    pub fn attribute(&self, which: i32) -> Result<i32, CudaError> {
        let mut value = 0;
        // SAFETY: the value is written to a local.
        let code = unsafe { (self.cuda.raw.cuDeviceGetAttribute)(&mut value, which, self.device) };
        self.cuda.check("cuDeviceGetAttribute", code).map(|()| value)
    }

    /// Compute capability, such as `(9, 0)`.
    pub fn capability(&self) -> Result<(i32, i32), CudaError> {
        Ok((self.attribute(attribute::MAJOR)?, self.attribute(attribute::MINOR)?))
    }

    /// Bytes free and in all.
    pub fn memory_info(&self) -> Result<(usize, usize), CudaError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the numbers are written to locals.
        self.cuda.check("cuMemGetInfo", unsafe { (self.cuda.raw.cuMemGetInfo_v2)(&mut free, &mut total) })?;
        Ok((free, total))
    }

    pub fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: takes nothing.
        self.cuda.check("cuCtxSynchronize", unsafe { (self.cuda.raw.cuCtxSynchronize)() })
    }

    /// Device memory, not initialised.
    pub fn alloc(&self, bytes: usize) -> Result<Memory, CudaError> {
        let mut at = 0;
        // SAFETY: the address is written to a local; it is freed in `Drop`.
        self.cuda.check("cuMemAlloc", unsafe { (self.cuda.raw.cuMemAlloc_v2)(&mut at, bytes.max(1)) })?;
        Ok(Memory { cuda: self.cuda.clone(), at, bytes })
    }

    /// Host memory that the GPU reads by itself, zeroed.
    pub fn pinned(&self, bytes: usize) -> Result<Pinned, CudaError> {
        let mut at = std::ptr::null_mut();
        // SAFETY: the address is written to a local; the memory has `bytes` bytes, which are set before they are read.
        unsafe {
            self.cuda.check("cuMemAllocHost", (self.cuda.raw.cuMemAllocHost_v2)(&mut at, bytes.max(1)))?;
            std::ptr::write_bytes(at.cast::<u8>(), 0, bytes);
        }
        Ok(Pinned { cuda: self.cuda.clone(), at: at.cast(), bytes })
    }

    pub fn stream(&self) -> Result<Stream, CudaError> {
        let mut stream = std::ptr::null_mut();
        // SAFETY: the handle is written to a local; it is destroyed in `Drop`.
        let code = unsafe { (self.cuda.raw.cuStreamCreate)(&mut stream, raw::STREAM_NON_BLOCKING) };
        self.cuda.check("cuStreamCreate", code)?;
        Ok(Stream { cuda: self.cuda.clone(), stream })
    }

    pub fn event(&self) -> Result<Event, CudaError> {
        let mut event = std::ptr::null_mut();
        // SAFETY: as above. No flags: an event that takes the time.
        self.cuda.check("cuEventCreate", unsafe { (self.cuda.raw.cuEventCreate)(&mut event, 0) })?;
        Ok(Event { cuda: self.cuda.clone(), event })
    }

    /// The kernels of kernels.cu, compiled by the driver for this GPU.
    pub fn kernels(&self) -> Result<Kernels, CudaError> {
        let text = CString::new(include_str!("kernels.ptx")).unwrap_or_default();
        let mut module = std::ptr::null_mut();
        // SAFETY: the text ends with a zero; the handle is written to a local and unloaded in `Drop`.
        let code = unsafe { (self.cuda.raw.cuModuleLoadData)(&mut module, text.as_ptr().cast()) };
        self.cuda.check("cuModuleLoadData", code)?;
        let processors = self.attribute(attribute::MULTIPROCESSORS)?.max(1) as u32;
        Ok(Kernels { cuda: self.cuda.clone(), module, processors })
    }

    /// Whether this GPU reads and writes the other's memory by itself, and whether atomics work across.
    pub fn peer(&self, other: &Gpu) -> Result<(bool, bool), CudaError> {
        let (mut access, mut atomics) = (0, 0);
        let raw = &self.cuda.raw;
        // SAFETY: the answers are written to locals.
        unsafe {
            let code = (raw.cuDeviceCanAccessPeer)(&mut access, self.device, other.device);
            self.cuda.check("cuDeviceCanAccessPeer", code)?;
            let code = (raw.cuDeviceGetP2PAttribute)(&mut atomics, p2p::NATIVE_ATOMICS, self.device, other.device);
            self.cuda.check("cuDeviceGetP2PAttribute", code)?;
        }
        Ok((access != 0, atomics != 0))
    }

    /// Lets kernels and copies of this GPU reach the other's memory directly.
    pub fn enable_peer(&self, other: &Gpu) -> Result<(), CudaError> {
        self.make_current()?;
        // SAFETY: the other context is alive.
        let code = unsafe { (self.cuda.raw.cuCtxEnablePeerAccess)(other.context, 0) };
        if code == result::PEER_ACCESS_ALREADY_ENABLED {
            Ok(())
        } else {
            self.cuda.check("cuCtxEnablePeerAccess", code)
        }
    }

    /// A dma-buf of all of `memory`, for other devices to reach it: a file descriptor, owned by the caller.
    pub fn dma_buf(&self, memory: &Memory) -> Result<std::os::fd::OwnedFd, String> {
        if self.attribute(attribute::DMA_BUF).map_err(|e| e.to_string())? == 0 {
            return Err("this driver gives no dma-buf of GPU memory: the open kernel modules from 515 on do".to_owned());
        }
        let export = self.cuda.raw.cuMemGetHandleForAddressRange;
        let export = export.ok_or("libcuda is older than CUDA 11.7: it exports no dma-buf")?;
        let mut fd: c_int = -1;
        let at = (&raw mut fd).cast::<c_void>();
        // SAFETY: a handle of this kind is a file descriptor, written to a local; the range is this allocation's.
        let code = unsafe { export(at, memory.at, memory.bytes, raw::RANGE_HANDLE_DMA_BUF, 0) };
        self.cuda.check("cuMemGetHandleForAddressRange", code).map_err(|e| e.to_string())?;
        if fd < 0 {
            return Err("the driver said yes and gave no file descriptor".to_owned());
        }
        // SAFETY: the driver opened it for us, and nobody else knows of it.
        Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) })
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: retained once, released once. What it answers is of no use any more.
        unsafe { (self.cuda.raw.cuDevicePrimaryCtxRelease_v2)(self.device) };
    }
}

/// `GPU-` and the sixteen bytes in groups.
fn show_uuid(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// See [`Gpu::elsewhere`].
pub struct Elsewhere {
    set: unsafe extern "C" fn(raw::Context) -> c_int,
    context: raw::Context,
}

// SAFETY: a context may be current on several threads at once (CUDA driver API, context management).
unsafe impl Send for Elsewhere {}

impl Elsewhere {
    /// Whether this thread's calls are for the GPU from here on.
    pub fn make_current(&self) -> bool {
        // SAFETY: the context is retained by the GPU that this came from.
        unsafe { (self.set)(self.context) == 0 }
    }
}

/// Device memory.
pub struct Memory {
    cuda: Rc<Cuda>,
    at: raw::Pointer,
    bytes: usize,
}

impl Memory {
    /// Its address on the device.
    pub fn address(&self) -> u64 {
        self.at
    }

    #[expect(clippy::len_without_is_empty, reason = "none is empty")]
    pub fn len(&self) -> usize {
        self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated once, freed once; what still runs on it ends first, the driver waits for it.
        unsafe { (self.cuda.raw.cuMemFree_v2)(self.at) };
    }
}

/// Page-locked host memory.
pub struct Pinned {
    cuda: Rc<Cuda>,
    at: *mut u8,
    bytes: usize,
}

impl std::ops::Deref for Pinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the memory has `bytes` bytes, which were set, and lives as long as this struct.
        unsafe { std::slice::from_raw_parts(self.at, self.bytes) }
    }
}

impl std::ops::DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated once, freed once.
        unsafe { (self.cuda.raw.cuMemFreeHost)(self.at.cast()) };
    }
}

/// Work in order.
pub struct Stream {
    cuda: Rc<Cuda>,
    stream: raw::Stream,
}

impl Stream {
    /// What other libraries (cuBLASLt, NCCL) call it.
    pub fn raw(&self) -> *mut c_void {
        self.stream
    }

    pub fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the stream is alive.
        self.cuda.check("cuStreamSynchronize", unsafe { (self.cuda.raw.cuStreamSynchronize)(self.stream) })
    }

    /// Whether everything is done.
    pub fn is_idle(&self) -> Result<bool, CudaError> {
        // SAFETY: the stream is alive.
        match unsafe { (self.cuda.raw.cuStreamQuery)(self.stream) } {
            result::NOT_READY => Ok(false),
            code => self.cuda.check("cuStreamQuery", code).map(|()| true),
        }
    }

    pub fn record(&self, event: &Event) -> Result<(), CudaError> {
        // SAFETY: both are alive.
        self.cuda.check("cuEventRecord", unsafe { (self.cuda.raw.cuEventRecord)(event.event, self.stream) })
    }

    pub fn wait_for(&self, event: &Event) -> Result<(), CudaError> {
        // SAFETY: both are alive.
        self.cuda.check("cuStreamWaitEvent", unsafe { (self.cuda.raw.cuStreamWaitEvent)(self.stream, event.event, 0) })
    }

    /// Copies all of `from` to the beginning of `to`. The caller keeps both until the stream has come so far.
    pub fn upload(&self, to: &Memory, from: &Pinned) -> Result<(), CudaError> {
        let n = from.bytes.min(to.bytes);
        // SAFETY: both have `n` bytes.
        let code = unsafe { (self.cuda.raw.cuMemcpyHtoDAsync_v2)(to.at, from.at.cast(), n, self.stream) };
        self.cuda.check("cuMemcpyHtoDAsync", code)
    }

    pub fn download(&self, to: &mut Pinned, from: &Memory) -> Result<(), CudaError> {
        let n = from.bytes.min(to.bytes);
        // SAFETY: both have `n` bytes.
        let code = unsafe { (self.cuda.raw.cuMemcpyDtoHAsync_v2)(to.at.cast(), from.at, n, self.stream) };
        self.cuda.check("cuMemcpyDtoHAsync", code)
    }

    pub fn copy(&self, to: &Memory, from: &Memory) -> Result<(), CudaError> {
        let n = from.bytes.min(to.bytes);
        // SAFETY: both have `n` bytes.
        let code = unsafe { (self.cuda.raw.cuMemcpyDtoDAsync_v2)(to.at, from.at, n, self.stream) };
        self.cuda.check("cuMemcpyDtoDAsync", code)
    }

    /// Copies from the memory of one GPU to that of another.
    pub fn copy_peer(&self, (to, there): (&Memory, &Gpu), (from, here): (&Memory, &Gpu)) -> Result<(), CudaError> {
        let n = from.bytes.min(to.bytes);
        // SAFETY: both have `n` bytes, each in the context that is told.
        let code =
            unsafe { (self.cuda.raw.cuMemcpyPeerAsync)(to.at, there.context, from.at, here.context, n, self.stream) };
        self.cuda.check("cuMemcpyPeerAsync", code)
    }

    pub fn fill(&self, memory: &Memory, byte: u8) -> Result<(), CudaError> {
        // SAFETY: the memory has so many bytes.
        let code = unsafe { (self.cuda.raw.cuMemsetD8Async)(memory.at, byte, memory.bytes, self.stream) };
        self.cuda.check("cuMemsetD8Async", code)
    }

    /// Reads one number from the beginning of `memory`, when everything before it is done.
    pub fn read_u64(&self, memory: &Memory) -> Result<u64, CudaError> {
        let mut out = [0u8; 8];
        let n = memory.bytes.min(8);
        // SAFETY: `out` has `n` bytes and lives until the copy is done, which is waited for.
        unsafe {
            let code = (self.cuda.raw.cuMemcpyDtoHAsync_v2)(out.as_mut_ptr().cast(), memory.at, n, self.stream);
            self.cuda.check("cuMemcpyDtoHAsync", code)?;
        }
        self.synchronize()?;
        Ok(u64::from_ne_bytes(out))
    }

    /// Writes bytes to the beginning of `memory` and waits for it.
    pub fn write(&self, memory: &Memory, bytes: &[u8]) -> Result<(), CudaError> {
        let n = memory.bytes.min(bytes.len());
        // SAFETY: both have `n` bytes, and the copy is waited for.
        let code = unsafe { (self.cuda.raw.cuMemcpyHtoDAsync_v2)(memory.at, bytes.as_ptr().cast(), n, self.stream) };
        self.cuda.check("cuMemcpyHtoDAsync", code)?;
        self.synchronize()
    }

    /// Reads bytes of `memory` from `offset` on, as many as there are.
    pub fn read(&self, memory: &Memory, offset: usize, bytes: &mut [u8]) -> Result<(), CudaError> {
        let offset = offset.min(memory.bytes);
        let n = (memory.bytes - offset).min(bytes.len());
        let from = memory.at + offset as u64;
        // SAFETY: both have `n` bytes, and the copy is waited for.
        let code = unsafe { (self.cuda.raw.cuMemcpyDtoHAsync_v2)(bytes.as_mut_ptr().cast(), from, n, self.stream) };
        self.cuda.check("cuMemcpyDtoHAsync", code)?;
        self.synchronize()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        unsafe { (self.cuda.raw.cuStreamDestroy_v2)(self.stream) };
    }
}

/// A moment in a stream.
pub struct Event {
    cuda: Rc<Cuda>,
    event: raw::Event,
}

impl Event {
    pub fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the event is alive.
        self.cuda.check("cuEventSynchronize", unsafe { (self.cuda.raw.cuEventSynchronize)(self.event) })
    }

    /// Seconds from `earlier` to this; both must have come to pass. Half a microsecond is what it resolves.
    pub fn seconds_since(&self, earlier: &Event) -> Result<f64, CudaError> {
        let mut ms = 0f32;
        // SAFETY: both are alive; the number is written to a local.
        let code = unsafe { (self.cuda.raw.cuEventElapsedTime)(&mut ms, earlier.event, self.event) };
        self.cuda.check("cuEventElapsedTime", code)?;
        Ok(f64::from(ms) * 1e-3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        unsafe { (self.cuda.raw.cuEventDestroy_v2)(self.event) };
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub enum Arg<'a> {
    Memory(&'a Memory),
    /// So many bytes into it.
    At(&'a Memory, u64),
    U64(u64),
    U32(u32),
    F32(f32),
}

/// The device code.
pub struct Kernels {
    cuda: Rc<Cuda>,
    module: raw::Module,
    processors: u32,
}

/// Threads of a block: what the reductions in kernels.cu are written for.
const BLOCK: u32 = 256;

impl Kernels {
    /// Launches a kernel with `blocks` blocks, or as many as fill the GPU. Arguments are as kernels.cu has them.
    pub fn launch(&self, stream: &Stream, name: &CStr, blocks: Option<u32>, args: &[Arg<'_>]) -> Result<(), CudaError> {
        let mut function = std::ptr::null_mut();
        // Each argument by its address; all are eight bytes wide or less, and lie little-endian.
        let mut values: Vec<u64> = args
            .iter()
            .map(|a| match a {
                Arg::Memory(m) => m.at,
                Arg::At(m, offset) => m.at + (*offset).min(m.bytes as u64),
                Arg::U64(v) => *v,
                Arg::U32(v) => u64::from(*v),
                Arg::F32(v) => u64::from(v.to_bits()),
            })
            .collect();
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|v| (v as *mut u64).cast()).collect();
        let raw = &self.cuda.raw;
        let blocks = blocks.unwrap_or(self.processors * 8);
        // SAFETY: the module is loaded; the driver copies as many arguments as the kernel has before it returns, and the
        // callers in this crate give as many, of the types that kernels.cu declares.
        unsafe {
            let code = (raw.cuModuleGetFunction)(&mut function, self.module, name.as_ptr());
            self.cuda.check("cuModuleGetFunction", code)?;
            let (at, none) = (pointers.as_mut_ptr(), std::ptr::null_mut());
            let code = (raw.cuLaunchKernel)(function, blocks, 1, 1, BLOCK, 1, 1, 0, stream.stream, at, none);
            self.cuda.check("cuLaunchKernel", code)
        }
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        // SAFETY: loaded once, unloaded once.
        unsafe { (self.cuda.raw.cuModuleUnload)(self.module) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_shown_as_nvidia_smi_shows_it() {
        let bytes: [u8; 16] = std::array::from_fn(|i| i as u8 * 17);
        assert_eq!(show_uuid(&bytes), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }

    /// The compiled file says which source it was made of.
    #[test]
    fn the_kernels_are_those_of_their_source() {
        use sha2::{Digest, Sha256};
        let (source, compiled) = (include_str!("kernels.cu"), include_str!("kernels.ptx"));
        let hash: String = Sha256::digest(source).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(compiled.lines().next(), Some(format!("// kernels.cu {hash}").as_str()), "run make kernels");
        let names = source.split("__global__ void ").skip(1).filter_map(|s| s.split('(').next());
        let mut n = 0;
        for name in names {
            assert!(compiled.contains(&format!(".entry {name}(")), "{name}: run make kernels");
            n += 1;
        }
        assert!(n > 10);
    }
}
