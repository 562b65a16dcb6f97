//! Counters of what happened, for tests.

use serde::Serialize;

/// Counts since the start, as `GET /sandbox/counters` shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Valid requests at the authorize endpoint, with or without a consent page.
    pub authorizations: u64,
    /// Codes issued.
    pub codes_issued: u64,
    /// Codes exchanged for tokens.
    pub code_exchanges: u64,
    /// Refreshes that issued tokens, whether or not the response arrived.
    pub refreshes: u64,
    /// All POSTs to the token endpoint.
    pub token_posts: u64,
    /// Token requests refused with `invalid_grant`, without those by a fault.
    pub invalid_grants: u64,
    /// Failed client authentications, at the token and introspection endpoints.
    pub client_auth_failures: u64,
    /// Refreshes with a refresh token that had already been used.
    pub refresh_replays: u64,
    /// Those of them whose successors had never been used: the client did not receive the
    /// response and sent the request again.
    pub lost_replays: u64,
    /// Authorizations revoked: by a replay, an expired refresh token, a disconnection or the
    /// controls.
    pub families_revoked: u64,
    /// Authorizations ended by the refresh of another one of the same company.
    pub families_superseded: u64,
    /// Token requests with a [`TokenFault`](super::TokenFault).
    pub token_faults: u64,
    /// POSTs to the introspection endpoint.
    pub introspections: u64,
    /// All requests to the API, the test routes included.
    pub api_requests: u64,
    /// API requests with status 401, those by `api_401` included.
    pub api_unauthorized: u64,
    /// API requests with an access token from before the last refresh.
    pub api_superseded: u64,
    /// API requests with an [`ApiFault`](super::ApiFault), those by `api_401` included.
    pub api_faults: u64,
    /// API requests refused with 429 by the rate limit, those by a fault not included.
    pub api_rate_limited: u64,
    /// API requests with more than one `Authorization` header.
    pub api_double_authorization: u64,
    /// API requests with an API key, valid or not.
    pub api_key_requests: u64,
    /// Whether the last API request had exactly one valid bearer token; unset before the first.
    pub last_authorization_header_ok: Option<bool>,
    /// Files served.
    pub files_served: u64,
    /// File requests refused because they carried an `Authorization` header.
    pub files_with_authorization: u64,
}
