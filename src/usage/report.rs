//! What follows from the counters of an account.

use serde::{Deserialize, Serialize};

use super::counters::Account;
use crate::operations::{self, Operation, Scope};

/// What is known of an account's grant.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grant<'a> {
    /// Scopes that a login asks for (`client.scopes`).
    pub asked: &'a [String],
    /// Scopes that were granted; empty if they are not known.
    pub granted: &'a [String],
    /// Age of the refresh token, in seconds.
    pub refresh_token_age: Option<u64>,
    /// What is shown beside the account's name.
    pub label: Option<&'a str>,
}

/// The scopes and operations of one account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct AccountReport {
    /// Its name.
    pub account: String,
    /// What is shown beside it: the label of the settings, else the company's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Scopes that a login asks for.
    pub asked: Vec<String>,
    /// Scopes that were granted.
    pub granted: Vec<String>,
    /// Granted scopes that the operations in use need.
    pub used: Vec<String>,
    /// The fewest scopes that are known to do. Of the granted ones it includes those that no
    /// operation is known to need, if operations are in use whose scope Pleo does not publish, and
    /// all of them, if there are subscriptions: they need the scopes of their events.
    pub smallest_scopes: Vec<String>,
    /// Operations in use whose scope Pleo does not publish.
    pub unknown_scope_operations: Vec<String>,
    /// Operations in use that are deprecated.
    pub deprecated: Vec<DeprecatedUse>,
    /// True if there were requests, and reads only: `guard.read_only` would have refused none.
    pub read_only_would_do: bool,
    /// Age of the refresh token, in seconds.
    pub refresh_token_age_s: Option<u64>,
    /// All operations in use.
    pub operations: Vec<OperationUse>,
}

/// Use of a deprecated operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct DeprecatedUse {
    /// The operation.
    pub operation: String,
    /// How often it was requested.
    pub requests: u64,
    /// The operation that replaces it, if one is named.
    pub successor: Option<String>,
}

/// Use of an operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct OperationUse {
    /// The operation.
    pub operation: String,
    /// How often it was requested.
    pub requests: u64,
    /// How often that had no success.
    pub errors: u64,
    /// When it was requested last, in UNIX milliseconds.
    pub last_at: i64,
}

pub(super) fn report(name: &str, account: &Account, grant: &Grant<'_>) -> AccountReport {
    let in_use: Vec<_> = account.used().collect();
    let unknown: Vec<_> = in_use.iter().filter(|(it, _)| is_unknown(it)).collect();
    let needed = needed(in_use.iter().map(|(operation, _)| *operation), grant);
    let mut smallest = needed.clone();
    let may_be_needed = |scope: &&String| {
        let has = |scope| unknown.iter().any(|(operation, _)| operation.scope == scope);
        has(Scope::OfSubscribedEvents) || (has(Scope::Unpublished) && !is_of_an_operation(scope))
    };
    smallest.extend(grant.granted.iter().filter(may_be_needed).cloned());
    smallest.sort();
    smallest.dedup();
    AccountReport {
        account: name.to_owned(),
        label: grant.label.map(str::to_owned),
        asked: grant.asked.to_vec(),
        granted: grant.granted.to_vec(),
        used: needed.into_iter().filter(|scope| grant.granted.contains(scope)).collect(),
        smallest_scopes: smallest,
        unknown_scope_operations: unknown.iter().map(|(it, _)| it.to_string()).collect(),
        deprecated: in_use.iter().filter_map(|(it, used)| deprecated(it, used.requests)).collect(),
        read_only_would_do: account.has_requests() && !account.has_written(),
        refresh_token_age_s: grant.refresh_token_age,
        operations: in_use
            .iter()
            .map(|(operation, used)| OperationUse {
                operation: operation.to_string(),
                requests: used.requests,
                errors: used.errors,
                last_at: used.last_at,
            })
            .collect(),
    }
}

/// The scopes that operations need, sorted, each once, spelled as they were granted.
fn needed<'a>(operations: impl Iterator<Item = &'a Operation>, grant: &Grant<'_>) -> Vec<String> {
    let scopes = operations.filter_map(|operation| match operation.scope {
        Scope::Named(scope) => Some(as_granted(scope, grant)),
        Scope::NotNeeded | Scope::OfSubscribedEvents | Scope::Unpublished => None,
    });
    let mut scopes: Vec<_> = scopes.collect();
    scopes.sort();
    scopes.dedup();
    scopes
}

/// `tag-group:` where that was granted instead of `tag-groups:`.
fn as_granted(scope: &str, grant: &Grant<'_>) -> String {
    let has = |scope: &str| grant.granted.iter().any(|granted| granted == scope);
    let other = scope.replacen("tag-groups:", "tag-group:", 1);
    if !has(scope) && has(&other) { other } else { scope.to_owned() }
}

fn is_unknown(operation: &Operation) -> bool {
    matches!(operation.scope, Scope::Unpublished | Scope::OfSubscribedEvents)
}

/// True if the table names this scope: then it is known what it is for.
fn is_of_an_operation(scope: &str) -> bool {
    let scope = scope.replacen("tag-group:", "tag-groups:", 1);
    operations::ALL.iter().any(|it| matches!(it.scope, Scope::Named(named) if named == scope))
}

fn deprecated(operation: &Operation, requests: u64) -> Option<DeprecatedUse> {
    operation.deprecation.map(|_| DeprecatedUse {
        operation: operation.to_string(),
        requests,
        successor: operation.successor.map(str::to_owned),
    })
}
