//! What a request sees of an account: one immutable value, swapped as a whole.

use std::time::Duration;

use http::HeaderValue;

use super::reason::LoginReason;
use crate::clock::{Deadline, Now, millis};
use crate::secret::AccessToken;
use crate::store::{AccountName, Grant, Record};

/// Longest margin before expiry at which a token is refreshed.
const LONGEST_MARGIN: Duration = Duration::from_secs(60);

/// Distance between the beginnings of two tries that requests ask for while nothing can be sent.
pub(super) const TRIES_APART: Duration = Duration::from_secs(1);

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
    /// Since when it is here, in milliseconds of the boot clock.
    pub since: u64,
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
    LoginRequired(LoginReason),
    /// A setting must change, here or at the authorization server.
    Misconfigured(Trouble),
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
    /// When the last try began, by the boot clock in milliseconds, if it sent nothing and nobody
    /// asked for patience: then a request need not wait for the next one.
    pub unsent: Option<u64>,
}

/// Why a request gets no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Only a login helps.
    LoginRequired(LoginReason),
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
    /// What a record offers. The deadline is the one measured when the pair was issued, or the
    /// stored one.
    pub fn of(record: &Record, health: Health, deadline: Option<Deadline>, now: Now) -> Self {
        let usable = !record.subject_unconfirmed
            && !matches!(health, Health::LoginRequired(_) | Health::StoreError(_));
        let credential = record
            .grant
            .as_ref()
            .filter(|_| usable)
            .and_then(|grant| credential(grant, deadline, now));
        Self { generation: record.generation, health, credential }
    }

    /// The credential, if a request may carry it now.
    pub fn usable(&self, now: Now) -> Option<&Credential> {
        let is_usable = !matches!(self.health, Health::LoginRequired(_) | Health::StoreError(_));
        self.credential.as_ref().filter(|credential| is_usable && !credential.left(now).is_zero())
    }

    /// What a request does now that came at `came` (boot clock, milliseconds) and has `patience`
    /// left of its `hold`.
    pub fn decide(&self, now: Now, patience: Duration, came: u64) -> Decision {
        match &self.health {
            Health::LoginRequired(reason) => {
                Decision::Refuse(Refusal::LoginRequired(reason.clone()))
            }
            Health::StoreError(why) => Decision::Refuse(Refusal::StoreError(why.clone())),
            _ if self.usable(now).is_some() => Decision::Serve,
            Health::Connected | Health::Locked(_) => Decision::Refresh,
            Health::Retrying(trouble) | Health::Uncertain(trouble) => {
                trouble.decide(now, patience, came)
            }
            Health::Misconfigured(trouble) => {
                Decision::Refuse(Refusal::Misconfigured(trouble.why.clone()))
            }
            Health::StoreUnwritable(trouble) => Decision::Refuse(Refusal::StoreUnwritable(
                trouble.why.clone(),
                trouble.next_try.remaining(now),
            )),
            Health::Unsaved(why) => {
                Decision::Refuse(Refusal::StoreUnwritable(why.clone(), Duration::from_secs(5)))
            }
        }
    }
}

impl Trouble {
    /// Nothing is tried before `next_try`.
    pub fn until(why: impl Into<String>, next_try: Deadline) -> Self {
        Self { why: why.into(), next_try, unsent: None }
    }

    /// The time until the next try if somebody waits for it: a try that sends nothing may be
    /// followed by another one second after it began.
    pub fn wait_on_demand(&self, now: Now) -> Duration {
        let planned = self.next_try.boot_left(now);
        self.unsent.map_or(planned, |began| {
            planned.min(Duration::from_millis(
                began.saturating_add(millis(TRIES_APART)).saturating_sub(now.boot),
            ))
        })
    }

