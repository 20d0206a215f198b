//! A TCP connection that leaves from this process's own address: with several rails, the kernel would pick one.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::cluster::Child;

/// Connects to `to`, from [`Child::address`] where the step names a rail.
pub(super) fn dial(child: &Child, to: &SocketAddr, limit: Duration) -> std::io::Result<TcpStream> {
    if child.step.rail.is_none() {
        return TcpStream::connect_timeout(to, limit);
    }
    let socket = Socket::new(Domain::for_address(*to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(child.address, 0).into())?;
    socket.connect_timeout(&(*to).into(), limit)?;
    Ok(socket.into())
}
