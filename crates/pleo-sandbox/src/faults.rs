//! The faults that can be set, and how each is counted down.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

/// All faults of the sandbox; by default there are none.
///
/// `POST /sandbox/faults` replaces the whole set with its JSON body, where every field is optional:
///
/// ```json
/// { "access_life_ms": 2000, "latency_ms": 50, "expires_in": "milliseconds", "scope_plus": true,
///   "token_answer": { "kind": "lost", "work": true, "count": 1, "only_grant": "refresh_token" },
///   "introspect": { "status": 503 }, "api_answer": { "kind": "status", "status": 429, "retry_after": "1" } }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Lifetime of access tokens issued from now on; 600,000 if unset.
    pub access_life_ms: Option<u64>,
    /// Lifetime of refresh tokens issued from now on; 60 days if unset.
    pub refresh_life_s: Option<u64>,
    /// Seconds by which the `Date` of responses is ahead of the real time; negative: behind it.
    pub date_offset_s: i64,
    /// Delay before every response of the API.
    pub latency_ms: u64,
    /// Delay before the token endpoint handles a request, which it does even if the caller leaves
    /// during the delay.
    pub token_latency_before_ms: u64,
    /// Delay between the token endpoint's handling of a request and its response.
    pub token_latency_after_ms: u64,
    /// How token responses write the lifetime of the access token.
    pub expires_in: ExpiresIn,
    /// Joins the scopes of a token response by `+` instead of spaces, as Pleo's documentation shows
    /// them after a refresh.
    pub scope_plus: bool,
    /// Leaves the scope out of token responses.
    pub scope_missing: bool,
    /// `token_type` of token responses; `Bearer` if unset, left out if empty.
    pub token_type: Option<String>,
    /// A refresh issues no new refresh token, and the old one stays valid.
    pub omit_refresh_token: bool,
    /// What the token endpoint does instead of responding normally.
    pub token_answer: Option<TokenFault>,
    /// What the introspection endpoint of the authorization server does.
    pub introspect: Introspection,
    /// What the API does instead of responding normally; applies to requests with a valid token.
    pub api_answer: Option<ApiFault>,
    /// Requests a minute that the API admits for each company; 0: any number. Unset:
    /// [`Options::rate_limit`](super::Options::rate_limit).
    pub rate_limit: Option<u32>,
    /// Time without an update after which an export job expires; an hour if unset.
    pub export_job_life_s: Option<u64>,
    /// Contra accounts are not mapped: new export jobs and export items of version 3 get a 400.
    pub missing_contra_accounts: bool,
    /// Companies have several currencies: export items before version 3 get a 400.
    pub multi_currency: bool,
    /// This many of the next API requests get a 401 although their token is valid.
    pub api_401: u32,
}

impl Faults {
    pub(crate) fn export_job_life(&self) -> Duration {
        Duration::from_secs(self.export_job_life_s.unwrap_or(3600))
    }

    /// The fault for this token request, if any; counts it down. `family` is the authorization
    /// whose refresh token is presented.
    pub(crate) fn take_token_fault(
        &mut self,
        grant: Option<GrantType>,
        family: Option<usize>,
    ) -> Option<TokenFault> {
        let fault = self.token_answer.as_mut()?;
        let applies = (fault.only_grant.is_none() || fault.only_grant == grant)
            && (fault.only_family.is_none() || fault.only_family == family);
        (applies && count_down(&mut fault.count)).then(|| fault.clone())
    }

    /// The fault for this API request, if any; counts it down.
    pub(crate) fn take_api_fault(&mut self) -> Option<ApiFault> {
        if self.api_401 > 0 {
            self.api_401 -= 1;
            return Some(ApiFault { status: Some(401), ..ApiFault::default() });
        }
        let fault = self.api_answer.as_mut()?;
        count_down(&mut fault.count).then(|| fault.clone())
    }
}

/// Whether the fault applies once more. Without a count it always does.
fn count_down(count: &mut Option<u32>) -> bool {
    match count {
        None => true,
        Some(0) => false,
        Some(left) => {
            *left -= 1;
            true
        }
    }
}

/// How `expires_in` is written. Lifetimes under a second are written as 1 s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpiresIn {
    /// A whole number of seconds.
    #[default]
    Seconds,
    /// A whole number of milliseconds.
    Milliseconds,
    /// Seconds as a string.
    String,
    /// Seconds with a fraction.
    Float,
    /// Left out.
    Missing,
    /// The number 0, whatever the real lifetime.
    Zero,
    /// The number -1, whatever the real lifetime.
    Negative,
}

/// The grant type of a token request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    /// A code from the authorize endpoint.
    AuthorizationCode,
    /// A refresh token.
    RefreshToken,
}

