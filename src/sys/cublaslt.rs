//! cuBLASLt: matrix products by the algorithm that is fastest here. Loaded at run time, of major version 11, 12 or 13.
//!
//! Numbers are those of cublasLt.h and library_types.h, which have not changed over these versions.

#![expect(non_snake_case, reason = "the names are those of the library")]

use std::ffi::{c_int, c_void};

use crate::sys::cuda::{Memory, Stream};
use crate::sys::dl::{self, Built, Found, Wanted, library};

library! {
    /// The functions of the library.
    Raw
    needs {
        cublasLtCreate: fn(*mut *mut c_void) -> c_int;
        cublasLtDestroy: fn(*mut c_void) -> c_int;
        cublasLtGetVersion: fn() -> usize;
        cublasLtMatmulDescCreate: fn(*mut *mut c_void, c_int, c_int) -> c_int;
        cublasLtMatmulDescDestroy: fn(*mut c_void) -> c_int;
        cublasLtMatmulDescSetAttribute: fn(*mut c_void, c_int, *const c_void, usize) -> c_int;
        cublasLtMatrixLayoutCreate: fn(*mut *mut c_void, c_int, u64, u64, i64) -> c_int;
        cublasLtMatrixLayoutDestroy: fn(*mut c_void) -> c_int;
        cublasLtMatmulPreferenceCreate: fn(*mut *mut c_void) -> c_int;
        cublasLtMatmulPreferenceDestroy: fn(*mut c_void) -> c_int;
        cublasLtMatmulPreferenceSetAttribute: fn(*mut c_void, c_int, *const c_void, usize) -> c_int;
        cublasLtMatmulAlgoGetHeuristic: fn(*mut c_void, *mut c_void, *mut c_void, *mut c_void, *mut c_void, *mut c_void, *mut c_void, c_int, *mut Heuristic, *mut c_int) -> c_int;
        cublasLtMatmul: fn(*mut c_void, *mut c_void, *const c_void, *const c_void, *mut c_void, *const c_void, *mut c_void, *const c_void, *const c_void, *mut c_void, *mut c_void, *mut c_void, *const [u64; 8], *mut c_void, usize, *mut c_void) -> c_int;
    }
    may {}
}

/// An algorithm, as the heuristic has it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Heuristic {
    algorithm: [u64; 8],
    workspace: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

/// What is multiplied: types of input and output, and how sums are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Types {
    input: c_int,
    output: c_int,
    compute: c_int,
    scale: c_int,
    /// Alpha and beta are doubles.
    double: bool,
}

const R_32F: c_int = 0;
const R_64F: c_int = 1;
const R_16F: c_int = 2;
const R_16BF: c_int = 14;
const R_E4M3: c_int = 28;
const COMPUTE_32F: c_int = 68;
const COMPUTE_TF32: c_int = 77;
const COMPUTE_64F: c_int = 70;
/// CUBLASLT_MATMUL_DESC_TRANSA, and CUBLAS_OP_T for it.
const TRANSPOSE_A: c_int = 3;
const TRANSPOSED: c_int = 1;
/// CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES
const MAX_WORKSPACE: c_int = 1;

mod status {
    //! cublasStatus_t, as far as it is looked at.
    pub const SUCCESS: i32 = 0;
    pub const NOT_INITIALIZED: i32 = 1;
    pub const ALLOC_FAILED: i32 = 3;
    pub const INVALID_VALUE: i32 = 7;
    pub const ARCH_MISMATCH: i32 = 8;
    pub const EXECUTION_FAILED: i32 = 13;
    pub const NOT_SUPPORTED: i32 = 15;
}

impl Types {
    const fn of(input: c_int, output: c_int, compute: c_int, scale: c_int) -> Self {
        Types { input, output, compute, scale, double: scale == R_64F }
    }

