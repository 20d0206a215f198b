//! What probes write into files: random bytes, of which no page equals another, and which any node can make again.

use crate::sys::pages::Pages;

/// Bytes in a write or read.
pub(in crate::probe) const PIECE: usize = 1 << 20;
/// Each page bears its own number, so that no page equals another: neither compression nor deduplication helps.
pub(in crate::probe) const PAGE: usize = 4096;

/// One piece of random bytes, stamped anew for every piece of the file; aligned to a page for O_DIRECT.
pub(in crate::probe) struct Content(Pages);

impl Content {
    pub(in crate::probe) fn new(seed: u64) -> Self {
        let mut pages = Pages::new(PIECE);
        fastrand::Rng::with_seed(seed).fill(&mut pages);
        Content(pages)
    }

    pub(in crate::probe) fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// The bytes of piece `i` of the file. Stamping touches one line a page, in the cache: it costs a write nothing.
    pub(in crate::probe) fn piece(&mut self, i: usize) -> &[u8] {
        let data = self.bytes();
        for (p, page) in data.chunks_exact_mut(PAGE).enumerate() {
            page[..8].copy_from_slice(&Self::number(i, p));
        }
        data
    }

    /// What page `p` of piece `i` bears.
    fn number(i: usize, p: usize) -> [u8; 8] {
        ((i * (PIECE / PAGE) + p) as u64).to_le_bytes()
    }

    /// Pages of what was read as piece `i` that bear another number.
    pub(in crate::probe) fn misnumbered(got: &[u8], i: usize) -> u64 {
        let pages = got.chunks(PAGE).enumerate();
        pages.filter(|(p, page)| page.get(..8) != Some(&Self::number(i, *p))).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_aligned_and_all_different() {
        let mut base = Content::new(1);
        let first = base.piece(0).to_vec();
        assert_eq!(base.piece(1).as_ptr() as usize % PAGE, 0);
        assert_eq!((Content::misnumbered(base.piece(7), 7), Content::misnumbered(base.piece(7), 8)), (0, 256));
        let second = base.piece(1);
        assert!(first.chunks(PAGE).zip(second.chunks(PAGE)).all(|(a, b)| a != b));
        assert!(first.chunks(PAGE).skip(1).all(|p| p != &first[..PAGE]));
    }
}