    /// A request has one try of its own, then it waits for the planned one or gives up.
    fn decide(&self, now: Now, patience: Duration, came: u64) -> Decision {
        let on_demand = self.wait_on_demand(now);
        let has_had_its_try = self.unsent.is_none_or(|began| began >= came);
        match if has_had_its_try { self.next_try.boot_left(now) } else { on_demand } {
            Duration::ZERO => Decision::Refresh,
            wait if wait <= patience => Decision::Wait,
            _ => Decision::Refuse(Refusal::AuthUnreachable(self.why.clone(), on_demand)),
        }
    }
}

impl Credential {
    /// How long before expiry it is refreshed: a fifth of its life, a minute at most.
    pub fn margin(&self) -> Duration {
        LONGEST_MARGIN.min(self.life / 5)
    }

    /// What is left of it; zero once it has expired.
    pub fn left(&self, now: Now) -> Duration {
        self.left_but(Duration::ZERO, now)
    }

    /// The time until its margin begins.
    pub fn left_before_margin(&self, now: Now) -> Duration {
        self.left_but(self.margin(), now)
    }

    /// By either clock; but the wall clock is heard only when the token has been here for a margin.
    /// A clock that jumps to and fro would else cost a refresh with each jump.
    fn left_but(&self, last: Duration, now: Now) -> Duration {
        let new_for = Duration::from_millis(
            self.since.saturating_add(millis(self.margin())).saturating_sub(now.boot),
        );
        let by_wall = self.deadline.wall_left(now).saturating_sub(last).max(new_for);
        self.deadline.boot_left(now).saturating_sub(last).min(by_wall)
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
            // See `told`.
            Self::LoginRequired(_) => None,
            Self::StoreError(why) | Self::Unsaved(why) => Some(why),
            _ => self.trouble().map(|trouble| trouble.why.as_str()),
        }
    }

    /// What is wrong with this account and what to do about it, for people.
    pub fn told(&self, account: &AccountName) -> Option<String> {
        match self {
            Self::LoginRequired(reason) => Some(reason.told(account)),
            health => health.why().map(str::to_owned),
        }
    }

    /// When it is tried again by itself.
    pub fn next_try(&self) -> Option<Deadline> {
        self.trouble().map(|trouble| trouble.next_try)
    }

    /// What is wrong, where it is tried again by itself.
    pub fn trouble(&self) -> Option<&Trouble> {
        match self {
            Self::Retrying(trouble)
            | Self::Uncertain(trouble)
            | Self::Misconfigured(trouble)
            | Self::Locked(trouble)
            | Self::StoreUnwritable(trouble) => Some(trouble),
            _ => None,
        }
    }
}

