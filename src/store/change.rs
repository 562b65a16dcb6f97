//! Changes of a store, and versions of its records.

use std::hash::{DefaultHasher, Hash, Hasher as _};

use super::name::AccountName;

/// Tells one version of a record from the next without reading it. Its content is up to the kind of
/// store. The default is the version of a record that does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version(Option<u64>);

impl Version {
    /// The version of a record that has these features.
    pub(super) fn of(features: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        features.hash(&mut hasher);
        Self(Some(hasher.finish()))
    }

    /// True if there is no record.
    pub fn is_absent(self) -> bool {
        self.0.is_none()
    }
}

/// An account whose record is watched for changes.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The account.
    pub account: AccountName,
    /// The version that the reader has; none = it could not read the record, so the record is
    /// reported at each poll.
    pub version: Option<Version>,
}

/// What may have changed in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The record of this account came, went or was replaced.
    Changed(AccountName),
    /// The store was out of sight for a while: any record may have changed.
    Resync,
}
