//! Why a refresh is wanted, and how it ended.

/// Why a refresh is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshReason {
    /// A request found the token expired.
    Expired,
    /// One margin before expiry.
    Margin,
    /// The upstream refused the current token.
    Rejected,
    /// Unused for long; kept from lapsing.
    IdleRefresh,
    /// The time of the next attempt has come.
    Retry,
    /// A person asked.
    Asked,
}

impl RefreshReason {
    /// The reason's name in logs, metrics and `status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Margin => "margin",
            Self::Rejected => "401",
            Self::IdleRefresh => "idle-refresh",
            Self::Retry => "retry",
            Self::Asked => "asked",
        }
    }
}

/// How a refresh ended; the account's snapshot has the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshReport {
    /// A new pair was issued.
    Refreshed,
    /// A newer generation was there already.
    Adopted,
    /// A refresh was forced a moment ago; none was sent.
    Limited,
    /// See the account's health.
    Failed,
}
