//! libcuda.so.1: the driver's own functions, by the names that it exports (cuda.h renames some to `_v2`). All have been there
//! since CUDA 11; results are plain numbers, for a newer driver knows more of them.

#![expect(non_snake_case, reason = "the names are those of the library")]

use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::sys::dl::library;

pub type Device = c_int;
pub type Context = *mut c_void;
pub type Pointer = u64;
pub type Stream = *mut c_void;
pub type Event = *mut c_void;
pub type Module = *mut c_void;
pub type Function = *mut c_void;

library! {
    /// The functions of the driver.
    Driver
    needs {
    cuInit: fn(c_uint) -> c_int;
    cuDriverGetVersion: fn(*mut c_int) -> c_int;
    cuGetErrorName: fn(c_int, *mut *const c_char) -> c_int;
    cuGetErrorString: fn(c_int, *mut *const c_char) -> c_int;
    cuDeviceGetCount: fn(*mut c_int) -> c_int;
    cuDeviceGet: fn(*mut Device, c_int) -> c_int;
    cuDeviceGetName: fn(*mut c_char, c_int, Device) -> c_int;
    cuDeviceGetUuid: fn(*mut [u8; 16], Device) -> c_int;
    cuDeviceGetPCIBusId: fn(*mut c_char, c_int, Device) -> c_int;
    cuDeviceTotalMem_v2: fn(*mut usize, Device) -> c_int;
    cuDeviceGetAttribute: fn(*mut c_int, c_int, Device) -> c_int;
    cuDeviceCanAccessPeer: fn(*mut c_int, Device, Device) -> c_int;
    cuDeviceGetP2PAttribute: fn(*mut c_int, c_int, Device, Device) -> c_int;
    cuDevicePrimaryCtxRetain: fn(*mut Context, Device) -> c_int;
    cuDevicePrimaryCtxRelease_v2: fn(Device) -> c_int;
    cuCtxSetCurrent: fn(Context) -> c_int;
    cuCtxSynchronize: fn() -> c_int;
    cuCtxEnablePeerAccess: fn(Context, c_uint) -> c_int;
    cuMemGetInfo_v2: fn(*mut usize, *mut usize) -> c_int;
    cuMemAlloc_v2: fn(*mut Pointer, usize) -> c_int;
    cuMemFree_v2: fn(Pointer) -> c_int;
    cuMemAllocHost_v2: fn(*mut *mut c_void, usize) -> c_int;
    cuMemFreeHost: fn(*mut c_void) -> c_int;
    cuMemcpyHtoDAsync_v2: fn(Pointer, *const c_void, usize, Stream) -> c_int;
    cuMemcpyDtoHAsync_v2: fn(*mut c_void, Pointer, usize, Stream) -> c_int;
    cuMemcpyDtoDAsync_v2: fn(Pointer, Pointer, usize, Stream) -> c_int;
    cuMemcpyPeerAsync: fn(Pointer, Context, Pointer, Context, usize, Stream) -> c_int;
    cuMemsetD8Async: fn(Pointer, u8, usize, Stream) -> c_int;
    cuStreamCreate: fn(*mut Stream, c_uint) -> c_int;
    cuStreamDestroy_v2: fn(Stream) -> c_int;
    cuStreamSynchronize: fn(Stream) -> c_int;
    cuStreamQuery: fn(Stream) -> c_int;
    cuStreamWaitEvent: fn(Stream, Event, c_uint) -> c_int;
    cuEventCreate: fn(*mut Event, c_uint) -> c_int;
    cuEventDestroy_v2: fn(Event) -> c_int;
    cuEventRecord: fn(Event, Stream) -> c_int;
    cuEventSynchronize: fn(Event) -> c_int;
    cuEventElapsedTime: fn(*mut f32, Event, Event) -> c_int;
    cuModuleLoadData: fn(*mut Module, *const c_void) -> c_int;
    cuModuleUnload: fn(Module) -> c_int;
    cuModuleGetFunction: fn(*mut Function, Module, *const c_char) -> c_int;
    cuLaunchKernel: fn(Function, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Stream, *mut *mut c_void, *mut *mut c_void) -> c_int;
    }
    may {
    // Since CUDA 11.7: a dma-buf of a range of device memory.
    cuMemGetHandleForAddressRange: fn(*mut c_void, Pointer, usize, c_int, u64) -> c_int;
    }
}

pub const STREAM_NON_BLOCKING: c_uint = 1;
pub const RANGE_HANDLE_DMA_BUF: c_int = 1;

pub mod attribute {
    //! CUdevice_attribute
    pub const MULTIPROCESSORS: i32 = 16;
    pub const COMPUTE_MODE: i32 = 20;
    pub const L2_BYTES: i32 = 38;
    pub const MAJOR: i32 = 75;
    pub const MINOR: i32 = 76;
    pub const MEMORY_CLOCK_KHZ: i32 = 36;
    pub const BUS_WIDTH_BITS: i32 = 37;
    pub const GPU_DIRECT_RDMA: i32 = 116;
    pub const DMA_BUF: i32 = 124;
}

pub mod p2p {
    //! CUdevice_P2PAttribute
    pub const NATIVE_ATOMICS: i32 = 3;
}
