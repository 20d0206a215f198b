//! Connections between the two ranks of a step, on one machine or on two.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::Child;
use crate::probe::dial::dial;
use crate::probe::{ProbeError, io};

/// Longest wait for the other end.
const PATIENCE: Duration = Duration::from_secs(4);

/// Opens `count` connections from rank 0 to rank 1, which listens at its address on a port that the kernel picks. Each
/// begins with a number that both know, so a stranger's connection is dropped; `salt` keeps cases of a step apart.
pub(super) fn connect(child: &mut Child, count: usize, salt: u64) -> Result<Vec<TcpStream>, ProbeError> {
    let limit = child.time_left().min(PATIENCE);
    let deadline = Instant::now() + limit;
    let hello = (child.step.seed ^ salt).to_le_bytes();
    let peer = child.name(1 - child.rank as usize);
    let mut out = Vec::new();
    if child.rank == 1 {
        let address = child.address;
        let listener = io(format!("cannot listen at {address}"), TcpListener::bind((address, 0)))?;
        let own = io("cannot read the listener's address", listener.local_addr())?;
        child.exchange(own.to_string())?;
        io("cannot set the listener non-blocking", listener.set_nonblocking(true))?;
        while out.len() < count {
            match listener.accept() {
                Ok((mut stream, _)) => {
                    prepare(&stream, limit)?;
                    let mut said = [0u8; 8];
                    if stream.read_exact(&mut said).is_ok() && said == hello {
                        out.push(stream);
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                    thread::sleep(Duration::from_micros(200))
                }
                Err(e) => return io(format!("no connection came from {peer} to {own}"), Err(e)),
            }
        }
    } else {
        let addresses = child.exchange(String::new())?;
        let text = addresses.get(1).map_or("", String::as_str);
        let address: SocketAddr = text.parse().map_err(|_| {
            ProbeError::Broken(format!("{peer} published `{}`, not an address", crate::id::clean(text)))
        })?;
        for _ in 0..count {
            let what = format!("cannot connect to {peer} at {address}");
            let mut stream = io(&what, dial(child, &address, limit))?;
            prepare(&stream, limit)?;
            io(what, stream.write_all(&hello))?;
            out.push(stream);
        }
    }
    Ok(out)
}

fn prepare(stream: &TcpStream, limit: Duration) -> Result<(), ProbeError> {
    let set = || {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))
    };
    io("cannot prepare a connection", set())
}