/// A fault of the token endpoint, for instance `{"kind": "status", "status": 503, "retry_after":
/// "5", "count": 2}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenFault {
    /// What the caller sees.
    pub kind: TokenFaultKind,
    /// Handles the request before the fault, so that the presented code or refresh token is used
    /// up; otherwise nothing is done.
    pub work: bool,
    /// Status code of `status` (503), `error` (400; 401 for `invalid_client`), `html`, `huge` and
    /// `error_in_200` (200).
    pub status: Option<u16>,
    /// Value of a `Retry-After` header, number or date, for the kinds that respond.
    #[serde(deserialize_with = "text_or_number")]
    pub retry_after: Option<String>,
    /// The error code of `error` (`invalid_grant` if unset) and `error_in_200` (`server_error` if
    /// unset).
    pub error: Option<String>,
    /// How many token requests it applies to; unset: all, until the faults are replaced.
    pub count: Option<u32>,
    /// Applies only to token requests of this grant type.
    pub only_grant: Option<GrantType>,
    /// Applies only to refreshes of this authorization. Authorizations are numbered from 0 in the
    /// order in which their codes were exchanged.
    pub only_family: Option<usize>,
}

/// The kinds of [`TokenFault`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenFaultKind {
    /// The connection closes without a response.
    #[default]
    Lost,
    /// No response for 120 s, then the connection closes.
    Hang,
    /// Half of the JSON under its full `Content-Length`, then the connection closes. Always
    /// handles the request, like the six that follow.
    Truncated,
    /// The real response after a byte order mark.
    Bom,
    /// The real response with a member that is not UTF-8, and another with a number out of range.
    NotUtf8,
    /// The real response between NULs and junk.
    Junk,
    /// The real response without the end of its object, under a longer `Content-Length`; then the
    /// connection closes.
    Unended,
    /// The real response under a longer `Content-Length`; the connection stays open.
    TooShort,
    /// The real response in form encoding.
    Form,
    /// A page of HTML.
    Html,
    /// A status code with a line of text.
    Status,
    /// An OAuth error as JSON.
    Error,
    /// An OAuth error as JSON under status 200.
    #[serde(rename = "error_in_200")]
    ErrorIn200,
    /// A JSON body that does not end for 10 MiB.
    Huge,
}

impl TokenFaultKind {
    /// Whether this kind corrupts the real response, so that the request must be handled.
    pub(crate) fn needs_real_response(self) -> bool {
        matches!(
            self,
            Self::Truncated
                | Self::Bom
                | Self::NotUtf8
                | Self::Junk
                | Self::Unended
                | Self::TooShort
                | Self::Form
        )
    }
}

/// What `POST /oauth/token/introspect` does: `"normal"`, `"inactive_refresh"`, `"down"` or
/// `{"status": 503}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Introspection {
    /// Describes tokens truthfully.
    #[default]
    Normal,
    /// Reports every refresh token as inactive, as RFC 7662 allows a server that does not describe
    /// them.
    InactiveRefresh,
    /// Closes the connection without a response.
    Down,
    /// Responds with this status.
    Status(u16),
}

/// The value of a header: a number of seconds may be written without quotes.
fn text_or_number<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text or a number of seconds")]
    enum Value {
        Text(String),
        Number(u64),
    }
    let value = Option::<Value>::deserialize(value)?;
    Ok(value.map(|value| match value {
        Value::Text(text) => text,
        Value::Number(seconds) => seconds.to_string(),
    }))
}

/// A fault of the API, for instance `{"kind": "status", "status": 429, "retry_after": "1", "count":
/// 1}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiFault {
    /// What the caller sees.
    pub kind: ApiFaultKind,
    /// Status code of `status`; 503 if unset.
    pub status: Option<u16>,
    /// Value of a `Retry-After` header.
    #[serde(deserialize_with = "text_or_number")]
    pub retry_after: Option<String>,
    /// The body of `status` is HTML instead of JSON.
    pub body_html: bool,
    /// Delay before each piece of a `slow_body`.
    pub slow_body_ms: u64,
    /// How many requests it applies to; unset: all, until the faults are replaced.
    pub count: Option<u32>,
}

/// The kinds of [`ApiFault`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiFaultKind {
    /// A status instead of the real response; nothing is done.
    #[default]
    Status,
    /// The connection closes before the response head; nothing is done.
    Drop,
    /// The real response, but the connection closes in the middle of its body.
    ResetMidBody,
    /// The real response, its body in four pieces with a delay before each.
    SlowBody,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_wait_is_a_number_or_a_text() {
        let read = |json| serde_json::from_str::<ApiFault>(json).map(|fault| fault.retry_after);
        assert_eq!(read(r#"{"retry_after": 7}"#).unwrap().as_deref(), Some("7"));
        assert_eq!(read(r#"{"retry_after": "soon"}"#).unwrap().as_deref(), Some("soon"));
        assert_eq!(read(r#"{"retry_after": null}"#).unwrap(), None);
        assert_eq!(read("{}").unwrap(), None);
        assert!(
            read(r#"{"retry_after": -1}"#).unwrap_err().to_string().contains("a number of seconds")
        );
    }
}
