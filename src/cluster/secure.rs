//! The control channel: TCP under Noise `NNpsk0`. Both ends prove that they hold the token before anything is parsed.
//!
//! On the wire: a length of two bytes, then that many bytes of ciphertext, at most 65535. A message is its length in
//! four bytes and its text, in as many of these as it takes. Nonces count up on each side, so a frame that is replayed,
//! lost or changed fails to decrypt and ends the connection. A peer that has not proven itself is granted 48 bytes and
//! [`HANDSHAKE`] of time, nothing else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::Sha256;
use snow::StatelessTransportState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::files::{self, Guard, Untrusted};

/// What lets the agents of a run in.
pub const VARIABLE: &str = "GONOGO_TOKEN";
const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_SHA256";
/// Both handshake messages: a public key and an authentication tag.
const GREETING: usize = 48;
/// Time for the handshake.
pub const HANDSHAKE: Duration = Duration::from_secs(5);
/// Largest ciphertext, by the Noise specification; 16 of it are the tag.
const MAX_NOISE: usize = 65_535;
const TAG: usize = 16;
/// Largest message of a peer that has proven itself.
pub const MAX_MESSAGE: usize = 64 << 20;
/// How often a token is hashed before it is used: who guesses pays that for each guess.
const ROUNDS: u32 = 100_000;
/// Bits that a token must hold.
const BITS: f64 = 128.0;
/// A token file holds one line.
const MAX_FILE: u64 = 4096;

/// Why there is no usable token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("a cluster run needs a token that every node knows, or anybody could join; {HOW}")]
    None,
    #[error("the token in {0} can be guessed: it must be 128 random bits, as hexadecimal or base64 text; {HOW}")]
    Weak(String),
    #[error("cannot read the token file {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the token file is not used: {0}")]
    Open(Untrusted),
}

const HOW: &str = "add this line to the job script, before srun or mpirun: export GONOGO_TOKEN=$(openssl rand -hex 32)";

/// The pre-shared key that a token stands for. Never shown.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// From a file if one is named, else from GONOGO_TOKEN.
    pub fn find(file: Option<&Path>, variable: Option<String>) -> Result<Self, TokenError> {
        if let Some(path) = file {
            let read = |source| TokenError::Read { path: path.to_owned(), source };
            let text = files::open_in_place(path).and_then(|f| files::read_text(f, MAX_FILE)).map_err(read)?;
            files::check(path, Guard::Secret).map_err(read)?.map_err(TokenError::Open)?;
            return Self::of(&text, &path.display().to_string());
        }
        match variable {
            Some(text) => Self::of(&text, VARIABLE),
            None => Err(TokenError::None),
        }
    }

    pub fn of(text: &str, place: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if !is_random(text) {
            return Err(TokenError::Weak(place.to_owned()));
        }
        // The same on every node without a word between them: the salt can be no secret, and need not be with so many bits.
        let mut key = [0u8; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(text.as_bytes(), b"gonogo token 2", ROUNDS, &mut key);
        Ok(Token(key))
    }
}

/// Whether a text looks like 128 random bits: long enough in an alphabet of its kind, and neither a phrase, nor a row, nor repeated.
/// What is random passes but once in a thousand million times.
fn is_random(text: &str) -> bool {
    let bytes = text.as_bytes();
    let any = |of: fn(&u8) -> bool| bytes.iter().any(of);
    let bits = if bytes.iter().all(u8::is_ascii_hexdigit) {
        4.0
    } else if bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"+/-_=".contains(b)) {
        // Letters of one case alone are words.
        let kinds = [any(u8::is_ascii_lowercase), any(u8::is_ascii_uppercase), any(u8::is_ascii_digit)];
        if kinds.iter().filter(|k| **k).count() < 2 {
            return false;
        }
        6.0
    } else {
        return false;
    };
    let length = bytes.iter().filter(|b| **b != b'=').count() as f64;
    let mut counts = [0u32; 256];
    bytes.iter().for_each(|b| counts[usize::from(*b)] += 1);
    let share = |n: &u32| f64::from(*n) / bytes.len() as f64;
    let entropy: f64 = counts.iter().filter(|n| **n > 0).map(share).map(|p| -p * p.log2()).sum();
    let steps = bytes.windows(2).filter(|w| w[0].abs_diff(w[1]) <= 1).count();
    let repeats = (1..=bytes.len() / 2).any(|period| bytes[period..] == bytes[..bytes.len() - period]);
    length * bits >= BITS && length * entropy >= BITS / 2.0 && steps * 2 < bytes.len() && !repeats
}

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("the peer does not hold the token")]
    Unauthenticated,
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the connection was closed")]
    Closed,
    #[error("a frame that is not gonogo's protocol: {0}")]
    Junk(String),
    #[error("{0}")]
    Io(std::io::Error),
}

