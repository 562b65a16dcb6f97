//! Why a statement was not done.

use std::error::Error as _;
use std::io;

use tokio_postgres::error::SqlState;

use crate::outbound::{Cause, Explanation, explanation};

/// Why a statement was not done.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The database cannot be reached or does not answer; that is over when it does.
    #[error("{0}")]
    Unreachable(String),
    /// Its certificate is refused; that is over when it, the settings or the clock are changed.
    #[error("{0}")]
    Distrusted(String),
    /// The database refuses.
    #[error("the database refuses: {why}{}", hint(.code))]
    Refused {
        /// Its code for the reason.
        code: SqlState,
        /// Its reason.
        why: String,
    },
}

impl Trouble {
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Distrusted(_))
    }

    /// True if the role may not do it.
    pub(super) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == SqlState::INSUFFICIENT_PRIVILEGE)
    }

    /// True if another session has locked what was asked for.
    pub(super) fn is_locked_out(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == SqlState::LOCK_NOT_AVAILABLE)
    }

    /// True if the tables are not there.
    pub(super) fn is_without_tables(&self) -> bool {
        let missing = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME];
        matches!(self, Self::Refused { code, .. } if missing.contains(code))
    }
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(refused) = error.as_db_error() else {
            if let Some(text) = certificate(&error) {
                return Self::Distrusted(text);
            }
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                text += &format!(": {error}");
                cause = error.source();
            }
            return Self::Unreachable(text);
        };
        let (code, why) = (refused.code().clone(), refused.message().to_owned());
        // Connection exceptions, a server that stops or starts, one that has no place left, and one
        // that is a standby by now: the primary is asked for again.
        let passing = ["08", "57P"].iter().any(|class| code.code().starts_with(class));
        let passing = passing || code == SqlState::TOO_MANY_CONNECTIONS;
        if passing || code == SqlState::READ_ONLY_SQL_TRANSACTION {
            return Self::Unreachable(why);
        }
        Self::Refused { code, why }
    }
}

impl From<Trouble> for io::Error {
    /// Never of the kind that says that a resource of this process is missing.
    fn from(trouble: Trouble) -> Self {
        let kind = match trouble {
            Trouble::Unreachable(_) | Trouble::Distrusted(_) => io::ErrorKind::NotConnected,
            Trouble::Refused { .. } => io::ErrorKind::PermissionDenied,
        };
        Self::new(kind, trouble.to_string())
    }
}

/// Why its certificate is refused, and what to do, if that is the reason.
fn certificate(error: &tokio_postgres::Error) -> Option<String> {
    let Explanation { cause, what, .. } = explanation(error);
    let fix = match cause {
        Cause::UnknownIssuer | Cause::CertificateRefused => {
            "name the certificate of the authority that signed it, not its own, in store.ca_file"
        }
        Cause::WrongName => "use a name of its certificate in the URL (store.url_file)",
        Cause::CertificateExpired => "renew it, or set this machine's clock right if that is ahead",
        Cause::CertificateNotYetValid => "set this machine's clock right: it may be behind",
        _ => return None,
    };
    Some(format!("{what}; {fix}"))
}

fn hint(code: &SqlState) -> &'static str {
    if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        "; give the role its rights: pleo-proxy store sql | psql, as the owner of the database"
    } else if *code == SqlState::LOCK_NOT_AVAILABLE {
        "; another session has held its tables for long; find it: SELECT pid, state, query FROM pg_stat_activity WHERE xact_start < now() - interval '10 seconds'; and end it: SELECT pg_terminate_backend(PID)"
    } else if *code == SqlState::DISK_FULL {
        "; free some space on the disk of the database"
    } else {
        ""
    }
}
