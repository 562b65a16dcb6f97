//! Scopes and operations of the accounts.

use std::collections::BTreeSet;

use crate::accounts::{Accounts, Status};
use crate::store::AccountName;
use crate::usage::{AccountReport, Grant, Usage};

/// What the counters say about each account, by name; or about one, if `only` names it.
pub fn reports(
    accounts: &Accounts,
    usage: &Usage,
    only: Option<&AccountName>,
) -> Vec<AccountReport> {
    let known = accounts.all().into_iter().map(|account| account.name.to_string());
    let names: BTreeSet<_> = known.chain(usage.accounts()).collect();
    let chosen = names.iter().filter(|name| only.is_none_or(|only| only.as_str() == *name));
    chosen.map(|name| report(accounts, usage, name)).collect()
}

fn report(accounts: &Accounts, usage: &Usage, name: &str) -> AccountReport {
    let account = name.parse().ok().and_then(|name| accounts.get(&name));
    let status = account.map(|account| Status::of(&account));
    let grant = Grant {
        asked: &accounts.oauth().settings.scopes,
        granted: status.as_ref().map(|status| status.scope.as_slice()).unwrap_or_default(),
        refresh_token_age: status.as_ref().and_then(|status| status.refresh_token_age),
        label: status
            .as_ref()
            .and_then(|status| status.label.as_deref().or(status.company.as_deref())),
    };
    usage.report(name, &grant)
}