    pub const BF16: Types = Types::of(R_16BF, R_16BF, COMPUTE_32F, R_32F);
    pub const F16: Types = Types::of(R_16F, R_16F, COMPUTE_32F, R_32F);
    pub const TF32: Types = Types::of(R_32F, R_32F, COMPUTE_TF32, R_32F);
    pub const F32: Types = Types::of(R_32F, R_32F, COMPUTE_32F, R_32F);
    pub const F64: Types = Types::of(R_64F, R_64F, COMPUTE_64F, R_64F);
    /// With bf16 results, which fp8 is used with.
    pub const FP8: Types = Types::of(R_E4M3, R_16BF, COMPUTE_32F, R_32F);
}

/// A call that failed, or a library that is not here.
#[derive(Debug, thiserror::Error)]
pub enum LtError {
    #[error("no cuBLASLt: {0}; pip's nvidia-cublas or the CUDA toolkit has it")]
    NoLibrary(dl::DlError),
    /// What is here cannot be loaded.
    #[error("cuBLASLt: {0}")]
    Broken(dl::DlError),
    #[error("{what}: cuBLASLt status {status}{text}")]
    Call { what: &'static str, status: c_int, text: &'static str },
    #[error("cuBLASLt knows no algorithm for this product on this GPU")]
    NoAlgorithm,
}

impl From<dl::DlError> for LtError {
    fn from(e: dl::DlError) -> Self {
        if e.is_absent() { LtError::NoLibrary(e) } else { LtError::Broken(e) }
    }
}

fn check(what: &'static str, code: c_int) -> Result<(), LtError> {
    let text = match code {
        status::SUCCESS => return Ok(()),
        status::NOT_INITIALIZED => " (not initialised)",
        status::ALLOC_FAILED => " (no memory)",
        status::INVALID_VALUE => " (an invalid value)",
        status::ARCH_MISMATCH => " (this GPU is too old for it, or the library too old for this GPU)",
        status::EXECUTION_FAILED => " (the GPU failed to execute it)",
        status::NOT_SUPPORTED => " (not supported)",
        _ => "",
    };
    Err(LtError::Call { what, status: code, text })
}

/// Matrix `c = a^T b` of a GPU, all in column order: a is k x m, b is k x n, c is m x n.
pub struct Product<'l> {
    lt: &'l Lt,
    description: *mut c_void,
    layouts: [*mut c_void; 3],
    types: Types,
    workspace: Memory,
    algorithms: Vec<Heuristic>,
}

/// The library and a handle of the current context.
pub struct Lt {
    raw: Raw,
    handle: *mut c_void,
    /// Such as 120803.
    pub version: usize,
    /// What was opened, and why that.
    pub found: Found,
}

impl Lt {
    /// Loads the library for the GPU that is current on this thread: the newest major version that a driver of that CUDA (12080
    /// being 12.8) runs.
    pub fn load(driver: i32) -> Result<Self, LtError> {
        let names = &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11"];
        let wanted = Wanted { names, built: Built::Name, driver: Some(driver) };
        let (library, found) = dl::open_for_job(&wanted)?;
        let raw = Raw::load(library, &found.path)?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the handle is written to a local and destroyed in `Drop`.
        unsafe { check("cublasLtCreate", (raw.cublasLtCreate)(&mut handle))? };
        // SAFETY: takes nothing.
        let version = unsafe { (raw.cublasLtGetVersion)() };
        Ok(Lt { raw, handle, version, found })
    }