fn credential(grant: &Grant, deadline: Option<Deadline>, now: Now) -> Option<Credential> {
    const DAY: Duration = Duration::from_secs(86_400);
    let life = Duration::from_millis(grant.life);
    Some(Credential {
        header: bearer(grant.access.as_ref()?)?,
        // No token lives longer than when it was new; a clock that was ahead may say so.
        deadline: deadline
            .unwrap_or_else(|| Deadline::from_wall(now, grant.expires_at, DAY.min(life))),
        life,
        since: now.boot,
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
            since: NOON.boot,
        });
        Snapshot { generation: 1, health, credential }
    }

    fn trouble(seconds: u64) -> Trouble {
        Trouble::until("why", Deadline::after(NOON, Duration::from_secs(seconds)))
    }

    #[test]
    fn a_live_token_is_served_in_every_state_but_two() {
        let alive = Some(Duration::from_millis(1));
        for health in [
            Health::Connected,
            Health::Retrying(trouble(9)),
            Health::Uncertain(trouble(9)),
            Health::Misconfigured(trouble(9)),
            Health::Locked(trouble(9)),
            Health::StoreUnwritable(trouble(9)),
            Health::Unsaved("why".into()),
        ] {
            assert_eq!(snapshot(health, alive).decide(NOON, HOLD, NOON.boot), Decision::Serve);
        }
        for health in
            [Health::LoginRequired(LoginReason::LoggedOut), Health::StoreError("why".into())]
        {
            assert!(matches!(
                snapshot(health, alive).decide(NOON, HOLD, NOON.boot),
                Decision::Refuse(_)
            ));
        }
    }

    #[test]
    fn a_dead_token_waits_only_for_what_is_near() {
        let decide = |health| snapshot(health, Some(Duration::ZERO)).decide(NOON, HOLD, NOON.boot);
        assert_eq!(decide(Health::Connected), Decision::Refresh);
        assert_eq!(decide(Health::Locked(trouble(9))), Decision::Refresh);
        assert_eq!(decide(Health::Retrying(trouble(15))), Decision::Wait);
        assert!(matches!(
            decide(Health::Retrying(trouble(16))),
            Decision::Refuse(Refusal::AuthUnreachable(..))
        ));
        assert!(matches!(
            decide(Health::Uncertain(trouble(16))),
            Decision::Refuse(Refusal::AuthUnreachable(..))
        ));
        assert!(matches!(
            decide(Health::Misconfigured(trouble(1))),
            Decision::Refuse(Refusal::Misconfigured(_))
        ));
        assert!(matches!(
            decide(Health::StoreUnwritable(trouble(1))),
            Decision::Refuse(Refusal::StoreUnwritable(..))
        ));
    }

    #[test]
    fn where_nothing_was_sent_a_request_has_a_try_of_its_own() {
        let dead = |unsent| {
            let health = Health::Retrying(Trouble { unsent, ..trouble(300) });
            snapshot(health, Some(Duration::ZERO))
        };
        let came = NOON.boot;
        let refused = |decision| matches!(decision, Decision::Refuse(Refusal::AuthUnreachable(..)));
        assert!(refused(dead(None).decide(NOON, HOLD, came)), "the server asked for patience");
        assert_eq!(dead(Some(came - 1000)).decide(NOON, HOLD, came), Decision::Refresh, "at once");
        assert_eq!(dead(Some(came - 200)).decide(NOON, HOLD, came), Decision::Wait, "one a second");
        let hasty = dead(Some(came - 200)).decide(NOON, Duration::from_millis(700), came);
        let wait = Duration::from_millis(800);
        assert_eq!(hasty, Decision::Refuse(Refusal::AuthUnreachable("why".into(), wait)));
        assert!(refused(dead(Some(came)).decide(NOON, HOLD, came)), "it had its try");
        let uncertain = Health::Uncertain(Trouble { unsent: Some(came - 1000), ..trouble(300) });
        assert_eq!(snapshot(uncertain, None).decide(NOON, HOLD, came), Decision::Refresh);
        assert_eq!(
            snapshot(Health::Retrying(trouble(0)), None).decide(NOON, HOLD, came),
            Decision::Refresh,
            "due"
        );
    }

    #[test]
    fn a_new_token_outlives_jumps_of_the_wall_clock_for_one_margin() {
        let credential =
            snapshot(Health::Connected, Some(Duration::from_secs(600))).credential.unwrap();
        let left = |wall: i64, boot: u64| {
            credential
                .left(Now { wall: NOON.wall + wall * 1000, boot: NOON.boot + boot * 1000 })
                .as_secs()
        };
        assert_eq!((left(599, 599), left(600, 600)), (1, 0));
        assert_eq!((left(86_400, 1), left(86_400, 59), left(86_400, 60)), (59, 1, 0), "set ahead");
        assert_eq!((left(-86_400, 1), left(-86_400, 600)), (599, 0), "set back");
        assert_eq!((left(0, 600), left(660, 60)), (0, 0), "asleep, and paused");
    }

    #[test]
    fn margin_is_a_fifth_and_a_minute_at_most() {
        let margin = |life| {
            Credential {
                header: HeaderValue::from_static("Bearer x"),
                deadline: Deadline::after(NOON, HOLD),
                life: Duration::from_secs(life),
                since: NOON.boot,
            }
            .margin()
        };
        assert_eq!(
            (margin(600).as_secs(), margin(300).as_secs(), margin(2).as_millis()),
            (60, 60, 400)
        );
        assert_eq!(margin(100), Duration::from_secs(20));
    }
}
