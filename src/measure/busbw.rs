//! Bus bandwidth factors, as nccl-tests defines them: `busbw = algbw x factor`, `algbw = size / time`.
//!
//! Source: nccl-tests doc/PERFORMANCE.md and src/*.cu (GetBw).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The collective operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Collective {
    AllReduce,
    AllGather,
    ReduceScatter,
    Broadcast,
    AllToAll,
    /// Each rank to the next round a ring.
    SendReceive,
}

impl Collective {
    pub const ALL: [Collective; 6] = [
        Collective::AllReduce,
        Collective::AllGather,
        Collective::ReduceScatter,
        Collective::Broadcast,
        Collective::AllToAll,
        Collective::SendReceive,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Collective::AllReduce => "all-reduce",
            Collective::AllGather => "all-gather",
            Collective::ReduceScatter => "reduce-scatter",
            Collective::Broadcast => "broadcast",
            Collective::AllToAll => "all-to-all",
            Collective::SendReceive => "send-receive",
        }
    }

    /// As NCCL's log calls it.
    pub const fn nccl_name(self) -> &'static str {
        match self {
            Collective::AllReduce => "AllReduce",
            Collective::AllGather => "AllGather",
            Collective::ReduceScatter => "ReduceScatter",
            Collective::Broadcast => "Broadcast",
            Collective::AllToAll => "AlltoAll",
            Collective::SendReceive => "SendRecv",
        }
    }
}

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
