//! A refresh, from the turn to the published pair. The only renewer: every reason comes through
//! here, on a task of its own that no caller can cancel.
//!
//! A permit, turn, store lock, re-read, endpoint reached, open intent resolved, intent written,
//! gate closed, young leases waited for, POST, answer classified, saved, published, gate opened,
//! lock freed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;
use tracing::{info, warn};

use super::account::{Account, LastAttempt};
use super::limiter::RefreshPermit;
use super::reason::LoginReason;
use super::snapshot::Health;
use super::{Accounts, LOCK_PATIENCE, TURN_PATIENCE};
use crate::clock::Deadline;
use crate::oauth::{Credentials, Exchange};
use crate::store::{Intent, LockError, Locked, Record, Version};
use crate::timeout::while_running;

/// Shortest distance between the beginnings of an attempt that failed and the next one that no
/// person asked for. It holds whatever the account's health says, so that no mistake about that can
/// make a storm of token requests.
const APART: Duration = Duration::from_secs(1);

/// First pause before a lock that another process holds is tried again; later ones are an eighth of
/// the time waited.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Why a refresh is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A request found the token expired.
    Expired,
    /// One margin before expiry.
    Margin,
    /// The upstream refused the current token.
    Rejected,
    /// Unused for long; kept alive.
    IdleRefresh,
    /// The time of the next try has come.
    Retry,
    /// A person asked.
    Asked,
}

impl Reason {
    /// The reason's name in logs, metrics and `status`.
    pub fn word(self) -> &'static str {
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

/// How an attempt ended; the account's snapshot has the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// A new pair was issued.
    Refreshed,
    /// A newer generation was there already.
    Adopted,
    /// A refresh was forced a moment ago; none was sent.
    Limited,
    /// See the account's health.
    Failed,
}

/// One attempt at one generation.
pub(super) struct Attempt {
    pub(super) accounts: Arc<Accounts>,
    pub(super) account: Arc<Account>,
    pub(super) reason: Reason,
    /// The generation that is to be replaced.
    pub(super) generation: u64,
}

/// What an attempt has in its hands from the lock on.
pub(super) struct Hands {
    pub(super) turn: OwnedMutexGuard<()>,
    pub(super) locked: Locked,
    /// The record as it is on disk, or as memory knows better.
    pub(super) record: Record,
}

impl Attempt {
    /// Runs the attempt; a second one follows if the new access token cannot be used.
    pub(super) async fn run(self) -> Report {
        self.keep_apart().await;
        let started = self.accounts.clock().now();
        let report = match self.hands().await {
            Ok((_permit, hands)) => self.renew(hands).await.unwrap_or_else(|report| report),
            Err(report) => report,
        };
        if report == Report::Refreshed {
            self.accounts.learn_subject(&self.account);
        }
        let took =
            Duration::from_millis(self.accounts.clock().now().boot.saturating_sub(started.boot));
        let outcome = match report {
            Report::Refreshed => "fresh",
            Report::Adopted => "adopted",
            Report::Limited => "limited",
            Report::Failed => self.account.snapshot().health.word(),
        };
        self.accounts.metrics().refreshed(self.reason.word(), outcome);
        self.account.memory().failed = Some(started).filter(|_| report == Report::Failed);
        self.account.memory().last =
            Some(LastAttempt { at: started.wall, reason: self.reason, outcome, took });
        report
    }

    /// Waits until the last attempt that failed is long enough ago.
    async fn keep_apart(&self) {
        let failed = self.account.memory().failed.filter(|_| self.reason != Reason::Asked);
        if let Some(began) = failed {
            let left = Deadline::after(began, APART).boot_left(self.accounts.clock().now());
            self.accounts.unless_closing(tokio::time::sleep(left)).await;
        }
    }

