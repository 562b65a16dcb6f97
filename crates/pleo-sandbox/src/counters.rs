//! What happened, counted for tests.

use serde::Serialize;

/// Counts since the start, as `GET /sandbox/counters` shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Valid requests at the authorize endpoint (pages shown or answered at once).
    pub authorizations: u64,
    /// Codes given out.
    pub codes_issued: u64,
    /// Codes exchanged for tokens.
    pub code_exchanges: u64,
    /// Refreshes that issued tokens, whether or not the answer arrived.
    pub refreshes: u64,
    /// All POSTs to the token endpoint.
    pub token_posts: u64,
    /// Exchanges refused with `invalid_grant` (not those that a fault made up).
    pub invalid_grants: u64,
    /// Failed client authentications, at either endpoint that asks for it.
    pub client_auth_failures: u64,
    /// A superseded refresh token was presented.
    pub refresh_replays: u64,
    /// Those of them whose successors nobody had used: what a client does that never got its
    /// answer.
    pub lost_replays: u64,
    /// Authorizations revoked, for whatever reason.
    pub families_revoked: u64,
    /// Exchanges that suffered a [`TokenFault`](super::TokenFault).
    pub token_faults: u64,
    /// POSTs to the introspection endpoint.
    pub introspections: u64,
    /// All requests to the API, the test aids included.
    pub api_requests: u64,
    /// API requests refused for their token, those by `api_401` included.
    pub api_unauthorized: u64,
    /// API requests that came with an access token a refresh had superseded.
    pub api_superseded: u64,
    /// Requests that suffered an [`ApiFault`](super::ApiFault), those by `api_401` included.
    pub api_faults: u64,
    /// API requests with more than one `Authorization` header.
    pub api_double_authorization: u64,
    /// Whether the last API request came with one good bearer token; unset before the first.
    pub last_authorization_header_ok: Option<bool>,
    /// Files served.
    pub files_served: u64,
    /// File requests refused because they carried an `Authorization` header.
    pub files_with_authorization: u64,
}
