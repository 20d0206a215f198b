//! TCP connections between the ranks of a step. Each end proves to the other that it holds the step's key before a byte of a test
//! flows: an unauthenticated caller at a data port takes nobody's place, and none waits for it.
//!
//! The caller says who it is and draws a number; the answer is another number and a proof over all of it; the caller's proof ends it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::cluster::{Child, PROOF, StepKey, random};
use crate::probe::{ProbeError, io};

/// Longest that a caller may take to prove itself.
const GREETING: Duration = Duration::from_secs(2);
/// Callers at once that have proven nothing; the oldest goes for a new one.
const ROOM: usize = 64;
const NONCE: usize = 16;
const HELLO: usize = 32;

/// Which connection of a step it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    pub from: u32,
    pub to: u32,
    /// Keeps the connections of one pair of ranks apart.
    pub number: u64,
}

impl Call {
    fn hello(&self, nonce: &[u8; NONCE]) -> [u8; HELLO] {
        let mut out = [0u8; HELLO];
        out[..NONCE].copy_from_slice(nonce);
        out[16..20].copy_from_slice(&self.from.to_le_bytes());
        out[20..24].copy_from_slice(&self.to.to_le_bytes());
        out[24..].copy_from_slice(&self.number.to_le_bytes());
        out
    }

    fn of(hello: &[u8; HELLO]) -> Self {
        let four = |at: usize| u32::from_le_bytes([hello[at], hello[at + 1], hello[at + 2], hello[at + 3]]);
        Call { from: four(16), to: four(20), number: u64::from(four(24)) | u64::from(four(28)) << 32 }
    }
}

/// A port of this rank, at the address that the step uses.
pub(super) struct Door {
    listener: TcpListener,
    pub address: SocketAddr,
    key: StepKey,
}

/// A caller that has not proven itself.
struct Caller {
    stream: TcpStream,
    since: Instant,
    /// What it said so far: its hello, then its proof.
    received: Vec<u8>,
    /// Drawn for it once its hello is whole.
    nonce: Option<[u8; NONCE]>,
}

impl Door {
    pub fn open(child: &Child) -> Result<Self, ProbeError> {
        Self::at(SocketAddr::new(child.address, 0), child.key.clone())
    }

    fn at(own: SocketAddr, key: StepKey) -> Result<Self, ProbeError> {
        let listener = io(format!("cannot listen at {}", own.ip()), TcpListener::bind(own))?;
        let address = io("cannot read the listener's address", listener.local_addr())?;
        io("cannot set the listener non-blocking", listener.set_nonblocking(true))?;
        Ok(Door { listener, address, key })
    }