    /// A permit, the turn, the lock and the record. While turn or lock are somebody else's, the
    /// permit is given back: an account that another process is busy with takes no place from
    /// others.
    async fn hands(&self) -> Result<(RefreshPermit, Hands), Report> {
        let mut busy_since = None;
        loop {
            let admission = self.accounts.limiter.admit(&self.account, self.reason);
            let permit = self.accounts.unless_closing(admission).await.ok_or(Report::Failed)?;
            let Ok(turn) = self.account.turn.clone().try_lock_owned() else {
                drop(permit);
                self.turn_is_free().await?;
                continue;
            };
            if self.account.snapshot().generation > self.generation {
                return Err(Report::Adopted);
            }
            match self.accounts.store().lock(&self.account.name, Duration::ZERO).await {
                Ok(locked) => {
                    let record = self.read().await?;
                    return Ok((permit, Hands { turn, locked, record }));
                }
                Err(LockError::Busy(holder)) => {
                    let waited = busy_since.get_or_insert_with(Instant::now).elapsed();
                    if waited >= LOCK_PATIENCE {
                        return Err(self.locked(LockError::Busy(holder).to_string()));
                    }
                    drop((permit, turn));
                    let pause = LOCK_PAUSE.max(waited / 8);
                    self.accounts
                        .unless_closing(tokio::time::sleep(pause))
                        .await
                        .ok_or(Report::Failed)?;
                }
                Err(error) if error.is_passing() => return Err(self.starved(error.to_string())),
                Err(error) => return Err(self.unwritable(error.to_string())),
            }
        }
    }

    /// Waits until nobody has the turn.
    async fn turn_is_free(&self) -> Result<(), Report> {
        let turn = while_running(TURN_PATIENCE, self.account.turn.clone().lock_owned()).await;
        turn.map(drop).ok_or(Report::Failed)
    }

    /// Re-reads the record under the lock: newer is adopted, older is a backup that was put back.
    async fn read(&self) -> Result<Record, Report> {
        let loaded = self.accounts.store().load(&self.account.name).await;
        let remembered = self.account.memory().record.clone();
        let record = match loaded {
            Err(error) if error.is_passing() => return Err(self.starved(error.to_string())),
            Err(error) => return Err(self.fail(Health::StoreError(error.to_string()))),
            Ok(None) => {
                // So that its return is seen.
                self.account.memory().version = Version::default();
                return Err(self.fail(Health::LoginRequired(LoginReason::RecordGone)));
            }
            Ok(Some((record, _))) => record,
        };
        let known = self.account.snapshot().generation;
        if record.generation > known {
            self.accounts.adopt(&self.account, record).await;
            return Err(Report::Adopted);
        }
        let record = match remembered {
            Some(remembered) if remembered.generation > record.generation => {
                warn!(account = %self.account.name, on_disk = record.generation, known, "an older record was put back; the newer one is kept and saved over it");
                remembered
            }
            _ => record,
        };
        match self.accounts.health_of(&record) {
            health @ Health::LoginRequired(_) => Err(self.fail(health)),
            _ => Ok(record),
        }
    }

    /// From the record to the answer of the token endpoint and its consequences.
    async fn renew(&self, mut hands: Hands) -> Result<Report, Report> {
        if self.is_asked_to_wait() {
            return Err(Report::Failed);
        }
        if self.is_limited() {
            return Err(Report::Limited);
        }
        if let Some(access) = self.to_be_confirmed(&hands.record) {
            hands = match self.confirm(hands, &access).await {
                Ok(report) => return Ok(report),
                Err(hands) => hands,
            };
        }
        let credentials = match self.accounts.credentials().await {
            Ok(credentials) => credentials,
            Err(error) if error.is_passing() => return Err(self.starved(error.to_string())),
            Err(error) => return Err(self.misconfigured(error.to_string())),
        };
        // Before anything is asked about an intent that is open: in an outage all that can be said
        // is that.
        let began = self.accounts.clock().boot();
        if let Err((why, began)) = self.reach(began).await {
            let why = format!("the token endpoint cannot be reached: {why}");
            return Err(self.not_sent(&hands.record, why, began));
        }
        let hands = self.resolve(hands, &credentials).await?;
        let (hands, unnoted) = self.note(hands).await?;
        Ok(self.exchange(hands, &unnoted, &credentials).await)
    }

    /// Reaches the token endpoint, unless that was just found to be hopeless; says when the try
    /// began that failed.
    async fn reach(&self, now: u64) -> Result<(), (String, u64)> {
        if self.reason != Reason::Asked
            && let Some(hopeless) = self.accounts.outage.found(now)
        {
            return Err(hopeless);
        }
        let reached = self.accounts.oauth().reach().await;
        self.accounts.outage.learn(now, reached.as_ref().err());
        reached.map_err(|why| (why, now))
    }

