//! How the admin listener proves to a command that it knows the admin key, before the command sends
//! it: the command sends a random challenge, the listener responds with an HMAC of it. Another
//! program on the port learns nothing, and the proof covers the address, so that one listener
//! cannot use the proof of another.
//!
//! Sessions of the page are proofs too: a session names its end and carries an HMAC of it, so that
//! it outlives a restart of the proxy and nothing has to be kept.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::secret::AdminKey;

/// Request header of `GET /health`: 43 characters of base64url, never the same twice.
pub const CHALLENGE: &str = "pleo-proxy-challenge";
/// Response header: the proof, base64url.
pub const PROOF: &str = "pleo-proxy-proof";
/// Separates this use of the key from any other.
const PURPOSE: &[u8] = b"pleo-proxy admin listener, version 1";
/// The same for sessions.
const SESSION: &[u8] = b"pleo-proxy session of the page, version 1";
/// 256 bits in base64url.
const CHALLENGE_LENGTH: usize = 43;

/// The proof of the listener at `origin` for a challenge; `None` if it is not a valid challenge.
pub fn prove(key: &AdminKey, origin: &str, challenge: &str) -> Option<String> {
    let is_challenge = challenge.len() == CHALLENGE_LENGTH && challenge.is_ascii();
    is_challenge
        .then(|| URL_SAFE_NO_PAD.encode(mac(key, origin, challenge).finalize().into_bytes()))
}

/// True if `proof` is that of the listener at `origin`, in constant time.
pub fn is_proven(key: &AdminKey, origin: &str, challenge: &str, proof: &str) -> bool {
    URL_SAFE_NO_PAD
        .decode(proof)
        .is_ok_and(|proof| mac(key, origin, challenge).verify_slice(&proof).is_ok())
}

fn mac(key: &AdminKey, origin: &str, challenge: &str) -> Hmac<Sha256> {
    mac_of(key, [PURPOSE, origin.as_bytes(), challenge.as_bytes()])
}

/// A session that ends at `ends` (wall clock, milliseconds). `nonce` makes it one of its kind.
pub(super) fn session(key: &AdminKey, ends: i64, nonce: &str) -> String {
    let said = format!("{ends}.{nonce}");
    let mac = mac_of(key, [SESSION, said.as_bytes(), b""]).finalize().into_bytes();
    format!("{said}.{}", URL_SAFE_NO_PAD.encode(mac))
}

/// When a session ends, if it is one of this key (wall clock, milliseconds).
pub(super) fn session_end(key: &AdminKey, session: &str) -> Option<i64> {
    let (said, mac) = session.rsplit_once('.')?;
    let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
    mac_of(key, [SESSION, said.as_bytes(), b""]).verify_slice(&mac).ok()?;
    said.split_once('.')?.0.parse().ok()
}

fn mac_of(key: &AdminKey, parts: [&[u8]; 3]) -> Hmac<Sha256> {
    let mac = Hmac::<Sha256>::new_from_slice(key.expose().as_bytes());
    let mut mac = mac.expect("HMAC takes keys of any length");
    // No part holds a zero byte, so different parts never give the same input.
    for part in parts {
        mac.update(part);
        mac.update(&[0]);
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_needs_the_key_and_is_valid_for_one_challenge_at_one_address() {
        let (key, other) = (AdminKey::new("k".repeat(43)), AdminKey::new("l".repeat(43)));
        let (origin, challenge) = ("http://127.0.0.1:8089", "c".repeat(43));
        let proof = prove(&key, origin, &challenge).unwrap();
        assert!(!proof.contains("kkk"));
        assert!(is_proven(&key, origin, &challenge, &proof));
        assert!(!is_proven(&other, origin, &challenge, &proof));
        assert!(!is_proven(&key, "http://127.0.0.1:8088", &challenge, &proof));
        assert!(!is_proven(&key, origin, &"d".repeat(43), &proof));
        for wrong in ["", "!", &proof[1..], &challenge] {
            assert!(!is_proven(&key, origin, &challenge, wrong), "{wrong}");
        }
        let session = session(&key, 1_790_000_000_000, &challenge);
        assert_eq!(session_end(&key, &session), Some(1_790_000_000_000));
        assert_eq!(session_end(&other, &session), None);
        for forged in ["", ".", "1.2", &session[1..], &session.replace("179", "279")] {
            assert_eq!(session_end(&key, forged), None, "{forged}");
        }
        for odd in ["", "short", &"c".repeat(44), &"\u{fc}".repeat(43)] {
            assert_eq!(prove(&key, origin, odd), None, "{odd}");
        }
    }
}
