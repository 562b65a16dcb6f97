//! What a request sees of an account: one immutable value, swapped as a whole.

use std::time::Duration;

use http::HeaderValue;

use crate::clock::{Deadline, Now};
use crate::secret::AccessToken;
use crate::store::{Grant, Record};

/// Longest margin before expiry at which a token is refreshed.
const LONGEST_MARGIN: Duration = Duration::from_secs(60);

/// An account at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Generation of the record this was made from.
    pub generation: u64,
    /// How the account is.
    pub health: Health,
    /// The access token, ready for a header; none if there is none to send.
    pub credential: Option<Credential>,
}

/// An access token on its way into requests.
#[derive(Clone, Debug)]
pub struct Credential {
    /// `Bearer ...`, marked sensitive.
    pub header: HeaderValue,
    /// When it expires.
    pub deadline: Deadline,
    /// Its life when it was new.
    pub life: Duration,
}

/// The states of an account (a word each in `status`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// All is well, or will be with the next request.
    Connected,
    /// The token endpoint was not reached or asked for patience.
    Retrying(Trouble),
    /// A refresh has no known outcome.
    Uncertain(Trouble),
    /// Only a login helps.
    LoginRequired(String),
    /// A setting must change.
    Misconfigured(String),
    /// Another process holds the account's lock.
    Locked(Trouble),
    /// The record cannot be used.
    StoreError(String),
    /// No durable note of a refresh is possible, so none is sent.
    StoreUnwritable(Trouble),
    /// The new pair is in memory only.
    Unsaved(String),
}

/// What is wrong, and when it is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// A sentence for people.
    pub why: String,
    /// The next try.
    pub next_try: Deadline,
}

/// Why a request gets no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Only a login helps.
    LoginRequired(String),
    /// The token endpoint gives no token now.
    AuthUnreachable(String, Duration),
    /// The refresh outlasted `hold`.
    RefreshTimeout(String),
    /// A setting must change.
    Misconfigured(String),
    /// The record cannot be used.
    StoreError(String),
    /// No refresh can be noted durably.
    StoreUnwritable(String, Duration),
    /// Too many requests wait already.
    Overloaded,
}

/// What a request does about an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Take the credential.
    Serve,
    /// Have it refreshed, and wait.
    Refresh,
    /// Wait for the try that is due within your patience.
    Wait,
    /// Give up at once.
    Refuse(Refusal),
}

impl Snapshot {
    /// What a record offers. The deadline is the one measured when the pair was issued, or the stored one.
    pub fn of(record: &Record, health: Health, deadline: Option<Deadline>, now: Now) -> Self {
        let usable = !matches!(health, Health::LoginRequired(_) | Health::StoreError(_));
        let credential = record.grant.as_ref().filter(|_| usable).and_then(|grant| credential(grant, deadline, now));
        Self { generation: record.generation, health, credential }
    }

    /// What a request does now, with `patience` left of its `hold`.
    pub fn decide(&self, now: Now, patience: Duration) -> Decision {
        let alive = self.credential.as_ref().is_some_and(|credential| !credential.deadline.passed(now));
        match &self.health {
            Health::LoginRequired(why) => Decision::Refuse(Refusal::LoginRequired(why.clone())),
            Health::StoreError(why) => Decision::Refuse(Refusal::StoreError(why.clone())),
            _ if alive => Decision::Serve,
            Health::Connected | Health::Locked(_) => Decision::Refresh,
            Health::Retrying(trouble) | Health::Uncertain(trouble) => match trouble.next_try.remaining(now) {
                wait if wait <= patience => Decision::Wait,
                wait => Decision::Refuse(Refusal::AuthUnreachable(trouble.why.clone(), wait)),
            },
            Health::Misconfigured(why) => Decision::Refuse(Refusal::Misconfigured(why.clone())),
            Health::StoreUnwritable(trouble) => {
                Decision::Refuse(Refusal::StoreUnwritable(trouble.why.clone(), trouble.next_try.remaining(now)))
            }
            Health::Unsaved(why) => Decision::Refuse(Refusal::StoreUnwritable(why.clone(), Duration::from_secs(5))),
        }
    }
}

impl Credential {
    /// How long before expiry it is refreshed: a fifth of its life, a minute at most.
    pub fn margin(&self) -> Duration {
        LONGEST_MARGIN.min(self.life / 5)
    }
}

