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
    multiply_of([n, n, n], a, b, c, threads);
}

/// The same of row-major matrices of any shape: `c (m x n) = a (m x k) x b (k x n)`.
///
/// # Panics
/// If a slice has not that many elements.
pub fn multiply_of<T: Element>([m, n, k]: [usize; 3], a: &[T], b: &[T], c: &mut [T], threads: usize) {
    assert!(a.len() == m * k && b.len() == k * n && c.len() == m * n, "gemm slices must be m x k, k x n, m x n");
    let parallelism = if threads <= 1 { Parallelism::None } else { Parallelism::Rayon(threads) };
    // SAFETY: the three slices are as long as their matrices (asserted) and `c` is borrowed mutably, so it overlaps neither
    // input. Row-major strides (column stride 1, row stride the row's length) stay inside them for indices below m, n and k.
    // `read_dst` is false, so the first content of `c` is not read.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            1,
            k as isize,
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
        let mut wide = [0.0; 6];
        multiply_of([2, 3, 1], &[1.0f64, 2.0], &[3.0, 4.0, 5.0], &mut wide, 1);
        assert_eq!(wide, [3.0, 4.0, 5.0, 6.0, 8.0, 10.0]);
    }
}
