//! What a collective costs by the links between its ranks, and the algorithm that costs least. Small all-reduces double recursively
//! (latency counts: log2 n exchanges), large ones go round a ring (bandwidth counts: every rank sends 2(n-1)/n of the data, which is the
//! least possible).

use crate::work::Collective;

/// What one exchange over a link costs: `latency + bytes * per_byte`, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    pub latency: f64,
    pub per_byte: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    RecursiveDoubling,
    Ring,
    Tree,
    Chain,
    Pairwise,
    Neighbour,
}

impl Algorithm {
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::RecursiveDoubling => "recursive doubling",
            Algorithm::Ring => "ring",
            Algorithm::Tree => "binomial tree",
            Algorithm::Chain => "pipelined chain",
            Algorithm::Pairwise => "pairwise",
            Algorithm::Neighbour => "to the next rank",
        }
    }
}

/// Pieces of a pipelined broadcast.
pub(super) const CHAIN_PIECE: usize = 512 << 10;

/// The algorithm for an operation of `size` bytes: the one that the link's costs say is faster.
///
/// Recursive doubling takes `log2 n (a + S b)`, the ring `2(n-1)(a + S b / n)`. For two ranks both move S bytes, the
/// ring in two exchanges of a half: it adds half as many elements on each rank, which pays once S b outweighs a few a.
pub fn choose(op: Collective, ranks: u32, size: usize, link: Link) -> Algorithm {
    let (n, s) = (f64::from(ranks), size as f64);
    match op {
        Collective::AllReduce if ranks == 2 => {
            if s * link.per_byte > 4.0 * link.latency {
                Algorithm::Ring
            } else {
                Algorithm::RecursiveDoubling
            }
        }
        Collective::AllReduce => {
            // A number of ranks that is no power of two folds the surplus first and unfolds it last: two more
            // exchanges.
            let rounds = n.log2().floor() + if ranks.is_power_of_two() { 0.0 } else { 2.0 };
            let doubling = rounds * (link.latency + s * link.per_byte);
            let ring = 2.0 * (n - 1.0) * (link.latency + s * link.per_byte / n);
            if doubling <= ring { Algorithm::RecursiveDoubling } else { Algorithm::Ring }
        }
        Collective::AllGather | Collective::ReduceScatter => Algorithm::Ring,
        Collective::Broadcast if size <= CHAIN_PIECE => Algorithm::Tree,
        Collective::Broadcast => Algorithm::Chain,
        Collective::AllToAll => Algorithm::Pairwise,
        Collective::SendReceive => Algorithm::Neighbour,
    }
}

/// How long an operation should take by the link's costs, seconds.
pub fn expected(op: Collective, ranks: u32, size: usize, link: Link) -> f64 {
    let (n, s) = (f64::from(ranks), size as f64);
    let exchange = |bytes: f64| link.latency + bytes * link.per_byte;
    match (op, choose(op, ranks, size, link)) {
        (Collective::AllReduce, Algorithm::RecursiveDoubling) => (n.log2().ceil() + 1.0) * exchange(s),
        (Collective::AllReduce, _) => 2.0 * (n - 1.0) * exchange(s / n),
        (Collective::Broadcast, Algorithm::Tree) => n.log2().ceil() * exchange(s),
        (Collective::Broadcast, _) => exchange(s) + n * exchange(CHAIN_PIECE as f64),
        (Collective::SendReceive, _) => exchange(s),
        _ => (n - 1.0) * exchange(s / n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link { latency: 10e-6, per_byte: 0.5e-9 };

    #[test]
    fn small_doubles_and_large_goes_round() {
        for n in [2, 3, 4, 8, 64] {
            assert_eq!(choose(Collective::AllReduce, n, 8, LINK), Algorithm::RecursiveDoubling, "{n}");
            assert_eq!(choose(Collective::AllReduce, n, 64 << 20, LINK), Algorithm::Ring, "{n}");
        }
    }

    #[test]
    fn what_an_operation_costs_grows_with_size_and_ranks() {
        for op in Collective::ALL.iter().copied() {
            let time = |n, s| expected(op, n, s, LINK);
            // Neighbours exchange alike however many there are.
            let more = time(64, 8) > time(8, 8) || op == Collective::SendReceive;
            assert!(time(8, 64 << 20) > time(8, 8) && more, "{op:?}");
        }
        // Two ranks each send the whole of it once.
        let two = expected(Collective::AllReduce, 2, 64 << 20, LINK);
        assert!((two / (f64::from(64 << 20) * LINK.per_byte) - 1.0).abs() < 0.01, "{two}");
    }
}