impl Health {
    /// The state's name in `status`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Retrying(_) => "retrying",
            Self::Uncertain(_) => "uncertain",
            Self::LoginRequired(_) => "login_required",
            Self::Misconfigured(_) => "misconfigured",
            Self::Locked(_) => "locked_elsewhere",
            Self::StoreError(_) => "store_error",
            Self::StoreUnwritable(_) => "store_unwritable",
            Self::Unsaved(_) => "unsaved",
        }
    }

    /// What is wrong, for people.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Connected => None,
            Self::LoginRequired(why) | Self::Misconfigured(why) | Self::StoreError(why) | Self::Unsaved(why) => {
                Some(why)
            }
            _ => self.trouble().map(|trouble| trouble.why.as_str()),
        }
    }

    /// When it is tried again by itself.
    pub fn next_try(&self) -> Option<Deadline> {
        self.trouble().map(|trouble| trouble.next_try)
    }

    fn trouble(&self) -> Option<&Trouble> {
        match self {
            Self::Retrying(trouble)
            | Self::Uncertain(trouble)
            | Self::Locked(trouble)
            | Self::StoreUnwritable(trouble) => Some(trouble),
            _ => None,
        }
    }
}

fn credential(grant: &Grant, deadline: Option<Deadline>, now: Now) -> Option<Credential> {
    const DAY: Duration = Duration::from_secs(86_400);
    Some(Credential {
        header: bearer(grant.access.as_ref()?)?,
        deadline: deadline.unwrap_or_else(|| Deadline::from_wall(now, grant.expires_at, DAY)),
        life: Duration::from_millis(grant.life),
    })
}

fn bearer(token: &AccessToken) -> Option<HeaderValue> {
    let text = zeroize::Zeroizing::new(format!("Bearer {}", token.expose()));
    let mut header = HeaderValue::from_str(&text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Now = Now { wall: 1_800_000_000_000, boot: 5_000_000 };
    const HOLD: Duration = Duration::from_secs(15);

    fn snapshot(health: Health, left: Option<Duration>) -> Snapshot {
        let credential = left.map(|left| Credential {
            header: HeaderValue::from_static("Bearer x"),
            deadline: Deadline::after(NOON, left),
            life: Duration::from_secs(600),
        });
        Snapshot { generation: 1, health, credential }
    }

    fn trouble(seconds: u64) -> Trouble {
        Trouble { why: "why".into(), next_try: Deadline::after(NOON, Duration::from_secs(seconds)) }
    }

    #[test]
    fn a_live_token_is_served_in_every_state_but_two() {
        let alive = Some(Duration::from_millis(1));
        for health in [
            Health::Connected,
            Health::Retrying(trouble(9)),
            Health::Uncertain(trouble(9)),
            Health::Misconfigured("why".into()),
            Health::Locked(trouble(9)),
            Health::StoreUnwritable(trouble(9)),
            Health::Unsaved("why".into()),
        ] {
            assert_eq!(snapshot(health, alive).decide(NOON, HOLD), Decision::Serve);
        }
        for health in [Health::LoginRequired("why".into()), Health::StoreError("why".into())] {
            assert!(matches!(snapshot(health, alive).decide(NOON, HOLD), Decision::Refuse(_)));
        }
    }

    #[test]
    fn a_dead_token_waits_only_for_what_is_near() {
        let decide = |health| snapshot(health, Some(Duration::ZERO)).decide(NOON, HOLD);
        assert_eq!(decide(Health::Connected), Decision::Refresh);
        assert_eq!(decide(Health::Locked(trouble(9))), Decision::Refresh);
        assert_eq!(decide(Health::Retrying(trouble(15))), Decision::Wait);
        assert!(matches!(decide(Health::Retrying(trouble(16))), Decision::Refuse(Refusal::AuthUnreachable(..))));
        assert!(matches!(decide(Health::Uncertain(trouble(16))), Decision::Refuse(Refusal::AuthUnreachable(..))));
        assert!(matches!(decide(Health::Misconfigured("w".into())), Decision::Refuse(Refusal::Misconfigured(_))));
        assert!(matches!(decide(Health::StoreUnwritable(trouble(1))), Decision::Refuse(Refusal::StoreUnwritable(..))));
    }

    #[test]
    fn margin_is_a_fifth_and_a_minute_at_most() {
        let margin = |life| {
            Credential {
                header: HeaderValue::from_static("Bearer x"),
                deadline: Deadline::after(NOON, HOLD),
                life: Duration::from_secs(life),
            }
            .margin()
        };
        assert_eq!((margin(600).as_secs(), margin(300).as_secs(), margin(2).as_millis()), (60, 60, 400));
        assert_eq!(margin(100), Duration::from_secs(20));
    }
}
