//! Bus bandwidth factors, as nccl-tests defines them: `busbw = algbw x factor`, `algbw = size / time`.
//!
//! Source: nccl-tests doc/PERFORMANCE.md and src/*.cu (GetBw).

use crate::work::Collective;

/// The factor among `n` ranks. Size is the larger of what a rank sends and receives: for all-gather, reduce-scatter
/// and all-to-all the whole of the n parts.
pub fn bus_factor(op: Collective, n: u32) -> f64 {
    let n = f64::from(n.max(1));
    match op {
        Collective::AllReduce => 2.0 * (n - 1.0) / n,
        Collective::AllGather | Collective::ReduceScatter | Collective::AllToAll => (n - 1.0) / n,
        Collective::Broadcast | Collective::SendReceive => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_match_nccl_tests() {
        assert_eq!(bus_factor(Collective::AllReduce, 32), 1.9375);
        assert_eq!(bus_factor(Collective::AllReduce, 2), 1.0);
        assert_eq!(bus_factor(Collective::AllGather, 4), 0.75);
        assert_eq!(bus_factor(Collective::Broadcast, 9), 1.0);
        assert_eq!(bus_factor(Collective::AllReduce, 1), 0.0);
    }
}