    /// Prepares a product and asks for up to `most` algorithms, the most promising first.
    pub fn product(
        &self,
        types: Types,
        (m, n, k): (u64, u64, u64),
        workspace: Memory,
        most: usize,
    ) -> Result<Product<'_>, LtError> {
        let mut product = Product {
            lt: self,
            description: std::ptr::null_mut(),
            layouts: [std::ptr::null_mut(); 3],
            types,
            workspace,
            algorithms: Vec::new(),
        };
        let raw = &self.raw;
        // SAFETY: handles are written to fields of `product`, which destroys them; attributes are read before each call
        // returns, and have the sizes that are told.
        unsafe {
            let code = (raw.cublasLtMatmulDescCreate)(&mut product.description, types.compute, types.scale);
            check("cublasLtMatmulDescCreate", code)?;
            let transposed = TRANSPOSED;
            let at = (&raw const transposed).cast();
            let code = (raw.cublasLtMatmulDescSetAttribute)(product.description, TRANSPOSE_A, at, size_of::<c_int>());
            check("cublasLtMatmulDescSetAttribute", code)?;
            let shapes = [(types.input, k, m), (types.input, k, n), (types.output, m, n)];
            for (layout, (kind, rows, columns)) in product.layouts.iter_mut().zip(shapes) {
                let code = (raw.cublasLtMatrixLayoutCreate)(layout, kind, rows, columns, rows as i64);
                check("cublasLtMatrixLayoutCreate", code)?;
            }
            let mut preference = std::ptr::null_mut();
            check("cublasLtMatmulPreferenceCreate", (raw.cublasLtMatmulPreferenceCreate)(&mut preference))?;
            let bytes = product.workspace.len();
            let at = (&raw const bytes).cast();
            let set = (raw.cublasLtMatmulPreferenceSetAttribute)(preference, MAX_WORKSPACE, at, size_of::<usize>());
            let empty = Heuristic { algorithm: [0; 8], workspace: 0, state: 0, waves: 0.0, reserved: [0; 4] };
            let mut found = vec![empty; most];
            let mut count = 0;
            let [a, b, c] = product.layouts;
            let code = (raw.cublasLtMatmulAlgoGetHeuristic)(
                self.handle,
                product.description,
                a,
                b,
                c,
                c,
                preference,
                most as c_int,
                found.as_mut_ptr(),
                &mut count,
            );
            (raw.cublasLtMatmulPreferenceDestroy)(preference);
            check("cublasLtMatmulPreferenceSetAttribute", set)?;
            check("cublasLtMatmulAlgoGetHeuristic", code)?;
            found.truncate(count.max(0) as usize);
            found.retain(|h| h.state == status::SUCCESS);
            product.algorithms = found;
        }
        if product.algorithms.is_empty() { Err(LtError::NoAlgorithm) } else { Ok(product) }
    }
}

impl Drop for Lt {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once; products borrow this struct.
        unsafe { (self.raw.cublasLtDestroy)(self.handle) };
    }
}

impl Product<'_> {
    pub fn algorithms(&self) -> usize {
        self.algorithms.len()
    }

    /// Queues one product by the algorithm of that place.
    pub fn run(&self, stream: &Stream, algorithm: usize, a: &Memory, b: &Memory, c: &Memory) -> Result<(), LtError> {
        let (one, zero) = ((1f32, 1f64), (0f32, 0f64));
        let pick = |(single, double): &(f32, f64)| -> *const c_void {
            if self.types.double { (double as *const f64).cast() } else { (single as *const f32).cast() }
        };
        let [la, lb, lc] = self.layouts;
        let at = |m: &Memory| m.address() as *mut c_void;
        let chosen = &self.algorithms[algorithm.min(self.algorithms.len() - 1)].algorithm;
        // SAFETY: memories are alive for the call, and the callers keep them until the stream has come so far; their sizes are
        // those of the layouts. Alpha and beta are read before the call returns.
        let code = unsafe {
            (self.lt.raw.cublasLtMatmul)(
                self.lt.handle,
                self.description,
                pick(&one),
                at(a),
                la,
                at(b),
                lb,
                pick(&zero),
                at(c),
                lc,
                at(c),
                lc,
                chosen,
                at(&self.workspace),
                self.workspace.len(),
                stream.raw(),
            )
        };
        check("cublasLtMatmul", code)
    }
}

