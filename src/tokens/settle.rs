//! What follows from the answer to a refresh: each outcome class has one consequence.

use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::reason::LoginReason;
use super::refresh::{Attempt, Hands, Report};
use super::schedule;
use super::snapshot::{Health, Trouble};
use super::subject::unconfirmed;
use crate::clock::{Deadline, Now, millis};
use crate::oauth::{Credentials, Outcome, Tokens};
use crate::store::{EndReason, Ended, Grant, Intent, Record};

/// How old an intent must be before its token may be sent again if no whole answer came: a late
/// first copy would be taken for the replay.
const SETTLED: Duration = Duration::from_secs(10);

impl Attempt {
    /// Turns an outcome into a record, a health and a report. `before` is the record without this
    /// attempt's intent.
    pub(super) async fn settle(
        &self,
        hands: Hands,
        before: &Record,
        sent: Now,
        outcome: Outcome,
    ) -> Report {
        match outcome {
            Outcome::Fresh(tokens) => self.fresh(hands, sent, tokens).await,
            Outcome::NotSent(why) => {
                let why = format!("the token endpoint cannot be reached: {why}");
                self.unsent(hands, before).await;
                self.not_sent(before, why, sent.boot)
            }
            Outcome::ComeBackLater { why, retry_after } => {
                self.unsent(hands, before).await;
                self.later(
                    before,
                    format!("the token endpoint gives no tokens now: {why}"),
                    retry_after,
                )
            }
            Outcome::Misconfigured(why) => {
                self.unsent(hands, before).await;
                self.misconfigured(format!("the token endpoint refuses this client: {why}"))
            }
            Outcome::Dead(code) => self.dead(hands, before, &code).await,
            Outcome::Ambiguous { why, answered } => {
                let sending = hands.record.intent.as_ref().map(Intent::sending);
                self.account.memory().answered = sending.filter(|_| answered);
                self.uncertain(&hands.record, format!("a refresh has no known outcome: {why}"))
            }
        }
    }

    /// Saves first, then lets requests see it.
    async fn fresh(&self, hands: Hands, sent: Now, tokens: Tokens) -> Report {
        let usable = tokens.access.is_some();
        for oddity in &tokens.oddities {
            warn!(account = %self.account.name, "the token endpoint's answer is odd: {oddity}");
        }
        let deadline = Deadline::after(sent, tokens.life);
        let Some(record) = renewed(hands.record, tokens, deadline, sent) else {
            return Report::Failed;
        };
        let saved = self.accounts.store().save(&hands.locked, &record).await;
        // Where the life is shorter than the way here, the pause grows as after a failure.
        if !usable || !deadline.boot_left(self.accounts.clock().now()).is_zero() {
            self.account.remember_good(usable);
        }
        match saved {
            Ok(version) => {
                self.account.memory().version = version;
                let health = self.unless_logged_out(self.health_after(usable, deadline, &record));
                info!(account = %self.account.name, reason = self.reason.word(), generation = record.generation, "refreshed");
                self.account.publish(record, health, Some(deadline));
                drop((hands.locked, hands.turn));
            }
            Err(error) => {
                error!(account = %self.account.name, "the new pair is in memory only: {error}");
                self.account.memory().unsaved = Some(error.to_string());
                let health = self.unless_logged_out(Health::Unsaved(error.to_string()));
                self.account.publish(record.clone(), health, Some(deadline));
                self.accounts.keep_saving(&self.account, hands.turn, hands.locked, record);
            }
        }
        if usable { Report::Refreshed } else { Report::Failed }
    }

    /// A logout that waits for the turn will save over this record: nothing serves until then.
    /// Looked at right before publishing.
    fn unless_logged_out(&self, health: Health) -> Health {
        let is_logging_out = self.account.order().is_logging_out();
        match &self.account.snapshot().health {
            logged_out @ Health::LoginRequired(_) if is_logging_out => logged_out.clone(),
            _ => health,
        }
    }

    fn health_after(&self, usable: bool, deadline: Deadline, record: &Record) -> Health {
        let now = self.accounts.clock().now();
        let unusable = self.account.memory().unusable;
        match (usable, unusable) {
            (true, _) if deadline.boot_left(now).is_zero() => {
                let next_try = Deadline::after(now, self.account.next_wait(None));
                Health::Retrying(Trouble::until(
                    "the new access token expired before it arrived",
                    next_try,
                ))
            }
            (true, _) if record.subject_unconfirmed => unconfirmed(now),
            (true, _) => Health::Connected,
            (false, 1) => {
                let why = "the token endpoint sent no usable access token; asking once more";
                Health::Retrying(Trouble::until(why, Deadline::after(now, Duration::ZERO)))
            }
            (false, _) => self.accounts.no_usable_token(&self.account),
        }
    }