impl From<std::io::Error> for ChannelError {
    fn from(e: std::io::Error) -> Self {
        match e.kind() {
            std::io::ErrorKind::UnexpectedEof
            | std::io::ErrorKind::ConnectionReset
            | std::io::ErrorKind::BrokenPipe => ChannelError::Closed,
            _ => ChannelError::Io(e),
        }
    }
}

/// The sending half.
pub struct Sender {
    half: OwnedWriteHalf,
    state: Arc<StatelessTransportState>,
    nonce: u64,
    frame: Vec<u8>,
}

/// The receiving half.
pub struct Receiver {
    half: OwnedReadHalf,
    state: Arc<StatelessTransportState>,
    nonce: u64,
}

fn noise(e: snow::Error) -> ChannelError {
    ChannelError::Junk(e.to_string())
}

/// The calling side of the handshake.
pub async fn call(mut stream: TcpStream, token: &Token) -> Result<(Sender, Receiver), ChannelError> {
    stream.set_nodelay(true)?;
    let mut state = builder(token)?.build_initiator().map_err(noise)?;
    let mut buffer = [0u8; GREETING];
    state.write_message(&[], &mut buffer).map_err(noise)?;
    let greet = async {
        stream.write_all(&buffer).await?;
        stream.read_exact(&mut buffer).await
    };
    timeout(HANDSHAKE, greet).await.map_err(|_| ChannelError::Silent(HANDSHAKE))??;
    state.read_message(&buffer, &mut [0u8; GREETING]).map_err(|_| ChannelError::Unauthenticated)?;
    halves(stream, state)
}

/// The answering side. A caller without the token gets no byte back, and neither does one whose first message is not `is_new`: it
/// was recorded from somebody else's handshake.
pub async fn answer(
    mut stream: TcpStream,
    token: &Token,
    is_new: impl FnOnce([u8; 32]) -> bool,
) -> Result<(Sender, Receiver), ChannelError> {
    stream.set_nodelay(true)?;
    let mut buffer = [0u8; GREETING];
    timeout(HANDSHAKE, stream.read_exact(&mut buffer)).await.map_err(|_| ChannelError::Silent(HANDSHAKE))??;
    let mut state = builder(token)?.build_responder().map_err(noise)?;
    state.read_message(&buffer, &mut [0u8; GREETING]).map_err(|_| ChannelError::Unauthenticated)?;
    // It begins with the caller's key for this connection, which no two connections share.
    if !buffer.first_chunk().is_some_and(|first| is_new(*first)) {
        return Err(ChannelError::Unauthenticated);
    }
    state.write_message(&[], &mut buffer).map_err(noise)?;
    timeout(HANDSHAKE, stream.write_all(&buffer)).await.map_err(|_| ChannelError::Silent(HANDSHAKE))??;
    halves(stream, state)
}

fn builder(token: &Token) -> Result<snow::Builder<'_>, ChannelError> {
    let pattern = PATTERN.parse().map_err(noise)?;
    snow::Builder::new(pattern).psk(0, &token.0).map_err(noise)
}

fn halves(stream: TcpStream, state: snow::HandshakeState) -> Result<(Sender, Receiver), ChannelError> {
    let state = Arc::new(state.into_stateless_transport_mode().map_err(noise)?);
    let (read, write) = stream.into_split();
    let sender = Sender { half: write, state: state.clone(), nonce: 0, frame: Vec::new() };
    Ok((sender, Receiver { half: read, state, nonce: 0 }))
}

impl Sender {
    /// Sends one message; `patience` is for all of it.
    pub async fn send(&mut self, message: &[u8], patience: Duration) -> Result<(), ChannelError> {
        timeout(patience, self.send_all(message)).await.map_err(|_| ChannelError::Silent(patience))?
    }

