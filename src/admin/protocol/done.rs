//! The response to a request that returns no data.

use serde::{Deserialize, Serialize};

/// The response to a logout, a finished or cancelled login, a rename, a removal and a shutdown.
#[derive(Debug, Deserialize, Serialize)]
pub struct Done {
    /// What was done.
    pub outcome: Outcome,
    /// The account, if it is about one; after a rename by its new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
}

/// What was done.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A login succeeded.
    Connected,
    /// A grant was deleted.
    LoggedOut,
    /// An account has another name.
    Renamed,
    /// An account was removed.
    Removed,
    /// A pending login was cancelled.
    Abandoned,
    /// The process is ending.
    Stopping,
    /// A login has started.
    Begun,
    /// A value that this release does not know.
    #[serde(other)]
    Other,
}

impl From<Outcome> for Done {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, account: None }
    }
}