    /// Takes the intent back: the server has not looked at the token. An older open one stays.
    async fn unsent(&self, hands: Hands, before: &Record) {
        match self.accounts.store().note(&hands.locked, before).await {
            Ok(version) => self.account.memory().version = version,
            Err(error) => {
                warn!(account = %self.account.name, "the note of an unsent refresh stays behind: {error}");
                self.account.memory().answered = hands.record.intent.as_ref().map(Intent::sending);
            }
        }
        self.account.memory().record = Some(before.clone());
    }

    /// The server says that the grant is over: unless the store holds another pair by now, it is.
    async fn dead(&self, hands: Hands, before: &Record, code: &str) -> Report {
        let sent = hands.record.grant.as_ref().map(|grant| grant.refresh.fingerprint());
        if let Ok(Some((stored, _))) = self.accounts.store().load(&self.account.name).await
            && stored.generation >= hands.record.generation
            && stored.grant.as_ref().is_some_and(|grant| Some(grant.refresh.fingerprint()) != sent)
        {
            self.accounts.adopt(&self.account, stored).await;
            return Report::Adopted;
        }
        let reason = match before.open_intent() {
            Some(open) => self.interrupted(open),
            None => EndReason::Refused { code: code.to_owned() },
        };
        self.end(hands, reason).await
    }

    /// Keeps a tombstone, over restarts too: no token is sent until somebody logs in.
    pub(super) async fn end(&self, hands: Hands, reason: EndReason) -> Report {
        let ended = Ended { at: self.accounts.clock().now().wall, reason: reason.clone() };
        let reason = LoginReason::Ended(reason);
        warn!(account = %self.account.name, "{}", reason.told(&self.account.name));
        let generation = hands.record.generation + 1;
        let ended = Some(ended);
        let record = Record {
            generation,
            grant: None,
            subject_unconfirmed: false,
            intent: None,
            ended,
            ..hands.record
        };
        let saved = self.accounts.store().save(&hands.locked, &record).await;
        self.account.publish(record.clone(), Health::LoginRequired(reason), None);
        match saved {
            Ok(version) => self.account.memory().version = version,
            Err(error) => {
                // Until it is saved the record stays locked: whoever read it would send a token
                // that is over.
                error!(account = %self.account.name, "the end of the login could not be saved: {error}");
                self.accounts.keep_saving(&self.account, hands.turn, hands.locked, record);
            }
        }
        Report::Failed
    }

    /// Finds out what became of a refresh that has no known outcome. Goes on only if its token may
    /// be sent.
    pub(super) async fn resolve(
        &self,
        hands: Hands,
        credentials: &Credentials,
    ) -> Result<Hands, Report> {
        let (Some(intent), Some(grant)) =
            (hands.record.open_intent().cloned(), hands.record.grant.as_ref())
        else {
            return Ok(hands);
        };
        let trusted =
            grant.introspection_trusted && self.accounts.oauth().settings.introspect.is_some();
        if trusted {
            match self.accounts.oauth().is_active(&grant.refresh, credentials).await {
                Ok(true) => {}
                Ok(false) => return Err(self.end(hands, self.interrupted(&intent)).await),
                Err(error) => {
                    let why = format!(
                        "a refresh has no known outcome, and introspection gives none: {error}"
                    );
                    return Err(self.uncertain(&hands.record, why));
                }
            }
        }
        let answered = self.account.memory().answered == Some(intent.sending());
        let age = self.account.sent_for(&intent);
        match answered || age >= SETTLED {
            true => Ok(hands),
            false => Err(self.unsettled(&hands.record, SETTLED.saturating_sub(age))),
        }
    }

    /// A clock that was ahead may have dated the sending: it was now, at the latest.
    fn interrupted(&self, intent: &Intent) -> EndReason {
        EndReason::Interrupted {
            sent_at: intent.first_sent_at.min(self.accounts.clock().now().wall),
        }
    }

    fn unsettled(&self, record: &Record, wait: Duration) -> Report {
        let why = "a refresh was sent and has no answer yet";
        let next_try = Deadline::after(self.accounts.clock().now(), wait);
        self.account.memory().record = Some(record.clone());
        self.fail(Health::Uncertain(Trouble::until(why, next_try)))
    }

