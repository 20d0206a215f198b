//! What a completion's status means, and where to look.

/// Status, what verbs.h calls it, and what it most often comes from.
const STATUSES: &[(i32, &str, &str)] = &[
    (1, "local length error", "a message was larger than the room posted for it"),
    (2, "local QP operation error", "the request does not fit the queue pair"),
    (4, "local protection error", "the memory is not registered for this access"),
    (5, "flushed", "the queue pair broke before; the first other error says why"),
    (9, "remote invalid request error", "the peer cannot take the request: its room is too small"),
    (10, "remote access error", "the peer's key or address is wrong, or its memory does not allow this access"),
    (11, "remote operation error", "the peer could not carry it out"),
    (
        12,
        "transport retry counter exceeded",
        "the peer never answered: the link is down, the GID is of another network or RoCE version, or packets of this MTU do not arrive",
    ),
    (13, "RNR retry counter exceeded", "the peer posted no room in time"),
    (22, "fatal error", "the device or its port is gone"),
    (21, "response timeout error", "the peer's answer did not come"),
    (20, "general error", "the device says no more"),
];

/// `status 12, transport retry counter exceeded (vendor 0x81): the peer never answered ...`.
pub fn explain(status: i32, vendor: u32) -> String {
    match STATUSES.iter().find(|(s, ..)| *s == status) {
        Some((_, name, why)) => format!("status {status}, {name} (vendor error 0x{vendor:x}): {why}"),
        None => format!("status {status} (vendor error 0x{vendor:x}), unknown to this version"),
    }
}
