//! Use of the API by the accounts, in the admin API.

use serde::{Deserialize, Serialize};
use url::form_urlencoded;

pub use crate::usage::AccountReport;

/// The query of `GET /api/report`.
#[derive(Debug, Default, Deserialize)]
pub struct ReportQuery {
    /// Only this account.
    #[serde(default)]
    pub account: Option<String>,
}

impl ReportQuery {
    /// The target of the request.
    pub fn target(&self) -> String {
        let mut query = form_urlencoded::Serializer::new("/api/report?".to_owned());
        if let Some(account) = &self.account {
            query.append_pair("account", account);
        }
        query.finish()
    }
}

/// The response to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Report {
    /// When counting began, in UNIX milliseconds.
    pub since: i64,
    /// By name.
    pub accounts: Vec<AccountReport>,
}
