//! Memory on huge pages where the kernel gives them: probes touch gigabytes, and the misses of a 4 KiB page table would
//! be what they measure. Numerical libraries ask for the same.

use rustix::mm::{Advice, madvise};

/// Page size that the advice is aligned to.
const PAGE: usize = 4096;

/// A vector of `len` copies of `value`, on huge pages if the kernel has them to give.
pub fn huge_vec<T: Copy>(len: usize, value: T) -> Vec<T> {
    let mut data: Vec<T> = Vec::with_capacity(len);
    let start = data.as_mut_ptr().cast::<u8>();
    let skip = start.align_offset(PAGE);
    let bytes = (len * size_of::<T>()).saturating_sub(skip) / PAGE * PAGE;
    if bytes > 0 {
        // SAFETY: the range is page-aligned and lies inside this vector's own allocation (skip + bytes <= capacity in
        // bytes). MADV_HUGEPAGE is a hint: it changes neither contents nor permissions. Whether the kernel follows it
        // is of no matter to correctness, so its answer is not needed.
        let _ = unsafe { madvise(start.add(skip).cast(), bytes, Advice::LinuxHugepage) };
    }
    // Touched only now, by the thread that asked: first touch decides the page size and the NUMA node.
    data.resize(len, value);
    data
}

/// Zeroed memory that begins at a page: what devices like best, and numbers in it are aligned.
pub struct Pages {
    data: Vec<u8>,
    skip: usize,
    len: usize,
}

impl Pages {
    pub fn new(len: usize) -> Self {
        let data = huge_vec(len + PAGE, 0u8);
        // The vector's own memory does not move when the vector does.
        let skip = data.as_ptr().align_offset(PAGE).min(PAGE);
        Pages { data, skip, len }
    }
}

impl std::ops::Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.data[self.skip..self.skip + self.len]
    }
}

impl std::ops::DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.skip..self.skip + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_begin_at_a_page() {
        for len in [0, 1, 4096, 100_000] {
            let p = Pages::new(len);
            assert!(p.as_ptr().align_offset(PAGE) == 0 && p.len() == len && p.iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn vectors_of_any_length_are_filled() {
        for len in [0, 1, 1000, 5_000_000] {
            let v = huge_vec(len, 7u32);
            assert!(v.len() == len && v.iter().all(|x| *x == 7));
        }
    }
}
