//! What the kernel knows of a TCP connection (`TCP_INFO`, linux/tcp.h), by the places of its fields: a kernel that knows fewer
//! writes fewer.

use std::ffi::{c_int, c_void};
use std::os::fd::{AsFd, AsRawFd};

const IPPROTO_TCP: c_int = 6;
const TCP_INFO: c_int = 11;

/// `tcpi_snd_mss`, `tcpi_total_retrans`, `tcpi_data_segs_out` (since Linux 4.6) and `tcpi_dsack_dups` (since Linux 4.19, and in
/// segments since 5.10; before, in reports of the receiver, which are fewer).
const MSS: usize = 16;
const TOTAL_RETRANS: usize = 100;
const DATA_SEGS_OUT: usize = 156;
const DSACK_DUPS: usize = 216;

/// Of a connection: segments with data that were sent, those of them that were sent again, those of these that the receiver had
/// already, and their size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    pub segments: u64,
    pub again: u64,
    pub needless: Option<u64>,
    pub mss: u64,
}

unsafe extern "C" {
    fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut u32) -> c_int;
}

/// `None` where the kernel does not tell, and for what is no TCP socket.
pub fn sent(socket: impl AsFd) -> Option<Sent> {
    let mut info = [0u8; 256];
    let mut len = info.len() as u32;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `fd` is open for as long as `socket` is borrowed; `info` has room for the `len` bytes that the kernel may write, and the
    // kernel puts into `len` how many it wrote (getsockopt(2)).
    let code = unsafe { getsockopt(fd, IPPROTO_TCP, TCP_INFO, info.as_mut_ptr().cast(), &raw mut len) };
    let word = |at: usize| {
        let bytes = info[..(len as usize).min(info.len())].get(at..at + 4)?;
        Some(u64::from(u32::from_ne_bytes(bytes.try_into().ok()?)))
    };
    (code == 0).then_some(())?;
    Some(Sent {
        segments: word(DATA_SEGS_OUT)?,
        again: word(TOTAL_RETRANS)?,
        needless: word(DSACK_DUPS),
        mss: word(MSS)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn segments_of_a_connection_are_counted() -> std::io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut a = TcpStream::connect(listener.local_addr()?)?;
        let (mut b, _) = listener.accept()?;
        assert_eq!(sent(&a).map(|s| (s.segments, s.again)), Some((0, 0)));
        for _ in 0..3 {
            a.write_all(&[1; 1000])?;
            b.read_exact(&mut [0; 1000])?;
        }
        let Some(s) = sent(&a) else { panic!("the kernel does not tell") };
        assert!(s.segments == 3 && s.again == 0 && s.mss > 500, "{s:?}");
        assert_eq!(sent(UdpSocket::bind("127.0.0.1:0")?), None);
        Ok(())
    }
}
