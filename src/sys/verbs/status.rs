//! What a completion's status means, and where to look.

/// `enum ibv_wc_status` of rdma-core's libibverbs/verbs.h, by number: what the header calls each, and what it most often comes from.
const STATUSES: &[(&str, &str, &str)] = &[
    ("SUCCESS", "success", "nothing is wrong"),
    ("LOC_LEN_ERR", "local length error", "a message was larger than the room posted for it"),
    ("LOC_QP_OP_ERR", "local QP operation error", "the request does not fit the queue pair"),
    ("LOC_EEC_OP_ERR", "local EE context operation error", "the request does not fit the end-to-end context"),
    ("LOC_PROT_ERR", "local protection error", "the memory is not registered for this access"),
    ("WR_FLUSH_ERR", "flushed", "the queue pair broke before; the first other error says why"),
    ("MW_BIND_ERR", "memory window binding error", "the memory window does not fit the region that it was bound to"),
    ("BAD_RESP_ERR", "bad response error", "the peer's answer is not one to this request"),
    ("LOC_ACCESS_ERR", "local access error", "what arrived may not be written where it should go"),
    ("REM_INV_REQ_ERR", "remote invalid request error", "the peer cannot take the request: its room is too small"),
    (
        "REM_ACCESS_ERR",
        "remote access error",
        "the peer's key or address is wrong, or its memory does not allow this access",
    ),
    ("REM_OP_ERR", "remote operation error", "the peer could not carry it out"),
    (
        "RETRY_EXC_ERR",
        "transport retry counter exceeded",
        "the peer never answered: the link is down, the GID is of another network or RoCE version, or packets of this MTU do not arrive",
    ),
    ("RNR_RETRY_EXC_ERR", "RNR retry counter exceeded", "the peer posted no room in time"),
    ("LOC_RDD_VIOL_ERR", "local RDD violation error", "the queue pair is of another reliable datagram domain"),
    ("REM_INV_RD_REQ_ERR", "remote invalid RD request", "the peer cannot take the reliable datagram"),
    ("REM_ABORT_ERR", "remote aborted error", "the peer gave the operation up"),
    ("INV_EECN_ERR", "invalid EE context number", "there is no such end-to-end context"),
    ("INV_EEC_STATE_ERR", "invalid EE context state", "the end-to-end context is not ready for the request"),
    ("FATAL_ERR", "fatal error", "the device or its port is gone"),
    ("RESP_TIMEOUT_ERR", "response timeout error", "the peer's answer did not come"),
    ("GENERAL_ERR", "general error", "the device says no more"),
    ("TM_ERR", "tag matching error", "the message has no tag that was waited for"),
    ("TM_RNDV_INCOMPLETE", "tag matching rendezvous incomplete", "the rest of the message must be fetched by software"),
];

/// `status 12, transport retry counter exceeded (vendor error 0x81): the peer never answered ...`.
pub fn explain(status: i32, vendor: u32) -> String {
    match usize::try_from(status).ok().and_then(|s| STATUSES.get(s)) {
        Some((_, name, why)) => format!("status {status}, {name} (vendor error 0x{vendor:x}): {why}"),
        None => format!("status {status} (vendor error 0x{vendor:x}), unknown to this version"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the header has them (rdma-core 64.0): the numbers are those of the kernel's `enum ib_wc_status` too.
    const HEADER: &str = "IBV_WC_SUCCESS, IBV_WC_LOC_LEN_ERR, IBV_WC_LOC_QP_OP_ERR, IBV_WC_LOC_EEC_OP_ERR, \
        IBV_WC_LOC_PROT_ERR, IBV_WC_WR_FLUSH_ERR, IBV_WC_MW_BIND_ERR, IBV_WC_BAD_RESP_ERR, IBV_WC_LOC_ACCESS_ERR, \
        IBV_WC_REM_INV_REQ_ERR, IBV_WC_REM_ACCESS_ERR, IBV_WC_REM_OP_ERR, IBV_WC_RETRY_EXC_ERR, \
        IBV_WC_RNR_RETRY_EXC_ERR, IBV_WC_LOC_RDD_VIOL_ERR, IBV_WC_REM_INV_RD_REQ_ERR, IBV_WC_REM_ABORT_ERR, \
        IBV_WC_INV_EECN_ERR, IBV_WC_INV_EEC_STATE_ERR, IBV_WC_FATAL_ERR, IBV_WC_RESP_TIMEOUT_ERR, \
        IBV_WC_GENERAL_ERR, IBV_WC_TM_ERR, IBV_WC_TM_RNDV_INCOMPLETE";

    #[test]
    fn every_status_has_the_headers_number() {
        let header: Vec<&str> = HEADER.split(", ").filter_map(|name| name.strip_prefix("IBV_WC_")).collect();
        let ours: Vec<&str> = STATUSES.iter().map(|(name, ..)| *name).collect();
        assert_eq!(ours, header);
        assert!(explain(12, 0x81).starts_with("status 12, transport retry counter exceeded (vendor error 0x81)"));
        assert!(explain(19, 0).contains("fatal error") && explain(20, 0).contains("response timeout"));
        assert!(explain(21, 0).contains("general error"));
    }

    #[test]
    fn a_status_of_no_header_is_shown_as_it_is() {
        for status in [24, -1, i32::MAX, i32::MIN] {
            assert_eq!(explain(status, 1), format!("status {status} (vendor error 0x1), unknown to this version"));
        }
    }
}
