//! The kinds of store, as settings name them.

use std::fmt;
use std::str::FromStr;

/// A kind of store, as settings name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One file per account, in one folder.
    File,
    /// One row per account, in a PostgreSQL database that several replicas share.
    #[cfg(feature = "postgres")]
    Postgres,
}

impl FromStr for Kind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "file" => Ok(Self::File),
            #[cfg(feature = "postgres")]
            "postgres" => Ok(Self::Postgres),
            #[cfg(not(feature = "postgres"))]
            "postgres" => Err(
                "names a store that this program was built without (cargo feature `postgres`); write \"file\"",
            ),
            "keyring" => {
                Err("names a store that comes in a later version; write \"file\" or \"postgres\"")
            }
            _ => Err("must be file or postgres"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("file"),
            #[cfg(feature = "postgres")]
            Self::Postgres => f.write_str("postgres"),
        }
    }
}