    /// A 401 is no reason to bother a token endpoint that asked for patience, refuses this client,
    /// or could not be reached a moment ago.
    fn is_asked_to_wait(&self) -> bool {
        let now = self.accounts.clock().now();
        let snapshot = self.account.snapshot();
        let waits = matches!(
            &snapshot.health,
            Health::Retrying(trouble) | Health::Misconfigured(trouble) if !trouble.wait_on_demand(now).is_zero()
        );
        waits && self.reason == Reason::Rejected
    }

    /// A refresh forced by a 401 follows another forced one at a distance.
    fn is_limited(&self) -> bool {
        if self.reason != Reason::Rejected {
            return false;
        }
        let now = self.accounts.clock().now();
        let limited = self.account.was_just_forced(now);
        if !limited {
            self.account.memory().forced_at = Some(now);
        }
        limited
    }

    /// Reserves the next file's space, then writes the intent: from here on the pair may be spent.
    /// Returns the record as it was before.
    async fn note(&self, hands: Hands) -> Result<(Hands, Record), Report> {
        // After the last word to stop nothing new is begun; what was begun is waited for.
        if self.accounts.is_closing() {
            return Err(Report::Failed);
        }
        let before = hands.record;
        let noted = Record {
            intent: Some(intent(&before, self.accounts.clock().now().wall)),
            ..before.clone()
        };
        let sending = noted.intent.as_ref().map(Intent::sending);
        let written = match self.accounts.store().prepare(&hands.locked).await {
            Ok(()) => self.accounts.store().note(&hands.locked, &noted).await,
            Err(error) => Err(error),
        };
        match written {
            Ok(_) => {
                if let Some(intent) = &noted.intent {
                    self.account.note_sending(intent);
                }
                if before.open_intent().is_some() {
                    self.accounts.metrics().token_resent();
                }
                Ok((Hands { record: noted, ..hands }, before))
            }
            Err(error) => {
                // Should the note be on disk all the same: nothing was sent, so nothing has to be
                // waited for.
                if before.open_intent().is_none() {
                    self.account.memory().answered = sending;
                }
                match error.is_passing() {
                    true => Err(self.starved(error.to_string())),
                    false => Err(self.unwritable(error.to_string())),
                }
            }
        }
    }

    /// The exchange itself: the gate is closed from here until the outcome is published.
    async fn exchange(&self, hands: Hands, before: &Record, credentials: &Credentials) -> Report {
        let Some(grant) = hands.record.grant.clone() else { return Report::Failed };
        let snapshot = self.account.snapshot();
        let now = self.accounts.clock().now();
        let gate = self
            .account
            .gate
            .close(self.account.epoch(now), self.drain(&snapshot.credential, now))
            .await;
        let sent = self.accounts.clock().now();
        info!(account = %self.account.name, reason = self.reason.word(), generation = hands.record.generation,
              drained = sent.boot.saturating_sub(now.boot), "refresh sent");
        let outcome =
            self.accounts.oauth().exchange(&Exchange::Refresh(&grant.refresh), credentials).await;
        let report = self.settle(hands, before, sent, outcome).await;
        drop(gate);
        report
    }

    /// How long young leases are waited for: `drain` or the margin, never past the expiry.
    fn drain(
        &self,
        credential: &Option<super::snapshot::Credential>,
        now: crate::clock::Now,
    ) -> Duration {
        let drain = self.accounts.settings().drain;
        credential.as_ref().map_or(Duration::ZERO, |credential| {
            drain.min(credential.margin()).min(credential.left(now))
        })
    }
}

/// The note that the record's refresh token is about to be sent, for the first time or again.
fn intent(record: &Record, now: i64) -> Intent {
    let token = record.grant.as_ref().map(|grant| grant.refresh.fingerprint()).unwrap_or_default();
    match record.open_intent() {
        Some(open) => Intent { sent_at: now, resends: open.resends + 1, ..open.clone() },
        None => Intent {
            generation: record.generation,
            token,
            sent_at: now,
            first_sent_at: now,
            resends: 0,
        },
    }
}
