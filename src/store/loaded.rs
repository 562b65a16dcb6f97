//! What was read of a record.

use super::change::Version;
use super::record::Record;
use super::seal::Protection;

/// A record as it was found.
#[derive(Debug)]
pub struct Loaded {
    /// Its content.
    pub record: Record,
    /// What tells it from what is saved later.
    pub version: Version,
    /// How it is kept.
    pub protection: Protection,
}
