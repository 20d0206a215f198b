//! The secret of one step of one group: who opens a port for it, or calls at one, proves that it holds it.
//!
//! The coordinator makes one for every group of every step and hands it out over the encrypted channel; it is in no record. An
//! eavesdropper on the data network learns nothing from it: each proof covers numbers that both ends drew for this connection alone.

use hmac::{Hmac, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;

use crate::plan::{hex, unhex};

/// Bytes of a proof.
pub const PROOF: usize = 32;

#[derive(Clone, PartialEq, Eq)]
pub struct StepKey([u8; 32]);

impl std::fmt::Debug for StepKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StepKey(..)")
    }
}

/// Random bytes from the kernel.
pub fn random<const N: usize>() -> [u8; N] {
    let mut out = [0u8; N];
    let mut filled = 0;
    // Before the pool of a machine that just booted is ready, the call waits.
    while filled < N {
        match rustix::rand::getrandom(&mut out[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            // No kernel since 3.17 comes here; what is not random must not be used as a secret.
            Err(error) => panic!("the kernel gives no random bytes: {error}"),
        }
    }
    out
}

impl StepKey {
    pub fn new() -> Self {
        StepKey(random())
    }

    fn mac(&self, parts: &[&[u8]]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        for part in parts {
            // The length keeps `ab c` and `a bc` apart.
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        Some(mac)
    }

    /// Proves that who says `parts` holds the key.
    pub fn prove(&self, parts: &[&[u8]]) -> [u8; PROOF] {
        // A key of 32 bytes is always one.
        self.mac(parts).map_or([0; PROOF], |m| m.finalize().into_bytes().into())
    }

    /// Compares in constant time.
    pub fn proves(&self, parts: &[&[u8]], proof: &[u8]) -> bool {
        self.mac(parts).is_some_and(|m| m.verify_slice(proof).is_ok())
    }
}

impl Default for StepKey {
    fn default() -> Self {
        StepKey::new()
    }
}

impl Serialize for StepKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for StepKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        unhex(&text).map(StepKey).ok_or_else(|| serde::de::Error::custom("a key is 64 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_for_one_key_and_one_text() {
        let (key, other) = (StepKey::new(), StepKey::new());
        let proof = key.prove(&[b"ab", b"c"]);
        assert!(key.proves(&[b"ab", b"c"], &proof));
        assert!(!key.proves(&[b"a", b"bc"], &proof) && !other.proves(&[b"ab", b"c"], &proof));
        assert!(!key.proves(&[b"ab", b"c"], &proof[..31]));
        assert_eq!(format!("{key:?}"), "StepKey(..)");
    }

    #[test]
    fn a_key_travels_as_text_and_nothing_else_is_one() {
        let key = StepKey::new();
        let text = serde_json::to_string(&key).unwrap_or_default();
        assert_eq!(serde_json::from_str::<StepKey>(&text).ok(), Some(key));
        for bad in ["\"\"", "\"zz\"", &text.replace('"', "\"0"), "\"é\"", "7"] {
            assert!(serde_json::from_str::<StepKey>(bad).is_err(), "{bad}");
        }
    }
}
