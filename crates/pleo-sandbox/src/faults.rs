//! The knobs: what the sandbox does wrong, and how.

use serde::{Deserialize, Serialize};

/// Everything that can be made to go wrong; the default is a well-behaved Pleo.
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
    /// Life of access tokens issued from now on; 600,000 if unset.
    pub access_life_ms: Option<u64>,
    /// Life of refresh tokens issued from now on; 60 days if unset.
    pub refresh_life_s: Option<u64>,
    /// Wait before every answer of the API.
    pub latency_ms: u64,
    /// Wait before the token endpoint does its work. It does it even if the caller leaves
    /// meanwhile.
    pub token_latency_before_ms: u64,
    /// Wait between the work of the token endpoint and its answer.
    pub token_latency_after_ms: u64,
    /// How the life of the access token is told.
    pub expires_in: ExpiresIn,
    /// Joins the scopes of a token answer by `+` instead of spaces, as Pleo's documentation shows
    /// it after a refresh.
    pub scope_plus: bool,
    /// Leaves the scope out of token answers.
    pub scope_missing: bool,
    /// `token_type` of token answers; `Bearer` if unset, left out if empty.
    pub token_type: Option<String>,
    /// A refresh answers without a new refresh token, and the old one stays good.
    pub omit_refresh_token: bool,
    /// What the token endpoint answers instead of the truth.
    pub token_answer: Option<TokenFault>,
    /// What the introspection endpoint of the authorization server does.
    pub introspect: Introspection,
    /// What the API answers instead of the truth; applies to requests with a good token.
    pub api_answer: Option<ApiFault>,
    /// That many next API requests get a 401 although their token is good.
    pub api_401: u32,
}

impl Faults {
    /// Takes the fault of the token endpoint that this exchange suffers, counting it down. `family`
    /// is the authorization whose refresh token is presented.
    pub(crate) fn take_token_fault(
        &mut self,
        grant: Option<GrantType>,
        family: Option<usize>,
    ) -> Option<TokenFault> {
        let fault = self.token_answer.as_mut()?;
        let meant = (fault.only_grant.is_none() || fault.only_grant == grant)
            && (fault.only_family.is_none() || fault.only_family == family);
        (meant && spend(&mut fault.count)).then(|| fault.clone())
    }

    /// Takes the fault that this API request suffers, counting it down.
    pub(crate) fn take_api_fault(&mut self) -> Option<ApiFault> {
        if self.api_401 > 0 {
            self.api_401 -= 1;
            return Some(ApiFault { status: Some(401), ..ApiFault::default() });
        }
        let fault = self.api_answer.as_mut()?;
        spend(&mut fault.count).then(|| fault.clone())
    }
}

/// No count means for ever.
fn spend(count: &mut Option<u32>) -> bool {
    match count {
        None => true,
        Some(0) => false,
        Some(left) => {
            *left -= 1;
            true
        }
    }
}

/// How `expires_in` is written. Lives under a second are told as 1 s.
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
    /// The number 0, whatever the real life.
    Zero,
    /// The number -1, whatever the real life.
    Negative,
}

/// What an exchange is paid with.
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
    /// Does the exchange before the fault, so that the tokens presented are spent; otherwise
    /// nothing is done.
    pub work: bool,
    /// Status code of `status` (503), `error` (400; 401 for `invalid_client`), `html`, `huge` and
    /// `error_in_200` (200).
    pub status: Option<u16>,
    /// Value of a `Retry-After` header, number or date, for the kinds that answer.
    pub retry_after: Option<String>,
    /// The error code of `error` (`invalid_grant` if unset) and `error_in_200` (`server_error` if
    /// unset).
    pub error: Option<String>,
    /// How many exchanges suffer it; unset: all until the knobs are replaced.
    pub count: Option<u32>,
    /// Only exchanges of this grant type suffer it.
    pub only_grant: Option<GrantType>,
    /// Only refreshes of this authorization suffer it. Authorizations are numbered from 0 in the
    /// order in which their codes were exchanged.
    pub only_family: Option<usize>,
}

/// The kinds of [`TokenFault`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenFaultKind {
    /// The connection closes without an answer.
    #[default]
    Lost,
    /// No answer for 120 s, then the connection closes.
    Hang,
    /// Half of the JSON under its full `Content-Length`, then the connection closes. Always does
    /// the work.
    Truncated,
    /// The true answer behind a byte order mark. Always does the work, like the five that follow.
    Bom,
    /// The true answer with a member that is no UTF-8, and another with a number out of range.
    NotUtf8,
    /// The true answer between NULs and junk.
    Junk,
    /// The true answer without the end of its object, under a longer `Content-Length`; then the
    /// connection closes.
    Unended,
    /// The true answer under a longer `Content-Length`; the connection stays open.
    TooShort,
    /// The true answer in form encoding.
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
    /// True for the kinds that spoil the true answer, so that there must be one.
    pub(crate) fn spoils(self) -> bool {
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
    /// Tells the truth.
    #[default]
    Normal,
    /// Calls every refresh token inactive, as RFC 7662 lets a server do that will not describe
    /// them.
    InactiveRefresh,
    /// Closes the connection without an answer.
    Down,
    /// Answers this status.
    Status(u16),
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
    pub retry_after: Option<String>,
    /// The body of `status` is HTML instead of JSON.
    pub body_html: bool,
    /// The time `slow_body` takes between two pieces of the body.
    pub slow_body_ms: u64,
    /// How many requests suffer it; unset: all until the knobs are replaced.
    pub count: Option<u32>,
}

/// The kinds of [`ApiFault`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiFaultKind {
    /// A status instead of the answer; nothing is done.
    #[default]
    Status,
    /// The connection closes before the head of an answer; nothing is done.
    Drop,
    /// The true answer, but the connection closes in the middle of its body.
    ResetMidBody,
    /// The true answer, its body in four pieces with pauses.
    SlowBody,
}
