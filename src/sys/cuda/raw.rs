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

pub mod result {
    //! CUresult, as far as it is looked at.
    pub const OUT_OF_MEMORY: i32 = 2;
    pub const STUB_LIBRARY: i32 = 34;
    pub const DEVICE_UNAVAILABLE: i32 = 46;
    pub const NO_DEVICE: i32 = 100;
    pub const INVALID_DEVICE: i32 = 101;
    pub const ECC_UNCORRECTABLE: i32 = 214;
    pub const NVLINK_UNCORRECTABLE: i32 = 220;
    pub const UNSUPPORTED_PTX_VERSION: i32 = 222;
    pub const CONTAINED: i32 = 226;
    pub const NOT_READY: i32 = 600;
    pub const PEER_ACCESS_ALREADY_ENABLED: i32 = 704;
    pub const LAUNCH_FAILED: i32 = 719;
    pub const SYSTEM_NOT_READY: i32 = 802;
    pub const SYSTEM_DRIVER_MISMATCH: i32 = 803;
    pub const COMPAT_NOT_SUPPORTED_ON_DEVICE: i32 = 804;
    pub const UNKNOWN: i32 = 999;
}

pub mod p2p {
    //! CUdevice_P2PAttribute
    pub const NATIVE_ATOMICS: i32 = 3;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::signature::assert_signatures;
    use cudarc::driver::sys::{
        CUdevice_P2PAttribute, CUdevice_attribute, CUmemRangeHandleType, CUresult, CUstream_flags, CUuuid,
    };

    #[test]
    fn functions_are_those_of_the_header() {
        assert_signatures!(Driver, cudarc::driver::sys, {
            cuInit(_);
            cuDriverGetVersion(_);
            cuGetErrorName(_, _);
            cuGetErrorString(_, _);
            cuDeviceGetCount(_);
            cuDeviceGet(_, _);
            cuDeviceGetName(_, _, _);
            cuDeviceGetUuid(_, _);
            cuDeviceGetPCIBusId(_, _, _);
            cuDeviceTotalMem_v2(_, _);
            cuDeviceGetAttribute(_, _, _);
            cuDeviceCanAccessPeer(_, _, _);
            cuDeviceGetP2PAttribute(_, _, _, _);
            cuDevicePrimaryCtxRetain(_, _);
            cuDevicePrimaryCtxRelease_v2(_);
            cuCtxSetCurrent(_);
            cuCtxSynchronize();
            cuCtxEnablePeerAccess(_, _);
            cuMemGetInfo_v2(_, _);
            cuMemAlloc_v2(_, _);
            cuMemFree_v2(_);
            cuMemAllocHost_v2(_, _);
            cuMemFreeHost(_);
            cuMemcpyHtoDAsync_v2(_, _, _, _);
            cuMemcpyDtoHAsync_v2(_, _, _, _);
            cuMemcpyDtoDAsync_v2(_, _, _, _);
            cuMemcpyPeerAsync(_, _, _, _, _, _);
            cuMemsetD8Async(_, _, _, _);
            cuStreamCreate(_, _);
            cuStreamDestroy_v2(_);
            cuStreamSynchronize(_);
            cuStreamQuery(_);
            cuStreamWaitEvent(_, _, _);
            cuEventCreate(_, _);
            cuEventDestroy_v2(_);
            cuEventRecord(_, _);
            cuEventSynchronize(_);
            cuEventElapsedTime(_, _, _);
            cuModuleLoadData(_, _);
            cuModuleUnload(_);
            cuModuleGetFunction(_, _, _);
            cuLaunchKernel(_, _, _, _, _, _, _, _, _, _, _);
            cuMemGetHandleForAddressRange(_, _, _, _, _);
        });
        assert_eq!((size_of::<CUuuid>(), size_of::<CUresult>()), (16, size_of::<c_int>()));
    }

    #[test]
    fn numbers_are_those_of_the_header() {
        use CUdevice_attribute::*;
        for (ours, theirs) in [
            (attribute::MULTIPROCESSORS, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
            (attribute::COMPUTE_MODE, CU_DEVICE_ATTRIBUTE_COMPUTE_MODE),
            (attribute::L2_BYTES, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE),
            (attribute::MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            (attribute::MINOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
            (attribute::MEMORY_CLOCK_KHZ, CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE),
            (attribute::BUS_WIDTH_BITS, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH),
            (attribute::GPU_DIRECT_RDMA, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED),
            (attribute::DMA_BUF, CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED),
        ] {
            assert_eq!(ours, theirs as i32, "{theirs:?}");
        }
        let atomics = CUdevice_P2PAttribute::CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED;
        assert_eq!(p2p::NATIVE_ATOMICS, atomics as i32);
        assert_eq!(STREAM_NON_BLOCKING, CUstream_flags::CU_STREAM_NON_BLOCKING as c_uint);
        assert_eq!(RANGE_HANDLE_DMA_BUF, CUmemRangeHandleType::CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD as c_int);
        for (ours, theirs) in [
            (result::OUT_OF_MEMORY, CUresult::CUDA_ERROR_OUT_OF_MEMORY),
            (result::STUB_LIBRARY, CUresult::CUDA_ERROR_STUB_LIBRARY),
            (result::DEVICE_UNAVAILABLE, CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE),
            (result::NO_DEVICE, CUresult::CUDA_ERROR_NO_DEVICE),
            (result::INVALID_DEVICE, CUresult::CUDA_ERROR_INVALID_DEVICE),
            (result::ECC_UNCORRECTABLE, CUresult::CUDA_ERROR_ECC_UNCORRECTABLE),
            (result::NVLINK_UNCORRECTABLE, CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE),
            (result::UNSUPPORTED_PTX_VERSION, CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION),
            (result::CONTAINED, CUresult::CUDA_ERROR_CONTAINED),
            (result::NOT_READY, CUresult::CUDA_ERROR_NOT_READY),
            (result::PEER_ACCESS_ALREADY_ENABLED, CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED),
            (result::LAUNCH_FAILED, CUresult::CUDA_ERROR_LAUNCH_FAILED),
            (result::SYSTEM_NOT_READY, CUresult::CUDA_ERROR_SYSTEM_NOT_READY),
            (result::SYSTEM_DRIVER_MISMATCH, CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH),
            (result::COMPAT_NOT_SUPPORTED_ON_DEVICE, CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE),
            (result::UNKNOWN, CUresult::CUDA_ERROR_UNKNOWN),
        ] {
            assert_eq!(ours, theirs as i32, "{theirs:?}");
        }
    }
}
