//! The header that explains a refusal of Pleo to the caller, and warns of its rate limit.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::route::Route;
use crate::accounts::{Account, Accounts, rate};
use crate::explain::{self, Answer, Request};
use crate::oauth::token::retry_after;
use crate::problem::with_program;

/// Says in one line why Pleo refused a request and what to do.
pub const HINT_HEADER: HeaderName = HeaderName::from_static("pleo-proxy-hint");

/// The same for every answer, so that it costs nothing: the page has the number.
const NEAR_LIMIT: HeaderValue = HeaderValue::from_static(
    "500 or more requests within a minute; Pleo allows 600 and recommends at most 500; send fewer, or set upstream.pace = \"500/min\"",
);

/// A request that Pleo refused.
pub(super) struct Refused<'a> {
    pub(super) method: &'a Method,
    pub(super) route: &'a Route,
    pub(super) status: StatusCode,
    /// It was sent again after a refresh.
    pub(super) sent_again: bool,
    /// The command line that reads the configuration of this process from any folder.
    pub(super) program: &'a str,
}

/// Says that the account comes near Pleo's limit of requests a minute (600, recommended 500).
pub(super) fn near_limit(headers: &mut HeaderMap, account: &Account) {
    if account.rate.latest() >= rate::RECOMMENDED {
        headers.insert(HINT_HEADER, NEAR_LIMIT);
    }
}

impl Refused<'_> {
    /// Adds the hint to the fields of the response, if there is anything to say.
    pub(super) fn explain(&self, headers: &mut HeaderMap, account: &Account, accounts: &Accounts) {
        let answer = Answer {
            status: self.status.as_u16(),
            // The body has not arrived yet.
            error_type: None,
            retry_after: retry_after(headers).map(|wait| wait.as_secs()),
            sent_again: self.sent_again,
        };
        let target = &self.route.target;
        let request = Request::new(self.method, target.path(), target.query());
        let snapshot = account.snapshot();
        let facts = snapshot.facts(&account.name, &accounts.oauth().settings.scopes);
        let explanation = explain::after(&request, &answer, &facts);
        let hint = explanation.map(|it| with_program(&it.hint(), self.program));
        if let Some(hint) = hint.and_then(|hint| HeaderValue::try_from(hint).ok()) {
            headers.insert(HINT_HEADER, hint);
        }
    }
}
