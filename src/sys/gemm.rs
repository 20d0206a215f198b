//! `C = A x B` on the CPU, behind slices whose sizes are checked: by the AVX-512 and AVX2 kernels that `faer` uses where the processor
//! has them, else by the `gemm` crate.

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
    #[cfg(target_arch = "x86_64")]
    if let Some(kernels) = x86::kernels() {
        return x86::multiply(kernels, [m, n, k], a, b, c, threads);
    }
    portable([m, n, k], a, b, c, threads);
}

/// By `gemm`, whose kernels serve any processor.
fn portable<T: Element>([m, n, k]: [usize; 3], a: &[T], b: &[T], c: &mut [T], threads: usize) {
    let parallelism = if threads <= 1 { Parallelism::None } else { Parallelism::Rayon(threads) };
    // SAFETY: the three slices are as long as their matrices (asserted by the caller) and `c` is borrowed mutably, so it overlaps neither
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

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::ptr;
    use std::sync::OnceLock;

    use rayon::prelude::*;

    use private_gemm_x86::{Accum, DType, DstKind, IType, InstrSet, gemm};

    use super::{Element, portable};

    /// The widest kernels of this processor that have multiplied right once; `None` where it has none. They size their blocks by what the
    /// kernel says of the caches, and give up where that makes no sense: such a machine is served by the others.
    pub fn kernels() -> Option<InstrSet> {
        static CHOSEN: OnceLock<Option<InstrSet>> = OnceLock::new();
        let widest = || {
            if is_x86_feature_detected!("avx512f") {
                Some(InstrSet::Avx512)
            } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                Some(InstrSet::Avx256)
            } else {
                None
            }
        };
        *CHOSEN.get_or_init(|| widest().filter(|k| std::panic::catch_unwind(|| is_right(*k)).unwrap_or(false)))
    }

    /// Products of small whole numbers, which are exact whatever the order of the sums.
    fn is_right(kernels: InstrSet) -> bool {
        const SHAPE: [usize; 3] = [100, 101, 520];
        let [m, n, k] = SHAPE;
        let whole = |of: usize, step: usize| (0..of).map(|i| (i * step % 7) as f64 - 3.0).collect::<Vec<f64>>();
        let (a, b) = (whole(m * k, 3), whole(k * n, 5));
        let (mut own, mut other) = (vec![0.0; m * n], vec![0.0; m * n]);
        multiply(kernels, SHAPE, &a, &b, &mut own, 1);
        portable(SHAPE, &a, &b, &mut other, 1);
        own == other
    }

    /// Slices as in [`multiply_of`](super::multiply_of), which has checked them.
    pub fn multiply<T: Element>(
        kernels: InstrSet,
        [m, n, k]: [usize; 3],
        a: &[T],
        b: &[T],
        c: &mut [T],
        threads: usize,
    ) {
        // Nothing is added up: the kernels would leave `c` as it was.
        if k == 0 {
            return c.fill(T::ZERO);
        }
        let (out, (rows, columns)) = (Out(c.as_mut_ptr()), grid(threads.max(1)));
        let tile = |tile: usize| {
            let (row, column) = (tile / columns, tile % columns);
            let (top, bottom) = (row * m / rows, (row + 1) * m / rows);
            let (left, right) = (column * n / columns, (column + 1) * n / columns);
            if top < bottom && left < right {
                // SAFETY: the three slices are as long as their matrices (asserted by the caller). The tile's rows of `a` and `c` begin at
                // `top` and end at `bottom`, at most m, its columns of `b` and `c` at `left` and `right`, at most n. `c` is borrowed
                // mutably, so it overlaps neither input, and no two tiles share an element of it.
                unsafe {
                    one_thread(
                        kernels,
                        [bottom - top, right - left, k],
                        &a[top * k..],
                        &b[left..],
                        out.at(top * n + left),
                        n,
                    )
                };
            }
        };
        match rows * columns {
            1 => tile(0),
            tiles => (0..tiles).into_par_iter().with_max_len(1).for_each(tile),
        }
    }

    /// Rows and columns of tiles, one a thread, as square as their number allows. The kernels can divide a product among threads
    /// themselves, but take their blocks from what the last-level cache is said to hold: where that is half a gigabyte, two cores lose a
    /// quarter to it.
    pub(super) fn grid(threads: usize) -> (usize, usize) {
        let rows = (1..=threads.isqrt()).rev().find(|rows| threads.is_multiple_of(*rows)).unwrap_or(1);
        (rows, threads / rows)
    }

    /// Where all tiles are written, each by its own thread.
    #[derive(Clone, Copy)]
    struct Out<T>(*mut T);

    // SAFETY: it is only written through, by tiles that share no element.
    unsafe impl<T: Send> Sync for Out<T> {}

    impl<T> Out<T> {
        fn at(&self, element: usize) -> *mut T {
            self.0.wrapping_add(element)
        }
    }

    /// `c (m x n) = a (m x k) x b (k x n)` on the caller's thread. Rows of `a` follow each other; those of `b` and `c` are `stride` apart.
    ///
    /// # Safety
    /// `a` holds m rows, `b` k rows, and m rows may be written at `c`, which overlaps neither.
    unsafe fn one_thread<T: Element>(
        kernels: InstrSet,
        [m, n, k]: [usize; 3],
        a: &[T],
        b: &[T],
        c: *mut T,
        stride: usize,
    ) {
        let kind = if size_of::<T>() == size_of::<f32>() { DType::F32 } else { DType::F64 };
        let one = T::ONE;
        // SAFETY: as this function's. Strides are in elements. `Element` is implemented for f32 and f64 alone, which their sizes tell
        // apart. The processor has the instructions (`kernels`). The index and diagonal pointers are null, which stands for none.
        // `Replace` does not read the first content of `c`.
        unsafe {
            gemm(
                kind,
                IType::U64,
                kernels,
                m,
                n,
                k,
                c.cast(),
                stride as isize,
                1,
                ptr::null(),
                ptr::null(),
                DstKind::Full,
                Accum::Replace,
                a.as_ptr().cast(),
                k as isize,
                1,
                false,
                ptr::null(),
                0,
                b.as_ptr().cast(),
                stride as isize,
                1,
                false,
                (&raw const one).cast(),
                1,
            );
        }
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
        let mut nothing = [7.0f32; 6];
        multiply_of([2, 3, 0], &[], &[], &mut nothing, 1);
        assert_eq!(nothing, [0.0; 6]);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn tiles_are_as_square_as_their_number_allows() {
        let of = [1, 2, 7, 12, 64, 96].map(x86::grid);
        assert_eq!(of, [(1, 1), (1, 2), (1, 7), (3, 4), (8, 8), (8, 12)]);
    }

    fn both_agree<T: Element + std::fmt::Debug>(shape: [usize; 3], threads: usize) {
        let [m, n, k] = shape;
        // Whole numbers whose sums are exact in f32: any order of adding gives the same bits.
        let whole =
            |of: usize, step: usize| (0..of).map(|i| T::from_f64((i * step % 9) as f64 - 4.0)).collect::<Vec<T>>();
        let (a, b) = (whole(m * k, 5), whole(k * n, 7));
        let (mut own, mut other) = (vec![T::ONE; m * n], vec![T::ZERO; m * n]);
        multiply_of(shape, &a, &b, &mut own, threads);
        portable(shape, &a, &b, &mut other, 1);
        assert!(own == other, "{shape:?} on {threads} threads");
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

        /// Whatever kernels serve this machine, any shape comes out as from the portable ones.
        #[test]
        fn any_shape_is_multiplied_right(m in 1usize..260, n in 1usize..260, k in 1usize..1100, threads in 1usize..5) {
            both_agree::<f32>([m, n, k], threads);
            both_agree::<f64>([n, m, k], threads);
        }
    }
}
