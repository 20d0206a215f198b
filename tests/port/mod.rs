//! Ports that a test names before anybody listens there.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// A port for one test alone. Not one that the kernel hands out: between the asking and the listening somebody's outgoing connection may
/// get it, of which other tests open thousands.
pub fn free() -> std::io::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = std::process::id() % 250 * 32;
    loop {
        let at = 10_000 + (own as u16 + NEXT.fetch_add(1, Ordering::Relaxed)) % 8_000;
        match TcpListener::bind(("0.0.0.0", at)) {
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {}
            other => return other.map(|_| at),
        }
    }
}
