//! Where the database of a store is, as settings say it.

use std::path::PathBuf;

use crate::secret::DatabaseSecret;

/// Where the URL of the database comes from.
#[derive(Clone, Debug, Default)]
pub enum UrlSource {
    /// Nothing is configured.
    #[default]
    None,
    /// The URL itself.
    Value(DatabaseSecret),
    /// A private file with it.
    File(PathBuf),
}

/// Where the database is, and what it is trusted with.
#[derive(Clone, Debug, Default)]
pub struct Database {
    /// Its URL.
    pub url: UrlSource,
    /// Further trust roots in PEM, beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Records may be kept without being sealed.
    pub allow_plain: bool,
}