    /// Stays in doubt, and tries again with growing patience.
    fn uncertain(&self, record: &Record, why: String) -> Report {
        warn!(account = %self.account.name, "{why}");
        let wait = self.account.next_wait(None);
        self.account.memory().record = Some(record.clone());
        let next_try = Deadline::after(self.accounts.clock().now(), wait);
        self.fail(Health::Uncertain(Trouble::until(why, next_try)))
    }

    /// Nothing is spent: tries again later, as the server asks.
    pub(super) fn later(
        &self,
        record: &Record,
        why: String,
        retry_after: Option<Duration>,
    ) -> Report {
        let wait = self.account.next_wait(retry_after);
        self.try_later(
            record.open_intent().is_some(),
            Trouble::until(why, Deadline::after(self.accounts.clock().now(), wait)),
        )
    }

    /// Nothing was sent by the try that began at `began` (boot clock, milliseconds): tries again
    /// later, or as soon as a request comes.
    pub(super) fn not_sent(&self, record: &Record, why: String, began: u64) -> Report {
        let next_try = Deadline::after(self.accounts.clock().now(), self.account.next_wait(None));
        self.try_later(
            record.open_intent().is_some(),
            Trouble { why, next_try, unsent: Some(began) },
        )
    }

    /// Files, memory or threads are wanting, so nothing was sent. That is no verdict about store or
    /// server, and over soon.
    pub(super) fn starved(&self, why: String) -> Report {
        let now = self.accounts.clock().now();
        let next_try =
            Deadline::after(now, self.account.next_wait(None).min(schedule::SCARCE_RETRY));
        let trouble = Trouble { why, next_try, unsent: Some(now.boot) };
        let record = self.account.memory().record.clone();
        self.try_later(
            record.as_ref().is_some_and(|record| record.open_intent().is_some()),
            trouble,
        )
    }

    /// With an older intent open the doubt stays.
    fn try_later(&self, in_doubt: bool, trouble: Trouble) -> Report {
        // Requests start a try a second: the same words are not said each time.
        match self.account.snapshot().health.why() == Some(&trouble.why) {
            true => debug!(account = %self.account.name, "still so: {}", trouble.why),
            false => warn!(account = %self.account.name, "{}", trouble.why),
        }
        self.fail(if in_doubt { Health::Uncertain(trouble) } else { Health::Retrying(trouble) })
    }

    /// A setting must change: tried again after minutes, and when the secret file changes.
    pub(super) fn misconfigured(&self, why: String) -> Report {
        error!(account = %self.account.name, "{why}");
        let health = self.account.misconfigured(why, self.accounts.last_secret_stamp());
        self.fail(health)
    }

    /// No durable note is possible, so nothing was sent.
    pub(super) fn unwritable(&self, why: String) -> Report {
        error!(account = %self.account.name, "no refresh is sent, because it could not be noted first: {why}");
        let wait = self.account.next_wait(None).min(schedule::DISK_RETRY);
        let next_try = Deadline::after(self.accounts.clock().now(), wait);
        self.fail(Health::StoreUnwritable(Trouble::until(why, next_try)))
    }

    /// Another process is at work on this account.
    pub(super) fn locked(&self, why: String) -> Report {
        let next_try = Deadline::after(self.accounts.clock().now(), self.account.next_wait(None));
        self.fail(Health::Locked(Trouble::until(why, next_try)))
    }

    pub(super) fn fail(&self, health: Health) -> Report {
        self.account.set_health(health);
        Report::Failed
    }
}

/// The record of the next generation.
fn renewed(record: Record, tokens: Tokens, deadline: Deadline, sent: Now) -> Option<Record> {
    let old = record.grant?;
    let unreadable = tokens.refresh_unreadable;
    let grant = Grant {
        access: tokens.access,
        refresh: tokens.refresh.unwrap_or(old.refresh),
        expires_at: deadline.wall,
        life: millis(tokens.life),
        scope: tokens.scope.unwrap_or(old.scope),
        refreshed_at: sent.wall,
        ..old
    };
    let generation = record.generation + 1;
    // A refresh token that cannot be read has replaced the old one all the same: what became of
    // that stays open.
    let intent = record.intent.filter(|_| unreadable).map(|intent| Intent { generation, ..intent });
    Some(Record { generation, grant: Some(grant), intent, ended: None, ..record })
}
