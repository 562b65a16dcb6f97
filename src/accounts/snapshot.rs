//! What a request sees of an account: one immutable value, swapped as a whole.

use std::sync::Arc;
use std::time::Duration;

use super::credential::{Credential, CredentialSource};
use super::health::{Health, RetryState, StoreFault};
use super::reason::{LoginReason, RetryReason};
use crate::clock::{Deadline, Now};
use crate::explain::{CredentialKind, Facts, SubjectKind};
use crate::store::{AccountName, Record};

/// Wait that a caller is told while the newest pair is not saved.
const UNSAVED_WAIT: Duration = Duration::from_secs(5);

/// An account at one moment. It is the only home of the record and of the token in it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The account's state.
    pub health: Health,
    /// The credential, ready for a header; none if there is none to send.
    pub credential: Option<Credential>,
    /// Where the credential comes from.
    pub source: CredentialSource,
}

/// Why a request gets no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Only a login helps.
    LoginRequired(LoginReason),
    /// The token endpoint gives no token now.
    AuthUnreachable(RetryReason, Duration),
    /// There was no new token within `hold`.
    RefreshTimeout {
        /// The setting.
        hold: Duration,
        /// What delays the refresh, if that is known.
        reason: Option<RetryReason>,
    },
    /// Another process holds the account's lock.
    Locked(RetryReason),
    /// A setting must change.
    Misconfigured(RetryReason),
    /// The record cannot be used.
    StoreError(StoreFault),
    /// The store cannot be written.
    StoreUnwritable(String, Duration),
    /// Too many requests wait already.
    Overloaded,
}

/// What a request does about an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Take the credential.
    Serve,
    /// Ask for a refresh, and wait.
    Refresh,
    /// Wait for the next attempt, which is due before this request must give up.
    Wait,
    /// Give up at once.
    Refuse(Refusal),
}

/// What a rejected request (401) does next.
#[derive(Debug)]
pub enum Verdict {
    /// Borrow again: there is another token.
    Again,
    /// Pass the upstream's response on.
    Give,
    /// There will be no other token now.
    Refuse(Refusal),
}

impl Snapshot {
    /// What a source offers. The deadline is the one measured when the pair was issued, or the
    /// stored one.
    pub fn of(
        source: CredentialSource,
        health: Health,
        deadline: Option<Deadline>,
        now: Now,
    ) -> Self {
        let credential =
            if health.allows_serving() { source.credential(deadline, now) } else { None };
        Self { health, credential, source }
    }

    /// Generation of the record.
    pub fn generation(&self) -> u64 {
        self.source.generation()
    }

    /// The record, if there is one.
    pub(super) fn record(&self) -> Option<&Arc<Record>> {
        self.source.record()
    }

    /// What the refusal of a request can be explained from. `asked`: scopes that a login asks for.
    pub fn facts<'a>(&'a self, account: &'a AccountName, asked: &'a [String]) -> Facts<'a> {
        let grant = self.source.grant();
        // No scope in the record means that nobody said which there are.
        let granted = Some(self.source.scope()).filter(|scope| !scope.is_empty());
        let subject = self.record().and_then(|record| record.subject.as_deref());
        Facts {
            account: account.as_str(),
            granted,
            asked,
            credential: match &self.source {
                CredentialSource::ApiKey(_) => CredentialKind::ApiKey,
                CredentialSource::Grant(_) if grant.is_some() => CredentialKind::Token,
                CredentialSource::Grant(_) | CredentialSource::Absent { .. } => {
                    CredentialKind::None
                }
            },
            subject: SubjectKind::of(subject),
            environment: None,
        }
    }

    /// The same with another state.
    pub(super) fn with_health(&self, health: Health) -> Self {
        let credential = self.credential.clone().filter(|_| health.allows_serving());
        Self { health, credential, source: self.source.clone() }
    }

    /// The credential, if a request may carry it now.
    pub fn usable(&self, now: Now) -> Option<&Credential> {
        let credential = self.credential.as_ref()?;
        (self.health.allows_serving() && !credential.left(now).is_zero()).then_some(credential)
    }

    /// What a request does now that arrived at `arrived` (boot clock, milliseconds) and has
    /// `patience` left of its `hold`.
    pub fn decide(&self, now: Now, patience: Duration, arrived: u64) -> Decision {
        match &self.health {
            Health::LoginRequired(reason) => {
                Decision::Refuse(Refusal::LoginRequired(reason.clone()))
            }
            Health::StoreError(why) => Decision::Refuse(Refusal::StoreError(why.clone())),
            _ if self.usable(now).is_some() => Decision::Serve,
            Health::Connected | Health::Locked(_) => Decision::Refresh,
            Health::Retrying(retry) | Health::Uncertain(retry) => {
                decide_on_retry(retry, now, patience, arrived)
            }
            health @ (Health::Misconfigured(_)
            | Health::StoreUnwritable(_)
            | Health::Unsaved(_)) => Decision::Refuse(Refusal::of(health, now)),
        }
    }
}

/// A request starts at most one attempt, then it waits for the planned one or gives up.
fn decide_on_retry(retry: &RetryState, now: Now, patience: Duration, arrived: u64) -> Decision {
    let on_demand = retry.wait_on_demand(now);
    let has_had_its_try = retry.unsent_since.is_none_or(|began| began >= arrived);
    match if has_had_its_try { retry.next_try.boot_left(now) } else { on_demand } {
        Duration::ZERO => Decision::Refresh,
        wait if wait <= patience => Decision::Wait,
        _ => Decision::Refuse(Refusal::AuthUnreachable(retry.reason.clone(), on_demand)),
    }
}