impl Drop for Product<'_> {
    fn drop(&mut self) {
        // SAFETY: each created once, destroyed once.
        unsafe {
            for layout in self.layouts.iter().filter(|l| !l.is_null()) {
                (self.lt.raw.cublasLtMatrixLayoutDestroy)(*layout);
            }
            if !self.description.is_null() {
                (self.lt.raw.cublasLtMatmulDescDestroy)(self.description);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::signature::assert_signatures;
    use cudarc::cublaslt::sys::{
        cublasComputeType_t, cublasLtMatmulDescAttributes_t, cublasLtMatmulHeuristicResult_t,
        cublasLtMatmulPreferenceAttributes_t, cublasStatus_t, cudaDataType_t,
    };
    use std::mem::offset_of;

    #[test]
    fn functions_are_those_of_the_header() {
        assert_signatures!(Raw, cudarc::cublaslt::sys, {
            cublasLtCreate(_);
            cublasLtDestroy(_);
            cublasLtGetVersion();
            cublasLtMatmulDescCreate(_, _, _);
            cublasLtMatmulDescDestroy(_);
            cublasLtMatmulDescSetAttribute(_, _, _, _);
            cublasLtMatrixLayoutCreate(_, _, _, _, _);
            cublasLtMatrixLayoutDestroy(_);
            cublasLtMatmulPreferenceCreate(_);
            cublasLtMatmulPreferenceDestroy(_);
            cublasLtMatmulPreferenceSetAttribute(_, _, _, _);
            cublasLtMatmulAlgoGetHeuristic(_, _, _, _, _, _, _, _, _, _);
            cublasLtMatmul(_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _);
        });
    }

    #[test]
    fn numbers_are_those_of_the_header() {
        for (ours, theirs) in [
            (R_32F, cudaDataType_t::CUDA_R_32F),
            (R_64F, cudaDataType_t::CUDA_R_64F),
            (R_16F, cudaDataType_t::CUDA_R_16F),
            (R_16BF, cudaDataType_t::CUDA_R_16BF),
            (R_E4M3, cudaDataType_t::CUDA_R_8F_E4M3),
        ] {
            assert_eq!(ours, theirs as c_int, "{theirs:?}");
        }
        for (ours, theirs) in [
            (COMPUTE_32F, cublasComputeType_t::CUBLAS_COMPUTE_32F),
            (COMPUTE_TF32, cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32),
            (COMPUTE_64F, cublasComputeType_t::CUBLAS_COMPUTE_64F),
        ] {
            assert_eq!(ours, theirs as c_int, "{theirs:?}");
        }
        assert_eq!(TRANSPOSE_A, cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA as c_int);
        assert_eq!(TRANSPOSED, cudarc::cublas::sys::cublasOperation_t::CUBLAS_OP_T as c_int);
        let workspace = cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        assert_eq!(MAX_WORKSPACE, workspace as c_int);
        use cublasStatus_t::*;
        for (ours, theirs) in [
            (status::SUCCESS, CUBLAS_STATUS_SUCCESS),
            (status::NOT_INITIALIZED, CUBLAS_STATUS_NOT_INITIALIZED),
            (status::ALLOC_FAILED, CUBLAS_STATUS_ALLOC_FAILED),
            (status::INVALID_VALUE, CUBLAS_STATUS_INVALID_VALUE),
            (status::ARCH_MISMATCH, CUBLAS_STATUS_ARCH_MISMATCH),
            (status::EXECUTION_FAILED, CUBLAS_STATUS_EXECUTION_FAILED),
            (status::NOT_SUPPORTED, CUBLAS_STATUS_NOT_SUPPORTED),
        ] {
            assert_eq!(ours, theirs as c_int, "{theirs:?}");
        }
    }

    #[test]
    fn the_heuristic_has_the_headers_layout() {
        let ours = [
            size_of::<Heuristic>(),
            align_of::<Heuristic>(),
            offset_of!(Heuristic, algorithm),
            offset_of!(Heuristic, workspace),
            offset_of!(Heuristic, state),
            offset_of!(Heuristic, waves),
            offset_of!(Heuristic, reserved),
        ];
        type Theirs = cublasLtMatmulHeuristicResult_t;
        let theirs = [
            size_of::<Theirs>(),
            align_of::<Theirs>(),
            offset_of!(Theirs, algo),
            offset_of!(Theirs, workspaceSize),
            offset_of!(Theirs, state),
            offset_of!(Theirs, wavesCount),
            offset_of!(Theirs, reserved),
        ];
        assert_eq!(ours, theirs);
        assert_eq!(size_of::<[u64; 8]>(), size_of::<cudarc::cublaslt::sys::cublasLtMatmulAlgo_t>());
    }
}
