//! What scopes say about a request.

use super::explanation::{Explanation, Verdict, visible};
use super::facts::{CredentialKind, Facts};
use crate::operations::{Operation, Scope};

/// Most scopes that a reason lists.
const MAX_LISTED: usize = 8;
/// Longest scope that is shown in full, in characters.
const MAX_SCOPE: usize = 40;

/// Whether an account has a scope.
enum Standing<'a> {
    Granted,
    Missing,
    /// It has the one that is written `tag-group:` instead of `tag-groups:`, or the other way round.
    OtherSpelling(&'a str),
    /// Nobody knows what was granted.
    Unknown,
}

fn standing<'a>(scope: &str, facts: &Facts<'a>) -> Standing<'a> {
    let Some(granted) = facts.granted else { return Standing::Unknown };
    if granted.iter().any(|it| it == scope) {
        return Standing::Granted;
    }
    let other = other_spelling(scope);
    match granted.iter().find(|it| other.as_deref() == Some(it)) {
        Some(other) => Standing::OtherSpelling(other),
        None => Standing::Missing,
    }
}

/// A public client of Pleo writes `tag-groups:*` for staging and `tag-group:*` for production.
fn other_spelling(scope: &str) -> Option<String> {
    scope.strip_prefix("tag-groups:").map(|permission| format!("tag-group:{permission}"))
}

/// A scope is missing that Pleo's documentation names.
pub(super) fn refusal(operation: &Operation, facts: &Facts<'_>) -> Option<Explanation> {
    let Scope::Named(scope) = operation.scope else { return None };
    let is_missing = matches!(standing(scope, facts), Standing::Missing);
    (is_missing && operation.is_scope_documented()).then(|| {
        let reason = format!("needs {scope}; {}", granted(facts));
        let explanation = Explanation::new(Verdict::Refused, reason).next(add(scope, facts));
        explanation.source(operation.scope_source)
    })
}

/// What the scopes promise, unless one is missing for certain.
pub(super) fn expectation(operation: &Operation, facts: &Facts<'_>) -> Explanation {
    match operation.scope {
        Scope::Named(scope) => named(operation, scope, facts),
        Scope::NotNeeded => {
            let reason = "no scope is known to be needed";
            Explanation::new(Verdict::Allowed, reason).source("inferred").possible()
        }
        Scope::OfSubscribedEvents => {
            let reason = format!("needs the scopes of the subscribed events; {}", granted(facts));
            Explanation::new(Verdict::Unknown, reason).source(operation.scope_source)
        }
        Scope::Unpublished => {
            let reason = "Pleo publishes no scope for this operation";
            Explanation::new(Verdict::Unknown, reason)
        }
    }
}

/// Why Pleo answered 403, as far as scopes can tell.
pub(super) fn forbidden(operation: &Operation, facts: &Facts<'_>) -> Explanation {
    if let Some(refusal) = refusal(operation, facts) {
        return refusal;
    }
    let explanation = expectation(operation, facts);
    match explanation.verdict {
        Verdict::Allowed => {
            let reason = format!("{}, so there is another reason", explanation.reason);
            let next = "the id may be one of another company, or the company may lack the feature";
            Explanation { reason, ..explanation }.next(next.to_owned()).possible()
        }
        _ if explanation.next.is_none() => {
            explanation.next("ask Pleo which scope it needs".to_owned())
        }
        _ => explanation,
    }
}

fn named(operation: &Operation, scope: &str, facts: &Facts<'_>) -> Explanation {
    let is_documented = operation.is_scope_documented();
    let needs = if is_documented { "needs" } else { "probably needs" };
    let holder = holder(facts);
    let explanation = match standing(scope, facts) {
        Standing::Granted => {
            Explanation::new(Verdict::Allowed, format!("{needs} {scope}, which {holder} has"))
        }
        Standing::Missing => {
            let reason = format!("{needs} {scope}; {}", granted(facts));
            Explanation::new(Verdict::Unknown, reason).next(add(scope, facts))
        }
        Standing::OtherSpelling(other) => {
            let reason =
                format!("{needs} {scope}; {holder} has {other}, which may be the same scope");
            let next = format!("if Pleo refuses it, {}", add(scope, facts));
            Explanation::new(Verdict::Unknown, reason).next(next)
        }
        Standing::Unknown => {
            let reason = format!("{needs} {scope}; {}", granted(facts));
            let next = match facts.credential {
                CredentialKind::None => format!("pleo-proxy login {}", facts.account),
                _ => "GET /v1/introspect tells the scopes".to_owned(),
            };
            Explanation::new(Verdict::Unknown, reason).next(next)
        }
    };
    let explanation = explanation.source(source(operation));
    if is_documented { explanation } else { explanation.possible() }
}

/// Where a scope was taken from, in words for users.
fn source(operation: &Operation) -> &'static str {
    match operation.scope_source {
        documented if documented.starts_with("docs:") => documented,
        list if list.starts_with("nango") => "a public list of Pleo's scopes",
        _ => "inferred",
    }
}

fn holder(facts: &Facts<'_>) -> &'static str {
    match facts.credential {
        CredentialKind::Token => "this login",
        CredentialKind::ApiKey => "this API key",
        CredentialKind::None => "this account",
    }
}

/// `this login has vendors:read users:read`.
fn granted(facts: &Facts<'_>) -> String {
    let holder = holder(facts);
    match facts.granted {
        _ if facts.credential == CredentialKind::None => format!("{holder} is not connected"),
        None => format!("the scopes of {holder} are not known"),
        Some([]) => format!("{holder} has no scope"),
        Some(scopes) => {
            let listed = scopes.iter().take(MAX_LISTED);
            let listed: Vec<_> = listed.map(|scope| visible(scope, MAX_SCOPE)).collect();
            let more = scopes.len().saturating_sub(MAX_LISTED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{holder} has {}{more}", listed.join(" "))
        }
    }
}

/// How an account gets a scope that it does not have.
fn add(scope: &str, facts: &Facts<'_>) -> String {
    if facts.credential == CredentialKind::ApiKey {
        return format!("make a key with {scope} in Pleo (Settings, API Keys)");
    }
    let login = format!("pleo-proxy login {}", facts.account);
    if !facts.asked.iter().any(|asked| asked == scope) {
        return format!("add {scope} to client.scopes, restart the proxy, then: {login}");
    }
    let place = match facts.environment {
        Some(environment @ ("staging" | "production")) => format!(" in {environment}"),
        _ => String::new(),
    };
    format!(
        "client.scopes asks for it, so: {login}; if Pleo still does not grant it, ask Pleo to register it for your client{place}"
    )
}