    async fn send_all(&mut self, message: &[u8]) -> Result<(), ChannelError> {
        let length = u32::try_from(message.len()).ok().filter(|n| *n as usize <= MAX_MESSAGE);
        let length = length.ok_or_else(|| ChannelError::Junk(format!("a message of {} bytes", message.len())))?;
        let most = MAX_NOISE - TAG;
        // The length shares a frame with what follows it: most messages are one frame.
        let (head, tail) = message.split_at(message.len().min(most - 4));
        let mut first = Vec::with_capacity(4 + head.len());
        first.extend_from_slice(&length.to_le_bytes());
        first.extend_from_slice(head);
        for plain in std::iter::once(first.as_slice()).chain(tail.chunks(most)) {
            self.frame.resize(2 + plain.len() + TAG, 0);
            let n = self.state.write_message(self.nonce, plain, &mut self.frame[2..]).map_err(noise)?;
            self.nonce += 1;
            self.frame[..2].copy_from_slice(&(n as u16).to_le_bytes());
            self.half.write_all(&self.frame[..2 + n]).await?;
        }
        // A buffer that once held a large message is not kept for ever: there are thousands of these.
        if self.frame.capacity() > 8192 {
            self.frame = Vec::new();
        }
        Ok(())
    }
}

impl Receiver {
    /// Receives one message of at most `max` bytes, waiting for it up to `patience`.
    pub async fn receive(&mut self, max: usize, patience: Duration) -> Result<Vec<u8>, ChannelError> {
        timeout(patience, self.receive_all(max)).await.map_err(|_| ChannelError::Silent(patience))?
    }

    async fn receive_all(&mut self, max: usize) -> Result<Vec<u8>, ChannelError> {
        let mut message = self.frame().await?;
        let Some(length) = message.first_chunk::<4>().map(|l| u32::from_le_bytes(*l) as usize) else {
            return Err(ChannelError::Junk("a frame without a length".to_owned()));
        };
        if length > max {
            return Err(ChannelError::Junk(format!("a message of {length} bytes where {max} are allowed")));
        }
        message.drain(..4);
        while message.len() < length {
            message.extend(self.frame().await?);
        }
        if message.len() > length {
            return Err(ChannelError::Junk("a frame longer than its message".to_owned()));
        }
        Ok(message)
    }

    async fn frame(&mut self) -> Result<Vec<u8>, ChannelError> {
        let mut length = [0u8; 2];
        self.half.read_exact(&mut length).await?;
        let length = usize::from(u16::from_le_bytes(length));
        if length < TAG {
            return Err(ChannelError::Junk(format!("a frame of {length} bytes")));
        }
        let mut frame = vec![0u8; length];
        self.half.read_exact(&mut frame).await?;
        let mut plain = vec![0u8; length];
        let n = self.state.read_message(self.nonce, &frame, &mut plain).map_err(noise)?;
        self.nonce += 1;
        plain.truncate(n);
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::hex;

    #[test]
    fn what_a_person_thinks_up_is_no_token() {
        for weak in [
            "",
            "short",
            "a token of the lab, long enough",
            "correcthorsebatterystaplecorrect",
            "changemechangemechangemechangeme",
            "00000000000000000000000000000000",
            "0123456789abcdef0123456789abcdef",
            "deadbeefdeadbeefdeadbeefdeadbeef",
            "abcdefghijklmnopqrstuvwxyz0123456789",
            "Password1234Password1234",
            "5f4dcc3b5aa765d61d8327deb882cf",
            "kR8vZq2LmX0pT5wYb7Nc",
        ] {
            assert!(Token::of(weak, "x").is_err(), "{weak}");
        }
        for good in [
            "5f4dcc3b5aa765d61d8327deb882cf99",
            "kR8vZq2LmX0pT5wYb7Nc3d",
            "kR8vZq2LmX0pT5wYb7Nc3d==",
            "  5f4dcc3b5aa765d61d8327deb882cf99\n",
        ] {
            assert!(Token::of(good, "x").is_ok(), "{good}");
        }
    }

    #[test]
    fn what_openssl_makes_is_a_token() {
        for seed in 0..20_000 {
            let mut bytes = [0u8; 16];
            fastrand::Rng::with_seed(seed).fill(&mut bytes);
            assert!(is_random(&hex(&bytes)), "{}", hex(&bytes));
        }
    }
}
