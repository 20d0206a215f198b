//! Connections between the two ranks of a step, on one machine or on two.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::cluster::Child;
use crate::probe::peer::{Call, Door, call};
use crate::probe::{ProbeError, io};

/// Longest wait for the other end.
const PATIENCE: Duration = Duration::from_secs(4);

/// Opens `count` connections from rank `caller`, 0 or 1, to the other one, which listens at its address on a port that the kernel picks;
/// in one order at both ends. `salt` keeps cases of a step apart.
pub(super) fn connect(child: &mut Child, caller: u32, count: usize, salt: u64) -> Result<Vec<TcpStream>, ProbeError> {
    let limit = child.time_left().min(PATIENCE);
    let peer = child.name(1 - child.rank as usize);
    let listener = 1 - caller;
    let call_of = |i: usize| Call { from: caller, to: listener, number: salt << 32 | i as u64 };
    let streams = if child.rank == listener {
        let door = Door::open(child)?;
        child.exchange(&Some(door.address))?;
        let expected: Vec<Call> = (0..count).map(call_of).collect();
        let came = door.accept(&expected, Instant::now() + limit);
        let why = format!("no connection came from {peer} to {}", door.address);
        io(why, came.map_err(|(_, error)| error))?
    } else {
        let address = child.exchange(&None::<SocketAddr>)?.of(child, listener as usize)?;
        let address = address.ok_or_else(|| ProbeError::Broken(format!("{peer} published no address")))?;
        let what = format!("cannot connect to {peer} at {address}");
        io(what, (0..count).map(|i| call(child, &address, call_of(i), limit)).collect())?
    };
    for stream in &streams {
        prepare(stream, limit)?;
    }
    Ok(streams)
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
