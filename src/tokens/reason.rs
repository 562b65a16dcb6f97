//! Why only a login helps, as a fact; the sentence is made where it is told.

use std::fmt;

use crate::store::{AccountName, EndReason, Issued};

/// Why an account needs a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginReason {
    /// There never was one.
    NotConnected,
    /// Somebody removed its record.
    RecordGone,
    /// Its grant was issued by another server, to another client or for another API than those of
    /// the settings.
    IssuedElsewhere(Issued),
    /// Its grant is over.
    Ended(EndReason),
    /// It is logged out, and nobody noted why.
    LoggedOut,
}

impl LoginReason {
    /// The reason and what to do about it, for people.
    pub fn told(&self, account: &AccountName) -> String {
        let login = format!("run: pleo-proxy login {account}");
        match self {
            Self::NotConnected => format!("account {account} is not connected; {login}"),
            reason => format!("account {account} needs a login: {reason}; {login}"),
        }
    }
}

impl fmt::Display for LoginReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConnected => f.write_str("it is not connected"),
            Self::RecordGone => f.write_str("its record is gone, so it is logged out"),
            Self::IssuedElsewhere(Issued { token_endpoint, client_id, api_origin }) => {
                write!(f, "its login is for {api_origin} at {token_endpoint} (client {client_id})")
            }
            Self::Ended(reason) => reason.fmt(f),
            Self::LoggedOut => f.write_str("it is logged out"),
        }
    }
}
