//! How accounts are looked after.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::oauth;
use crate::store::AccountName;

/// How long one attempt waits for the store's lock.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// How long anybody waits for the refresh lock: a refresh takes the store's lock (10 s), reaches
/// the server (5 s), drains and posts (30 s).
pub(super) const REFRESH_LOCK_PATIENCE: Duration = Duration::from_secs(60);
/// How long the end of the process waits for token requests: their own deadline, and their save.
pub(super) const CLOSE_PATIENCE: Duration = oauth::CALL.saturating_add(Duration::from_secs(5));

/// Longest label, in characters.
const MAX_LABEL: usize = 100;

/// Settings of all accounts.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// How long a refresh waits for requests that hold the old token.
    pub drain: Duration,
    /// How long a request waits for a token.
    pub hold: Duration,
    /// How long after its last use an account is refreshed ahead of need.
    pub keep_warm: Duration,
    /// A grant not refreshed for this long is refreshed, so that it does not lapse.
    pub idle_refresh: Duration,
    /// The account of requests that name none.
    pub default_account: Option<AccountName>,
    /// The accounts that the settings name.
    pub named: BTreeMap<AccountName, NamedAccount>,
}

impl Settings {
    /// The file of an account's API key, if there is one.
    pub fn key_file(&self, account: &AccountName) -> Option<&Path> {
        self.named.get(account)?.api_key_file.as_deref()
    }
}

/// What the settings say about one account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedAccount {
    /// Shown beside its name; none: the company's name.
    pub label: Option<String>,
    /// A file with the API key that it sends; its record in the store is left alone.
    pub api_key_file: Option<PathBuf>,
}

/// Reads a label: one line of text.
///
/// # Errors
/// It could not be shown in one line.
pub fn label(text: &str) -> Result<String, &'static str> {
    if text.chars().any(char::is_control) {
        return Err("must not contain control characters");
    }
    if text.chars().count() > MAX_LABEL {
        return Err("must have at most 100 characters");
    }
    Ok(text.to_owned())
}

/// Whether this process does what no request and no person asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// Tokens are refreshed ahead of need, changed records are noticed, and what people should look
    /// after is said: a proxy.
    Enabled,
    /// The same, and nothing is said but what goes wrong: for the time of one program.
    Quiet,
    /// Nothing happens by itself: one command, then the end.
    Disabled,
}

impl Background {
    /// True if anything happens by itself.
    pub(super) fn is_on(self) -> bool {
        self != Self::Disabled
    }
}
