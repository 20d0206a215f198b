//! A readiness ticket: a GO that can be carried to another place and checked there, signed with ed25519.
//!
//! The signature covers the exact bytes of the payload, which is why the payload travels as text inside the ticket. Who
//! checks brings the public key: the one a ticket names is never trusted.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::plan::{PlanHash, hex};

/// What is signed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    pub format: u32,
    pub decision: String,
    pub nodes: Vec<String>,
    pub exclude: Vec<String>,
    pub run_hash: PlanHash,
    /// Digest of the image that the run will use, when it was given.
    pub image: Option<String>,
    /// See [`crate::gate::software_digest`].
    pub software: Option<PlanHash>,
    pub measured: Timestamp,
    pub expires: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    payload: String,
    signature: String,
}

/// Version of the ticket's form.
pub const FORMAT: u32 = 1;
/// A ticket lists node names: a file larger than this is none.
const MAX_BYTES: u64 = 16 << 20;

/// Why a ticket is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    #[error("cannot read the ticket {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{0} is not a ticket")]
    Malformed(PathBuf),
    #[error("the signature of the ticket {0} does not fit the trusted key: it was changed, or somebody else made it")]
    Signature(PathBuf),
    #[error("the ticket {path} expired on {expires}; run `gonogo check` and write a new one")]
    Expired { path: PathBuf, expires: Timestamp },
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot use the key file {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{0} does not hold 64 hexadecimal digits; make a key with `gonogo gate --new-key FILE`")]
    Malformed(PathBuf),
    #[error("the key file {path} may be read by others (mode {mode:03o}); chmod 600 it")]
    Open { path: PathBuf, mode: u32 },
}

impl Ticket {
    /// Signs; the text is what goes into the file.
    pub fn sign(&self, key: &SigningKey) -> Result<String, serde_json::Error> {
        let payload = serde_json::to_string(self)?;
        let signature = hex(&key.sign(payload.as_bytes()).to_bytes());
        Ok(serde_json::to_string_pretty(&Envelope { payload, signature })? + "\n")
    }

    /// Reads a ticket, and returns it only when its signature fits `trusted` and it has not expired.
    pub fn open(path: &Path, trusted: &VerifyingKey, now: Timestamp) -> Result<Self, TicketError> {
        let read = |source| TicketError::Read { path: path.to_owned(), source };
        if fs::metadata(path).map_err(read)?.len() > MAX_BYTES {
            return Err(TicketError::Malformed(path.to_owned()));
        }
        Self::verify(path, &fs::read(path).map_err(read)?, trusted, now)
    }

    fn verify(path: &Path, bytes: &[u8], trusted: &VerifyingKey, now: Timestamp) -> Result<Self, TicketError> {
        let malformed = || TicketError::Malformed(path.to_owned());
        let envelope: Envelope = serde_json::from_slice(bytes).map_err(|_| malformed())?;
        let signature = unhex::<64>(&envelope.signature).ok_or_else(malformed)?;
        trusted
            .verify_strict(envelope.payload.as_bytes(), &Signature::from_bytes(&signature))
            .map_err(|_| TicketError::Signature(path.to_owned()))?;
        let ticket: Ticket = serde_json::from_str(&envelope.payload).map_err(|_| malformed())?;
        if ticket.format != FORMAT {
            return Err(malformed());
        }
        if ticket.expires <= now {
            return Err(TicketError::Expired { path: path.to_owned(), expires: ticket.expires });
        }
        Ok(ticket)
    }
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.trim().as_bytes();
    let mut out = [0u8; N];
    if text.len() != 2 * N || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (o, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *o = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

/// Makes a key pair: `path`, for the owner alone, and `path.pub`. Never over an existing file.
pub fn new_key(path: &Path) -> Result<PathBuf, KeyError> {
    let io = |source| KeyError::Io { path: path.to_owned(), source };
    let mut seed = [0u8; 32];
    fs::File::open("/dev/urandom").and_then(|mut f| std::io::Read::read_exact(&mut f, &mut seed)).map_err(io)?;
    let key = SigningKey::from_bytes(&seed);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
    writeln!(file, "{}", hex(&seed)).map_err(io)?;
    let public = PathBuf::from(format!("{}.pub", path.display()));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&public).map_err(io)?;
    writeln!(file, "{}", hex(key.verifying_key().as_bytes())).map_err(io)?;
    Ok(public)
}

/// Reads a secret key; refuses one that others may read.
pub fn read_secret(path: &Path) -> Result<SigningKey, KeyError> {
    let io = |source| KeyError::Io { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Open { path: path.to_owned(), mode });
    }
    let text = fs::read_to_string(path).map_err(io)?;
    unhex(&text).map(|seed| SigningKey::from_bytes(&seed)).ok_or_else(|| KeyError::Malformed(path.to_owned()))
}

/// Reads the public key that tickets are held against.
pub fn read_trusted(path: &Path) -> Result<VerifyingKey, KeyError> {
    let text = fs::read_to_string(path).map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
    let bytes = unhex(&text).ok_or_else(|| KeyError::Malformed(path.to_owned()))?;
    VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::Malformed(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            format: FORMAT,
            decision: "GO".into(),
            nodes: vec!["n1".into()],
            exclude: vec![],
            run_hash: PlanHash("h".into()),
            image: None,
            software: None,
            measured: Timestamp::UNIX_EPOCH,
            expires: Timestamp::from_second(100).unwrap_or_default(),
        }
    }

    #[test]
    fn only_what_the_trusted_key_signed_and_nobody_changed_is_accepted() {
        let (key, other) = (SigningKey::from_bytes(&[7; 32]), SigningKey::from_bytes(&[8; 32]));
        let text = ticket().sign(&key).unwrap_or_default();
        let path = Path::new("t");
        let now = Timestamp::from_second(50).unwrap_or_default();
        let open = |text: &str, key: &SigningKey, now| Ticket::verify(path, text.as_bytes(), &key.verifying_key(), now);
        assert_eq!(open(&text, &key, now).map_err(|e| e.to_string()), Ok(ticket()));
        assert!(matches!(open(&text, &other, now), Err(TicketError::Signature(_))));
        assert!(matches!(open(&text.replace("n1", "n2"), &key, now), Err(TicketError::Signature(_))));
        assert!(matches!(
            open(&text, &key, Timestamp::from_second(100).unwrap_or_default()),
            Err(TicketError::Expired { .. })
        ));
        assert!(matches!(open("{}", &key, now), Err(TicketError::Malformed(_))));
    }

    #[test]
    fn keys_are_for_their_owner_alone() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("key");
        let public = new_key(&path)?;
        assert_eq!(read_secret(&path)?.verifying_key(), read_trusted(&public)?);
        assert!(new_key(&path).is_err(), "a key was written over");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        assert!(matches!(read_secret(&path), Err(KeyError::Open { mode: 0o644, .. })));
        assert!(matches!(read_trusted(&dir.path().join("none")), Err(KeyError::Io { .. })));
        Ok(())
    }
}
