//! The keys that seal records: where they come from, and their names.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM_SIV, LessSafeKey, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::private_file::{self, PrivateFileError};
use crate::secret::StoreKey;

/// Length of a key in bytes.
const LENGTH: usize = 32;
/// Most bytes of a file of keys.
const MAX_FILE: u64 = 16 * 1024;

/// Where keys come from. Text of several keys has one a line, and may have comments after `#`.
#[derive(Clone, Debug, Default)]
pub enum KeySource {
    /// Nothing is sealed.
    #[default]
    None,
    /// The text itself.
    Value(StoreKey),
    /// A private file with the text. It is read again: keys are changed while proxies run.
    File(PathBuf),
    /// The same, and never changed while the process runs.
    Credential(PathBuf),
}

/// Why keys cannot be used. It never shows one.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// It is not a key, counted from 1.
    #[error(
        "key number {0} is not base64 of {LENGTH} bytes; make a key with: pleo-proxy store key"
    )]
    NotKey(usize),
    /// Only comments.
    #[error("there is no key in it; make one with: pleo-proxy store key")]
    NoKey,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    NoRandomness(getrandom::Error),
}

impl KeyError {
    /// See [`PrivateFileError::is_passing`].
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::File(error) if error.is_passing())
    }
}

/// Names a key: the first 8 hexadecimal digits of its SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyId(String);

impl KeyId {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The keys of a store: the first one seals, all of them open.
pub(super) struct KeyRing {
    first: Arc<Key>,
    others: Vec<Arc<Key>>,
}

/// One key, ready for use. Its cipher clears its memory when it is dropped.
pub(super) struct Key {
    pub(super) id: KeyId,
    pub(super) cipher: LessSafeKey,
    pub(super) secret: StoreKey,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all().map(|key| &key.id)).finish()
    }
}

impl KeySource {
    /// Reads the keys; `None` if none are to be used.
    pub(super) fn read(&self) -> Result<Option<KeyRing>, KeyError> {
        match self {
            Self::None => Ok(None),
            Self::Value(text) => KeyRing::parse(text.expose()).map(Some),
            Self::File(path) | Self::Credential(path) => {
                KeyRing::parse(&private_file::read_text(path, MAX_FILE)?).map(Some)
            }
        }
    }

    /// The file in which other keys may be later.
    pub(super) fn changing_file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::None | Self::Value(_) | Self::Credential(_) => None,
        }
    }
}

impl KeyRing {
    fn parse(text: &str) -> Result<Self, KeyError> {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
        let words = lines.flat_map(str::split_whitespace).enumerate();
        let key = |(at, word)| Key::parse(word).map(Arc::new).ok_or(KeyError::NotKey(at + 1));
        let mut keys = words.map(key);
        let first = keys.next().ok_or(KeyError::NoKey)??;
        Ok(Self { first, others: keys.collect::<Result<_, _>>()? })
    }

    /// These keys, and behind them those that were there before: what was sealed with one of them
    /// opens for as long as the process runs, whatever is taken out of the file.
    pub(super) fn joined_with(mut self, before: &Self) -> Self {
        let kept = before.every().filter(|key| self.find(&key.id).is_none()).cloned();
        let kept: Vec<_> = kept.collect();
        self.others.extend(kept);
        self
    }

    /// True if it has the same keys in the same order.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.all().map(|key| &key.id).eq(other.all().map(|key| &key.id))
    }

    /// The key that seals.
    pub(super) fn first(&self) -> &Key {
        &self.first
    }

    pub(super) fn find(&self, id: &KeyId) -> Option<&Key> {
        self.all().find(|key| key.id == *id)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Key> {
        self.every().map(|key| &**key)
    }

    fn every(&self) -> impl Iterator<Item = &Arc<Key>> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

impl Key {
    fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
        let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, &bytes).ok()?);
        let id = KeyId(HEXLOWER.encode(&Sha256::digest(&bytes)[..4]));
        Some(Self { id, cipher, secret: StoreKey::new(text) })
    }
}

/// A fresh key, and its name.
///
/// # Errors
/// The system gives no random numbers.
pub fn fresh_key() -> Result<(StoreKey, KeyId), KeyError> {
    let mut bytes = Zeroizing::new([0; LENGTH]);
    getrandom::fill(bytes.as_mut()).map_err(KeyError::NoRandomness)?;
    let key = Key::parse(&Zeroizing::new(STANDARD.encode(bytes.as_ref())));
    let key = key.expect("32 bytes in base64 are a key");
    Ok((key.secret, key.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_one_key_a_line_and_the_first_one_seals() {
        let ((a, first), (b, second)) = (fresh_key().unwrap(), fresh_key().unwrap());
        let text = format!("# of March\r\n{} # new\n\n  {}\n", a.expose(), b.expose());
        let ring = KeyRing::parse(&text).unwrap();
        assert_eq!(ring.first().id, first);
        assert_eq!(ring.all().map(|key| &key.id).collect::<Vec<_>>(), [&first, &second]);
        assert!(ring.find(&second).is_some() && ring.find(&KeyId::new("00000000")).is_none());
        let shown = format!("{ring:?} {:?}", KeySource::Value(a.clone()));
        assert!(shown.contains(first.as_str()) && !shown.contains(a.expose()), "{shown}");
    }

    #[test]
    fn the_name_of_a_key_is_the_beginning_of_its_sha256() {
        let ring = KeyRing::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
        assert_eq!(ring.first().id.as_str(), "66687aad");
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_shown() {
        let (good, _) = fresh_key().unwrap();
        let refused = |text: &str| KeyRing::parse(text).unwrap_err().to_string();
        for bad in ["canary", "Y2FuYXJ5", &format!("{}A", good.expose()), &"A".repeat(44)] {
            let error = refused(&format!("{}\n{bad}\n", good.expose()));
            assert!(error.contains("key number 2") && error.contains("store key"), "{error}");
            assert!(!error.contains(bad), "{error}");
        }
        assert!(refused("# nothing\n").contains("no key"));
    }
}
