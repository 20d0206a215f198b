//! A readiness ticket: a GO that can be carried to another place and checked there. And the signature of a record, which stays beside
//! it: who may sign is whose verdicts count.

use std::io::Write;
use std::path::{Path, PathBuf};

use ed25519_dalek::{SigningKey, VerifyingKey};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::gate::Verdict;
use crate::gate::seal::{self, Kind, SealError};

/// What a ticket carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    pub format: u32,
    pub verdict: Verdict,
    /// Digest of the image that the run will use, when it was given.
    pub image: Option<String>,
    pub expires: Timestamp,
}

/// Version of the ticket's form.
pub const FORMAT: u32 = 2;

/// Why a ticket is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    #[error("the ticket cannot be used: {0}")]
    Seal(#[from] SealError),
    #[error("the ticket {path} has format {found}, this gonogo reads {FORMAT}: write a new one")]
    Format { path: PathBuf, found: u32 },
    #[error("the ticket {path} expired on {expires}; run `gonogo check` and write a new one")]
    Expired { path: PathBuf, expires: Timestamp },
}

impl Ticket {
    /// Signs; the text is what goes into the file.
    pub fn sign(&self, key: &SigningKey) -> Result<String, serde_json::Error> {
        seal::seal(Kind::Ticket, self, key)
    }

    /// Reads a ticket, and returns it only when its signature fits `trusted` and it has not expired.
    pub fn open(path: &Path, trusted: &VerifyingKey, now: Timestamp) -> Result<Self, TicketError> {
        let value: serde_json::Value = seal::open(Kind::Ticket, path, trusted)?;
        let found = value["format"].as_u64().and_then(|f| u32::try_from(f).ok()).unwrap_or(0);
        if found != FORMAT {
            return Err(TicketError::Format { path: path.to_owned(), found });
        }
        let ticket: Ticket = serde_json::from_value(value).map_err(|_| SealError::Malformed(path.to_owned()))?;
        if ticket.expires <= now {
            return Err(TicketError::Expired { path: path.to_owned(), expires: ticket.expires });
        }
        Ok(ticket)
    }
}

/// What the signature of a record covers.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    /// SHA-256 of the whole file, in hexadecimal.
    sha256: String,
}

/// Where the signature of a record lies: `record.sig` of `record.jsonl`.
pub fn signature_of(record: &Path) -> PathBuf {
    record.with_extension("sig")
}

/// Signs a record by its digest, beside it.
pub fn sign_record(record: &Path, digest: String, key: &SigningKey) -> std::io::Result<PathBuf> {
    let text = seal::seal(Kind::Record, &Signed { sha256: digest }, key)?;
    let path = signature_of(record);
    files::create(&path)?.write_all(text.as_bytes())?;
    Ok(path)
}

/// Whether a record with this digest was signed by the trusted key.
pub fn check_record(record: &Path, digest: &str, trusted: &VerifyingKey) -> Result<(), SealError> {
    let path = signature_of(record);
    let signed: Signed = seal::open(Kind::Record, &path, trusted)?;
    if signed.sha256 == digest { Ok(()) } else { Err(SealError::Signature(record.to_owned())) }
}