impl Refusal {
    /// Why an account in this state has no token for a request.
    pub(super) fn of(health: &Health, now: Now) -> Self {
        match health {
            Health::LoginRequired(reason) => Self::LoginRequired(reason.clone()),
            Health::Misconfigured(retry) => Self::Misconfigured(retry.reason.clone()),
            Health::StoreError(why) => Self::StoreError(why.clone()),
            Health::StoreUnwritable(retry) => {
                Self::StoreUnwritable(retry.reason.to_string(), retry.next_try.remaining(now))
            }
            Health::Unsaved(why) => Self::StoreUnwritable(why.clone(), UNSAVED_WAIT),
            Health::Locked(retry) => Self::Locked(retry.reason.clone()),
            Health::Retrying(retry) | Health::Uncertain(retry) => {
                Self::AuthUnreachable(retry.reason.clone(), retry.next_try.remaining(now))
            }
            Health::Connected => Self::AuthUnreachable(RetryReason::Failed, Duration::ZERO),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::super::credential::Expiry;
    use super::*;

    const NOON: Now = Now { wall: 1_800_000_000_000, boot: 5_000_000 };
    const HOLD: Duration = Duration::from_secs(15);
    const WHY: RetryReason = RetryReason::Failed;

    fn snapshot(health: Health, left: Option<Duration>) -> Snapshot {
        let credential = left.map(|left| Credential {
            header: HeaderValue::from_static("Bearer x"),
            expiry: Some(Expiry {
                deadline: Deadline::after(NOON, left),
                lifetime: Duration::from_secs(600),
            }),
            since: NOON.boot,
        });
        Snapshot { health, credential, source: CredentialSource::Absent { generation: 1 } }
    }

    fn retry(seconds: u64) -> RetryState {
        RetryState::until(WHY, Deadline::after(NOON, Duration::from_secs(seconds)))
    }

    #[test]
    fn a_live_token_is_served_in_every_state_but_two() {
        let alive = Some(Duration::from_millis(1));
        for health in [
            Health::Connected,
            Health::Retrying(retry(9)),
            Health::Uncertain(retry(9)),
            Health::Misconfigured(retry(9)),
            Health::Locked(retry(9)),
            Health::StoreUnwritable(retry(9)),
            Health::Unsaved("why".into()),
        ] {
            assert_eq!(snapshot(health, alive).decide(NOON, HOLD, NOON.boot), Decision::Serve);
        }
        for health in [Health::LoginRequired(LoginReason::LoggedOut), Health::StoreError(fault())] {
            assert!(matches!(
                snapshot(health, alive).decide(NOON, HOLD, NOON.boot),
                Decision::Refuse(_)
            ));
        }
    }

    fn fault() -> StoreFault {
        StoreFault { why: "why".into(), login_helps: false }
    }

    #[test]
    fn a_dead_token_waits_only_for_what_is_near() {
        let decide = |health| snapshot(health, Some(Duration::ZERO)).decide(NOON, HOLD, NOON.boot);
        assert_eq!(decide(Health::Connected), Decision::Refresh);
        assert_eq!(decide(Health::Locked(retry(9))), Decision::Refresh);
        for health in [Health::Retrying, Health::Uncertain] {
            assert_eq!(decide(health(retry(15))), Decision::Wait);
            let late = Decision::Refuse(Refusal::AuthUnreachable(WHY, Duration::from_secs(16)));
            assert_eq!(decide(health(retry(16))), late);
        }
        let second = Duration::from_secs(1);
        let refused = |health| match decide(health) {
            Decision::Refuse(refusal) => refusal,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(Health::Misconfigured(retry(1))), Refusal::Misconfigured(WHY));
        let unwritable = Refusal::StoreUnwritable(WHY.to_string(), second);
        assert_eq!(refused(Health::StoreUnwritable(retry(1))), unwritable);
        let unsaved = Refusal::StoreUnwritable("why".into(), UNSAVED_WAIT);
        assert_eq!(refused(Health::Unsaved("why".into())), unsaved);
        assert_eq!(refused(Health::StoreError(fault())), Refusal::StoreError(fault()));
        let login = LoginReason::LoggedOut;
        assert_eq!(refused(Health::LoginRequired(login.clone())), Refusal::LoginRequired(login));
    }

    #[test]
    fn while_nothing_can_be_sent_a_request_starts_one_attempt() {
        let dead = |unsent_since| {
            let health = Health::Retrying(RetryState { unsent_since, ..retry(300) });
            snapshot(health, Some(Duration::ZERO))
        };
        let arrived = NOON.boot;
        let refused = |decision| matches!(decision, Decision::Refuse(Refusal::AuthUnreachable(..)));
        assert!(refused(dead(None).decide(NOON, HOLD, arrived)), "the server asked for a pause");
        assert_eq!(dead(Some(arrived - 1000)).decide(NOON, HOLD, arrived), Decision::Refresh);
        assert_eq!(
            dead(Some(arrived - 200)).decide(NOON, HOLD, arrived),
            Decision::Wait,
            "one a second"
        );
        let hasty = dead(Some(arrived - 200)).decide(NOON, Duration::from_millis(700), arrived);
        let wait = Duration::from_millis(800);
        assert_eq!(hasty, Decision::Refuse(Refusal::AuthUnreachable(WHY, wait)));
        assert!(refused(dead(Some(arrived)).decide(NOON, HOLD, arrived)), "it had its try");
        let uncertain =
            Health::Uncertain(RetryState { unsent_since: Some(arrived - 1000), ..retry(300) });
        assert_eq!(snapshot(uncertain, None).decide(NOON, HOLD, arrived), Decision::Refresh);
        assert_eq!(
            snapshot(Health::Retrying(retry(0)), None).decide(NOON, HOLD, arrived),
            Decision::Refresh,
            "due"
        );
    }
}
