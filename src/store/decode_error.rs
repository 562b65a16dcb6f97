//! Why bytes are not a record.

use super::keys::KeyId;

/// Newest version of the format on disk: of records that are sealed, or hold an API key.
pub(super) const VERSION: u32 = 3;

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Damaged, with the check that failed.
    #[error("it is corrupt ({0})")]
    Corrupt(&'static str),
    /// Written by another version of this program.
    #[error("it has version {0}, this program knows versions up to {VERSION}")]
    Version(u32),
    /// Sealed with a key that is not there.
    #[error("it is sealed with store key {0}, which is not there")]
    NoKey(KeyId),
    /// Sealed with a key that may be in the file of keys, which cannot be read now.
    #[error("it is sealed with store key {id}, and the file of keys cannot be used: {why}")]
    KeysUnreadable {
        /// The key.
        id: KeyId,
        /// What is wrong with the file, which it names, and where there is one, the command that
        /// mends it.
        why: String,
        /// That says nothing about the file: a later attempt can succeed.
        is_passing: bool,
    },
}
