//! Why Pleo refuses a request, or would refuse it: the reason and the next step, from the table of
//! operations and from what is known of the account. Pure functions.
//!
//! A guess is never told as a fact: [`Explanation::is_certain`] is true only for what Pleo
//! publishes or what was observed, and where Pleo publishes no scope, the reason says exactly that.

mod error_type;
mod explanation;
mod facts;
mod query;
mod scope;
mod status;
mod unlisted;

use crate::operations::{self, Deprecation, Operation};
pub use explanation::{Explanation, Verdict};
pub use facts::{Answer, CredentialKind, Facts, Request, SubjectKind};

/// What is to be expected of a request that was not sent yet.
pub fn before(request: &Request<'_>, facts: &Facts<'_>) -> Explanation {
    let Some(operation) = operations::find(request.method, request.path) else {
        return unlisted::explain(request, Verdict::Unknown);
    };
    let explanation = refused_by_key(operation, facts)
        .or_else(|| scope::refusal(operation, facts))
        .or_else(|| query::missing_company(operation, request))
        .or_else(|| query::replaced_parameter(operation, request))
        .unwrap_or_else(|| {
            let expected = scope::expectation(operation, facts);
            let is_allowed = expected.verdict == Verdict::Allowed;
            let alone = query::organisation_alone(operation, request, facts);
            alone.filter(|_| is_allowed).unwrap_or(expected)
        });
    explanation.of(operation).deprecated(deprecation(operation))
}

/// Why Pleo answered as it did. None if nothing is known about it, as usually for a success.
pub fn after(request: &Request<'_>, answer: &Answer<'_>, facts: &Facts<'_>) -> Option<Explanation> {
    let operation = operations::find(request.method, request.path);
    if answer.status < 400 {
        let (operation, (reason, next)) = operation.and_then(|it| Some((it, deprecation(it)?)))?;
        let explanation = Explanation::new(Verdict::Allowed, reason).next(next);
        return Some(explanation.of(operation));
    }
    let Some(operation) = operation else {
        return match answer.status {
            400 | 403 | 404 | 405 | 410 => Some(unlisted::explain(request, Verdict::Refused)),
            _ => status::explain(None, request, answer, facts),
        };
    };
    let explanation = match answer.status {
        400 => error_type::explain(operation, answer).or_else(|| {
            query::missing_company(operation, request)
                .or_else(|| query::replaced_parameter(operation, request))
        }),
        401 | 403 => refused_by_key(operation, facts),
        _ => error_type::explain(operation, answer),
    };
    let explanation = explanation
        .or_else(|| status::explain(Some(operation), request, answer, facts))?
        .verdict(Verdict::Refused);
    Some(explanation.of(operation).deprecated(deprecation(operation)))
}

/// An API key where Pleo takes bearer tokens only.
fn refused_by_key(operation: &Operation, facts: &Facts<'_>) -> Option<Explanation> {
    let is_refused = operation.bearer_only && facts.credential == CredentialKind::ApiKey;
    is_refused.then(|| {
        let reason = "takes bearer tokens only, and this account has an API key";
        let next = match operation.successor {
            Some(successor) => format!("use {successor}, which takes both"),
            None => "use an account that was connected by a login".to_owned(),
        };
        Explanation::new(Verdict::Refused, reason).next(next).source("spec")
    })
}

fn deprecation(operation: &Operation) -> Option<(&'static str, Option<String>)> {
    let reason = match operation.deprecation? {
        Deprecation::Deprecated => "deprecated",
        Deprecation::Superseded => "there is a newer operation",
    };
    Some((reason, operation.successor.map(|successor| format!("use {successor}"))))
}

#[cfg(test)]
mod tests;
