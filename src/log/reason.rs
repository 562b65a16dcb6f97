//! Why an exchange failed.

use http::Method;

use super::entry::{By, Entry};
use crate::accounts::Accounts;
use crate::explain::{self, Answer, Explanation, Facts, Request};
use crate::store::AccountName;

/// Why Pleo answered a request as it did, with what is known of its account today. None for
/// answers of the proxy's own, and if nothing is known.
pub fn explanation(accounts: &Accounts, entry: &Entry, environment: &str) -> Option<Explanation> {
    if entry.by != Some(By::Pleo) {
        return None;
    }
    let name: AccountName = entry.account.as_ref()?.parse().ok()?;
    let method: Method = entry.method.as_ref()?.parse().ok()?;
    let request = Request {
        method: &method,
        path: &entry.path,
        query: Some(entry.query.iter().map(String::as_str).collect()),
    };
    let answer = Answer {
        status: entry.status?,
        error_type: entry.error_type.as_deref(),
        retry_after: None,
        sent_again: entry.sent_again,
    };
    let snapshot = accounts.get(&name)?.snapshot();
    let facts = snapshot.facts(&name, &accounts.oauth().settings.scopes);
    let facts = Facts { environment: Some(environment), ..facts };
    explain::after(&request, &answer, &facts)
}
