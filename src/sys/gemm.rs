//! `C = A x B` on the CPU by the `gemm` crate, behind slices whose sizes are checked.

use gemm::Parallelism;

/// An element type that the CPU GEMM probe multiplies.
pub trait Element: Copy + Send + Sync + PartialEq + 'static {
    const ZERO: Self;
    const ONE: Self;
    /// Unit roundoff: half the distance from 1 to the next number.
    const ROUNDOFF: f64;
    fn from_f64(v: f64) -> Self;
    fn to_f64(self) -> f64;
    /// The bits, for comparisons in which NaN and -0.0 must not hide.
    fn bits(self) -> u64;
}

impl Element for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    const ROUNDOFF: f64 = f32::EPSILON as f64 / 2.0;
    fn from_f64(v: f64) -> f32 {
        v as f32
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn bits(self) -> u64 {
        u64::from(self.to_bits())
    }
}

impl Element for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    const ROUNDOFF: f64 = f64::EPSILON / 2.0;
    fn from_f64(v: f64) -> f64 {
        v
    }
    fn to_f64(self) -> f64 {
        self
    }
    fn bits(self) -> u64 {
        self.to_bits()
    }
}

/// Multiplies square row-major matrices of order `n`: `c = a x b`, on `threads` threads (1 stays on the caller's).
///
/// # Panics
/// If a slice is not `n * n` long: that is a bug in the caller, never in data from outside.
pub fn multiply<T: Element>(n: usize, a: &[T], b: &[T], c: &mut [T], threads: usize) {
    let elements = n * n;
    assert!(a.len() == elements && b.len() == elements && c.len() == elements, "gemm slices must be n x n");
    let parallelism = if threads <= 1 { Parallelism::None } else { Parallelism::Rayon(threads) };
    // SAFETY: the three slices are n*n long (asserted) and `c` is borrowed mutably, so it overlaps neither input.
    // Row-major strides (column stride 1, row stride n) stay inside them for indices below n. `read_dst` is false, so
    // the first content of `c` is not read.
    unsafe {
        gemm::gemm(
            n,
            n,
            n,
            c.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            1,
            n as isize,
            b.as_ptr(),
            1,
            n as isize,
            T::ZERO,
            T::ONE,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiplies_row_major() {
        let a = [1.0f64, 2.0, 3.0, 4.0];
        let b = [5.0, 6.0, 7.0, 8.0];
        let mut c = [0.0; 4];
        multiply(2, &a, &b, &mut c, 1);
        assert_eq!(c, [19.0, 22.0, 43.0, 50.0]);
    }
}
