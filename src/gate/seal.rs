//! What is signed with ed25519, and by whose key. A signature covers the exact bytes of its payload and what kind of thing it is,
//! which is why the payload travels as text. Who checks brings the public key: one that comes with the thing is never trusted.

use std::io::Write;
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cluster::random;
use crate::files::{self, Guard, Untrusted};
use crate::plan::{hex, unhex};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    payload: String,
    signature: String,
}

/// What a signature is given for: one kind's is none of another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ticket,
    Record,
}

impl Kind {
    fn context(self) -> &'static [u8] {
        match self {
            Kind::Ticket => b"gonogo ticket\0",
            Kind::Record => b"gonogo record\0",
        }
    }
}

/// Largest signed thing: a ticket lists node names.
pub(super) const MAX_BYTES: u64 = 16 << 20;
/// A key file holds 64 digits.
const MAX_KEY: u64 = 4096;

/// Why something signed is not taken.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{0} is not signed by gonogo")]
    Malformed(PathBuf),
    #[error("the signature of {0} does not fit the trusted key: it was changed, or somebody else made it")]
    Signature(PathBuf),
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot use the key file {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{0} does not hold 64 hexadecimal digits; make a key with `gonogo gate --new-key FILE`")]
    Malformed(PathBuf),
    #[error("the key file {path} is not used: {why}")]
    Untrusted { path: PathBuf, why: Untrusted },
}

/// The signed text, ready for a file.
pub(super) fn seal<T: Serialize>(kind: Kind, what: &T, key: &SigningKey) -> Result<String, serde_json::Error> {
    let payload = serde_json::to_string(what)?;
    let signature = hex(&key.sign(&[kind.context(), payload.as_bytes()].concat()).to_bytes());
    Ok(serde_json::to_string_pretty(&Envelope { payload, signature })? + "\n")
}

/// What was signed, when the signature fits `trusted`.
pub(super) fn open<T: DeserializeOwned>(kind: Kind, path: &Path, trusted: &VerifyingKey) -> Result<T, SealError> {
    let read = |source| SealError::Read { path: path.to_owned(), source };
    verify(kind, path, &files::open_in_place(path).and_then(|f| files::read(f, MAX_BYTES)).map_err(read)?, trusted)
}

pub(super) fn verify<T: DeserializeOwned>(
    kind: Kind,
    path: &Path,
    bytes: &[u8],
    trusted: &VerifyingKey,
) -> Result<T, SealError> {
    let malformed = || SealError::Malformed(path.to_owned());
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(|_| malformed())?;
    let signature = unhex::<64>(envelope.signature.trim()).ok_or_else(malformed)?;
    trusted
        .verify_strict(&[kind.context(), envelope.payload.as_bytes()].concat(), &Signature::from_bytes(&signature))
        .map_err(|_| SealError::Signature(path.to_owned()))?;
    serde_json::from_str(&envelope.payload).map_err(|_| malformed())
}

/// Makes a key pair: `path`, for the owner alone, and `path.pub`. Never over an existing file.
pub fn new_key(path: &Path) -> Result<PathBuf, KeyError> {
    let io = |source| KeyError::Io { path: path.to_owned(), source };
    let seed: [u8; 32] = random();
    let key = SigningKey::from_bytes(&seed);
    writeln!(files::create(path).map_err(io)?, "{}", hex(&seed)).map_err(io)?;
    let public = PathBuf::from(format!("{}.pub", path.display()));
    writeln!(files::create(&public).map_err(io)?, "{}", hex(key.verifying_key().as_bytes())).map_err(io)?;
    Ok(public)
}

/// Reads a secret key; refuses one that others may read, or put there.
pub fn read_secret(path: &Path) -> Result<SigningKey, KeyError> {
    let seed = read_key(path, Guard::Secret)?;
    Ok(SigningKey::from_bytes(&seed))
}

/// Reads the public key that signatures are held against; refuses one that others may put there.
pub fn read_trusted(path: &Path) -> Result<VerifyingKey, KeyError> {
    let bytes = read_key(path, Guard::Trust)?;
    VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::Malformed(path.to_owned()))
}

fn read_key(path: &Path, guard: Guard) -> Result<[u8; 32], KeyError> {
    let io = |source| KeyError::Io { path: path.to_owned(), source };
    // Read first: of a pipe or a device that is the error to tell.
    let text = files::open_in_place(path).and_then(|f| files::read_text(f, MAX_KEY)).map_err(io)?;
    let untrusted = |why| KeyError::Untrusted { path: path.to_owned(), why };
    files::check(path, guard).map_err(io)?.map_err(untrusted)?;
    unhex(text.trim()).ok_or_else(|| KeyError::Malformed(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_what_the_trusted_key_signed_for_this_and_nobody_changed_is_opened() {
        let (key, other) = (SigningKey::from_bytes(&[7; 32]), SigningKey::from_bytes(&[8; 32]));
        let text = seal(Kind::Record, &"n1", &key).unwrap_or_default();
        let open = |kind, text: &str, key: &SigningKey| {
            verify::<String>(kind, Path::new("t"), text.as_bytes(), &key.verifying_key())
        };
        assert_eq!(open(Kind::Record, &text, &key).ok().as_deref(), Some("n1"));
        assert!(matches!(open(Kind::Record, &text, &other), Err(SealError::Signature(_))));
        assert!(matches!(open(Kind::Ticket, &text, &key), Err(SealError::Signature(_))));
        assert!(matches!(open(Kind::Record, &text.replace("n1", "n2"), &key), Err(SealError::Signature(_))));
        assert!(matches!(open(Kind::Record, "{}", &key), Err(SealError::Malformed(_))));
    }

    #[test]
    fn keys_are_for_their_owner_alone() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("key");
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
        let public = new_key(&path)?;
        assert_eq!(read_secret(&path)?.verifying_key(), read_trusted(&public)?);
        assert!(new_key(&path).is_err(), "a key was written over");
        mode(&path, 0o644)?;
        assert!(matches!(read_secret(&path), Err(KeyError::Untrusted { .. })));
        mode(&public, 0o644)?;
        assert!(read_trusted(&public).is_ok());
        mode(&public, 0o666)?;
        assert!(matches!(read_trusted(&public), Err(KeyError::Untrusted { .. })));
        assert!(matches!(read_trusted(&dir.path().join("none")), Err(KeyError::Io { .. })));
        Ok(())
    }
}
