//! The answer to a request that is done or refused, and brings nothing.

use serde::{Deserialize, Serialize};

/// The answer to what is done or not: logout, the end of a login, giving one up, shutdown.
#[derive(Debug, Deserialize, Serialize)]
pub struct Done {
    /// What was done.
    pub outcome: Outcome,
    /// To which account, where the answer says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
}

/// What was done.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A login ended well.
    Connected,
    /// A grant is forgotten.
    LoggedOut,
    /// A pending login is given up.
    Abandoned,
    /// The process is told to end.
    Stopping,
    /// A login waits for its person.
    Begun,
    /// Something that this release does not know.
    #[serde(other)]
    Other,
}

impl From<Outcome> for Done {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, account: None }
    }
}
