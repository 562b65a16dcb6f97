//! What the status of Pleo's answer says.

use super::explanation::{Explanation, Verdict};
use super::facts::{Answer, CredentialKind, Facts, Request};
use super::{query, scope};
use crate::operations::Operation;

/// The reason behind a status; none if nothing is known about it.
pub(super) fn explain(
    operation: Option<&Operation>,
    request: &Request<'_>,
    answer: &Answer<'_>,
    facts: &Facts<'_>,
) -> Option<Explanation> {
    match answer.status {
        401 => Some(unauthorized(answer, facts)),
        403 => {
            let operation = operation?;
            scope::refusal(operation, facts)
                .or_else(|| query::organisation_alone(operation, request, facts))
                .or_else(|| Some(scope::forbidden(operation, facts)))
        }
        404 => not_found(operation?),
        409 => conflict(operation?),
        413 => {
            let explanation = refused("the request is too large for Pleo");
            Some(explanation.next("send less in one request".to_owned()))
        }
        429 => Some(too_many(answer)),
        500 => {
            let next = "it is no fault of the proxy; send it again later".to_owned();
            Some(refused("Pleo failed to answer this request").next(next))
        }
        502..=504 => {
            let next = "send it again in a moment".to_owned();
            Some(refused("Pleo is not available at the moment").next(next))
        }
        _ => None,
    }
}

fn refused(reason: &str) -> Explanation {
    Explanation::new(Verdict::Refused, reason)
}

fn unauthorized(answer: &Answer<'_>, facts: &Facts<'_>) -> Explanation {
    let login = format!("pleo-proxy login {}", facts.account);
    match facts.credential {
        CredentialKind::ApiKey => {
            let next = "it may have expired, or be one of another environment: replace the key";
            refused("Pleo refuses the API key").next(next.to_owned())
        }
        CredentialKind::Token | CredentialKind::None if answer.sent_again => {
            let next = format!(
                "check that endpoints.api and endpoints.token belong to the same environment, then: {login}"
            );
            refused("Pleo refuses the token even after a refresh").next(next)
        }
        CredentialKind::Token | CredentialKind::None => {
            let next = format!("send it again; if it is refused again: {login}");
            refused("Pleo refuses the token").next(next)
        }
    }
}

fn not_found(operation: &Operation) -> Option<Explanation> {
    operation.path.contains('{').then(|| {
        let next = "check the id; it may be one of another company".to_owned();
        let explanation = refused("there is nothing with this id for this login").next(next);
        explanation.possible()
    })
}

fn conflict(operation: &Operation) -> Option<Explanation> {
    let (reason, next) = match (operation.method, operation.path) {
        ("POST", "/v1/vendors") => {
            ("Pleo has this vendor already", "find it with POST /v1/vendors:search")
        }
        ("POST", "/v0/tag-groups/{groupId}/tags") | ("PUT", "/v0/tags/{tagId}") => {
            ("a tag with the same code exists already", "choose another code")
        }
        _ => return None,
    };
    Some(refused(reason).next(next.to_owned()).source("spec"))
}

fn too_many(answer: &Answer<'_>) -> Explanation {
    let wait = match answer.retry_after {
        Some(seconds) => format!("wait {seconds} s"),
        None => "wait a minute".to_owned(),
    };
    let reason = "too many requests: Pleo allows 600 a minute and recommends at most 500";
    refused(reason).next(format!("{wait}, then send fewer")).source("docs")
}
