//! Error counters of an RDMA port, before and after: only what moved counts.

use std::collections::BTreeMap;
use std::fs;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::NodeName;

/// Counters that move when something is wrong, of InfiniBand, mlx5, bnxt_re, efa, irdma and soft-RoCE, by their names in sysfs.
const TELLING: &[&str] = &[
    "symbol_error",
    "link_error_recovery",
    "link_downed",
    "port_rcv_errors",
    "port_rcv_remote_physical_errors",
    "port_xmit_discards",
    "port_xmit_constraint_errors",
    "port_rcv_constraint_errors",
    "local_link_integrity_errors",
    "excessive_buffer_overrun_errors",
    "VL15_dropped",
    "port_xmit_wait",
    "out_of_sequence",
    "packet_seq_err",
    "local_ack_timeout_err",
    "implied_nak_seq_err",
    "rnr_nak_retry_err",
    "out_of_buffer",
    "np_ecn_marked_roce_packets",
    "np_cnp_sent",
    "rp_cnp_handled",
    "roce_slow_restart",
    "rcvd_seq_err",
    "completer_retry_err",
    "retry_exceeded_err",
    "retry_rnr_exceeded_err",
    "out_of_seq_request",
    "send_err",
    "rx_read_requests_dropped",
    "to_retransmits",
    "seq_err_naks_rcvd",
    "rnr_naks_rcvd",
    "missing_resp",
    "rx_ecn_marked_pkts",
    "retrans_pkts",
    "retrans_timeout_events",
    "unresponsive_remote_events",
    "tcpRetransSegs",
    "RxECNMrkd",
    "cnpHandled",
    "cnpSent",
];

/// Those of them that say that something was sent again, or must have been.
const AGAIN: &[&str] = &[
    "out_of_sequence",
    "packet_seq_err",
    "local_ack_timeout_err",
    "implied_nak_seq_err",
    "rnr_nak_retry_err",
    "rcvd_seq_err",
    "completer_retry_err",
    "out_of_seq_request",
    "to_retransmits",
    "seq_err_naks_rcvd",
    "rnr_naks_rcvd",
    "retrans_pkts",
    "retrans_timeout_events",
    "tcpRetransSegs",
];

/// How often something was sent again at most, by what moved at a port.
pub fn sent_again(moved: &[(String, u64)]) -> u64 {
    moved.iter().filter(|(name, _)| AGAIN.contains(&&**name)).fold(0, |sum, (_, by)| sum.saturating_add(*by))
}

/// Error counters of a port that moved while it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CountersMoved {
    /// Absent for a step on one node: that node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    pub device: String,
    pub port: u8,
    /// Each counter by its name in sysfs, with by how much.
    pub moved: Vec<(String, u64)>,
}

/// A reading of a port.
#[derive(Debug, Clone)]
pub struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    /// Those that are there: a kernel without one, one that answers `N/A` or EINVAL, counts nothing.
    pub fn read(device: &str, port: u8) -> Self {
        let at = format!("/sys/class/infiniband/{device}/ports/{port}");
        let one = |name: &&'static str| {
            let text =
                ["counters", "hw_counters"].iter().find_map(|d| fs::read_to_string(format!("{at}/{d}/{name}")).ok())?;
            Some((*name, text.trim().parse().ok()?))
        };
        Counters(TELLING.iter().filter_map(one).collect())
    }

    /// What moved since, with by how much. A counter that stands at its end says nothing; one that went back was cleared,
    /// and what it shows is new.
    pub fn moved(&self, before: &Counters) -> Vec<(String, u64)> {
        let one = |(name, now): (&&'static str, &u64)| {
            let was = before.0.get(name)?;
            let by = if now >= was { now - was } else { *now };
            (by > 0).then(|| ((*name).to_owned(), by))
        };
        self.0.iter().filter_map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_moved_counts() {
        let of = |list: &[(&'static str, u64)]| Counters(list.iter().copied().collect());
        let before = of(&[("symbol_error", 65_535), ("link_downed", 3), ("send_err", 9), ("out_of_buffer", 1)]);
        let after = of(&[("symbol_error", 65_535), ("link_downed", 4), ("send_err", 2), ("np_cnp_sent", 5)]);
        assert_eq!(after.moved(&before), [("link_downed".to_owned(), 1), ("send_err".to_owned(), 2)]);
        assert!(AGAIN.iter().all(|name| TELLING.contains(name)));
        assert_eq!(sent_again(&[("packet_seq_err".to_owned(), 3), ("port_xmit_wait".to_owned(), 900)]), 3);
    }
}