    /// Lets in those of `expected` who prove themselves, in this order. `Err` names the first that did not come in time.
    pub fn accept(&self, expected: &[Call], deadline: Instant) -> Result<Vec<TcpStream>, (Call, io::Error)> {
        let mut there: Vec<Option<TcpStream>> = expected.iter().map(|_| None).collect();
        let mut callers: Vec<Caller> = Vec::new();
        while let Some(missing) = there.iter().position(Option::is_none) {
            let mut idle = true;
            match self.listener.accept() {
                Ok((stream, _)) => {
                    idle = false;
                    if stream.set_nonblocking(true).is_ok() {
                        callers.push(Caller { stream, since: Instant::now(), received: Vec::new(), nonce: None });
                    }
                    if callers.len() > ROOM {
                        callers.remove(0);
                    }
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => {}
                Err(e) => return Err((expected[missing], e)),
            }
            let mut still = Vec::new();
            for mut caller in callers {
                match self.hear(&mut caller, expected) {
                    Heard::Proven(call) => {
                        idle = false;
                        let place = expected.iter().position(|c| *c == call).filter(|i| there[*i].is_none());
                        if let (Some(place), Ok(())) = (place, caller.stream.set_nonblocking(false)) {
                            there[place] = Some(caller.stream);
                        }
                    }
                    Heard::More => still.push(caller),
                    Heard::Unauthenticated => {}
                }
            }
            callers = still;
            if Instant::now() >= deadline {
                return Err((expected[missing], ErrorKind::TimedOut.into()));
            }
            if idle {
                thread::sleep(Duration::from_micros(100));
            }
        }
        Ok(there.into_iter().flatten().collect())
    }

    /// Takes what a caller said since, and no more than belongs to its greeting.
    fn hear(&self, caller: &mut Caller, expected: &[Call]) -> Heard {
        if caller.since.elapsed() > GREETING {
            return Heard::Unauthenticated;
        }
        loop {
            let whole = if caller.nonce.is_some() { HELLO + PROOF } else { HELLO };
            if caller.received.len() < whole {
                let mut piece = [0u8; HELLO + PROOF];
                match caller.stream.read(&mut piece[..whole - caller.received.len()]) {
                    Ok(0) => return Heard::Unauthenticated,
                    Ok(n) => caller.received.extend_from_slice(&piece[..n]),
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Heard::More,
                    Err(_) => return Heard::Unauthenticated,
                }
                continue;
            }
            let Some(hello) = caller.received.first_chunk::<HELLO>() else { return Heard::Unauthenticated };
            let call = Call::of(hello);
            match caller.nonce {
                None => {
                    if !expected.contains(&call) {
                        return Heard::Unauthenticated;
                    }
                    let nonce: [u8; NONCE] = random();
                    let answer = [&nonce[..], &self.key.prove(&[b"answer", hello, &nonce])].concat();
                    // A fresh connection takes so little at once, or it is no use to us.
                    if !matches!(caller.stream.write(&answer), Ok(n) if n == answer.len()) {
                        return Heard::Unauthenticated;
                    }
                    caller.nonce = Some(nonce);
                }
                Some(nonce) => {
                    let proven = self.key.proves(&[b"call", hello, &nonce], &caller.received[HELLO..]);
                    return if proven { Heard::Proven(call) } else { Heard::Unauthenticated };
                }
            }
        }
    }
}

enum Heard {
    More,
    Proven(Call),
    Unauthenticated,
}

/// Calls a rank at its door and proves this one; the connection leaves from [`Child::address`] where the step names a rail: with several,
/// the kernel would pick one.
pub(super) fn call(child: &Child, to: &SocketAddr, call: Call, limit: Duration) -> io::Result<TcpStream> {
    let stream = if child.step.rail.is_none() {
        TcpStream::connect_timeout(to, limit)?
    } else {
        let socket = Socket::new(Domain::for_address(*to), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(child.address, 0).into())?;
        socket.connect_timeout(&(*to).into(), limit)?;
        socket.into()
    };
    greet(stream, &child.key, call, limit)
}

fn greet(mut stream: TcpStream, key: &StepKey, call: Call, limit: Duration) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let hello = call.hello(&random());
    stream.write_all(&hello)?;
    let mut answer = [0u8; NONCE + PROOF];
    stream.read_exact(&mut answer).map_err(|e| match e.kind() {
        // It heard what it cannot use, or is somebody else.
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => {
            io::Error::new(ErrorKind::ConnectionRefused, "what answers there closed the connection")
        }
        ErrorKind::WouldBlock => io::Error::new(ErrorKind::TimedOut, "it is connected and does not answer"),
        _ => e,
    })?;
    let (nonce, proof) = answer.split_at(NONCE);
    if !key.proves(&[b"answer", &hello, nonce], proof) {
        return Err(io::Error::new(ErrorKind::PermissionDenied, "what answers there is no process of this step"));
    }
    stream.write_all(&key.prove(&[b"call", &hello, nonce]))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

    const CALL: Call = Call { from: 1, to: 0, number: 7 };
    const LIMIT: Duration = Duration::from_secs(3);

    #[test]
    fn who_holds_the_key_is_let_in_past_a_crowd_that_does_not() -> Result {
        let key = StepKey::new();
        let door = Door::at(([127, 0, 0, 1], 0).into(), key.clone())?;
        let at = door.address;
        // Silent, of junk, with another key, with this key for another place, and a recorded hello.
        let silent: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(at)).collect::<io::Result<_>>()?;
        let mut junk = TcpStream::connect(at)?;
        junk.write_all(&[0xff; 4096])?;
        let mut replayed = TcpStream::connect(at)?;
        replayed.write_all(&CALL.hello(&[3; NONCE]))?;
        replayed.write_all(&[0; PROOF])?;
        let caller = thread::spawn(move || {
            let wrong = greet(TcpStream::connect(at)?, &StepKey::new(), CALL, LIMIT).map(drop);
            let elsewhere = greet(TcpStream::connect(at)?, &key, Call { number: 8, ..CALL }, LIMIT).map(drop);
            let mut right = greet(TcpStream::connect(at)?, &key, CALL, LIMIT)?;
            right.write_all(b"through")?;
            io::Result::Ok((wrong.map_err(|e| e.kind()), elsewhere.map_err(|e| e.kind())))
        });
        let start = Instant::now();
        let mut came = door.accept(&[CALL], Instant::now() + LIMIT).map_err(|(_, e)| e)?;
        let mut received = [0u8; 7];
        came[0].read_exact(&mut received)?;
        assert_eq!(&received, b"through");
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "it waited for unauthenticated callers: {:?}",
            start.elapsed()
        );
        let (wrong, elsewhere) = caller.join().map_err(|_| "a panic")??;
        assert_eq!((wrong, elsewhere), (Err(ErrorKind::PermissionDenied), Err(ErrorKind::ConnectionRefused)));
        drop(silent);
        Ok(())
    }

    #[test]
    fn who_does_not_come_is_named_in_time() -> Result {
        let door = Door::at(([127, 0, 0, 1], 0).into(), StepKey::new())?;
        let other = Call { from: 2, ..CALL };
        let start = Instant::now();
        let missing = door.accept(&[CALL, other], Instant::now() + Duration::from_millis(200));
        assert!(matches!(missing, Err((CALL, e)) if e.kind() == ErrorKind::TimedOut));
        assert!(start.elapsed() < Duration::from_secs(1));
        Ok(())
    }
}
