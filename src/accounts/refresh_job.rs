//! One refresh, from the refresh lock to the published pair. Nothing else renews tokens: every
//! reason comes through here, on a task of its own that no caller can cancel.
//!
//! In order: permit, refresh lock, store lock, record read again, token endpoint reached, open
//! intent resolved, intent written, gate closed, young leases waited for, POST, answer classified,
//! saved, published, gate opened, locks freed.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::credential::Credential;
use super::executor::Executor;
use super::health::Health;
use super::history::PastRefresh;
use super::limiter::{RefreshLimiter, RefreshPermit};
use super::locked_record::LockedRecord;
use super::memory::LastAttempt;
use super::moved;
use super::outage::Outage;
use super::outcome::{self, Introspection, NextState, Resend, RetryTime, Sending, Sent};
use super::reason::{LoginReason, RetryReason};
use super::refresh_reason::{RefreshReason, RefreshReport};
use super::services::Services;
use super::settings::{LOCK_PATIENCE, REFRESH_LOCK_PATIENCE};
use super::subject::{self, Confirmation};
use super::transition;
use crate::clock::{Deadline, Now, TimeLimit};
use crate::oauth::{Credentials, TokenRequest};
use crate::store::{LockError, Record, SaveError, Version};
use crate::timeout::while_running;

/// Shortest time between the beginnings of an attempt that failed and the next one that no person
/// asked for. It holds whatever the account's health says, so that no bug there can make a storm of
/// token requests.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// First pause before a lock that another process holds is tried again; later ones are an eighth of
/// the time waited.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// What is left for sending of the time under an intent when the gate is closed.
const SENDING: Duration = Duration::from_secs(1);

/// An attempt to replace one generation.
pub(super) struct RefreshJob {
    pub(super) executor: Executor,
    pub(super) limiter: RefreshLimiter,
    pub(super) outage: Arc<Outage>,
    /// The generation that is to be replaced.
    pub(super) generation: u64,
}

impl RefreshJob {
    pub(super) async fn run(self) -> RefreshReport {
        self.keep_apart().await;
        let (account, services) = (&self.executor.account, self.services());
        let started = services.now();
        let report = match self.lock().await {
            Ok((_permit, record)) => self.renew(record).await.unwrap_or_else(|report| report),
            Err(report) => report,
        };
        let took = Duration::from_millis(services.now().boot.saturating_sub(started.boot));
        let outcome = match report {
            RefreshReport::Refreshed => "fresh",
            RefreshReport::Adopted => "adopted",
            RefreshReport::Limited => "limited",
            RefreshReport::Failed => account.peek().health.as_str(),
        };
        let reason = self.executor.reason;
        services.context.metrics.refreshed(reason.as_str(), outcome, took);
        services.context.history.add(PastRefresh {
            at: started.wall,
            account: account.name.clone(),
            reason,
            outcome,
            took,
            waiting: account.waiting.count(),
        });
        let mut memory = account.memory();
        memory.failed = Some(started).filter(|_| report == RefreshReport::Failed);
        memory.last = Some(LastAttempt { at: started.wall, reason, outcome, took });
        report
    }

    fn services(&self) -> &Services {
        &self.executor.services
    }

    /// Waits until the last attempt that failed is long enough ago.
    async fn keep_apart(&self) {
        let failed = self.executor.account.memory().failed;
        if let Some(began) = failed.filter(|_| self.executor.reason != RefreshReason::Asked) {
            let left = Deadline::after(began, MIN_INTERVAL).boot_left(self.services().now());
            self.services().unless_closing(tokio::time::sleep(left)).await;
        }
    }

    /// A permit, both locks and the record. While somebody else has one of the locks, the permit is
    /// given back: an account that another process is busy with takes no place from others.
    async fn lock(&self) -> Result<(RefreshPermit, LockedRecord), RefreshReport> {
        let (account, services) = (&self.executor.account, self.services());
        let mut waiting = services.store.lock_wait();
        loop {
            let admission = self.limiter.admit(account, self.executor.reason);
            let permit = services.unless_closing(admission).await.ok_or(RefreshReport::Failed)?;
            let Ok(refresh_lock) = account.refresh_lock.clone().try_lock_owned() else {
                drop(permit);
                self.refresh_lock_is_free().await?;
                continue;
            };
            if account.peek().generation() != self.generation {
                return Err(RefreshReport::Adopted);
            }
            match services.store.lock(&account.name, Duration::ZERO).await {
                Ok(locked) => {
                    let record = self.read().await?;
                    return Ok((permit, LockedRecord::new(refresh_lock, locked, record)));
                }
                Err(error @ LockError::Busy(_)) => {
                    let waited = waiting.goes_on();
                    if waited >= LOCK_PATIENCE {
                        let reason = RetryReason::Locked(error.to_string());
                        return Err(self.executor.fail(NextState::Locked(reason)));
                    }
                    drop((permit, refresh_lock));
                    let pause = tokio::time::sleep(LOCK_PAUSE.max(waited / 8));
                    services.unless_closing(pause).await.ok_or(RefreshReport::Failed)?;
                }
                Err(error) => return Err(self.not_writable(error.is_passing(), error)),
            }
        }
    }

    async fn refresh_lock_is_free(&self) -> Result<(), RefreshReport> {
        let lock = self.executor.account.refresh_lock.clone().lock_owned();
        let locked = while_running(REFRESH_LOCK_PATIENCE, lock).await;
        locked.map(drop).ok_or(RefreshReport::Failed)
    }

    /// Reads the record again under the locks: newer is adopted, older is a backup that was put
    /// back.
    async fn read(&self) -> Result<Record, RefreshReport> {
        let (account, services) = (&self.executor.account, self.services());
        let record = match services.store.load(&account.name).await {
            Err(error) if error.is_passing() => return Err(self.out_of_resources(error)),
            Err(error) => {
                return Err(self.executor.fail(NextState::StoreError((&error).into())));
            }
            Ok(None) => {
                // So that its return is noticed.
                account.memory().version = Version::default();
                let gone = NextState::LoginRequired(LoginReason::RecordGone);
                return Err(self.executor.fail(gone));
            }
            Ok(Some((record, _))) => record,
        };
        let snapshot = account.snapshot();
        let known = snapshot.generation();
        if record.generation > known {
            transition::adopt(record, account, services);
            return Err(RefreshReport::Adopted);
        }
        let record = match snapshot.record() {
            Some(remembered) if remembered.generation > record.generation => {
                if moved::has_moved(services, account, remembered, &record).await {
                    transition::adopt(record, account, services);
                    return Err(RefreshReport::Adopted);
                }
                warn!(account = %account.name, on_disk = record.generation, known, "an older record was put back; the newer one is kept and saved over it");
                Record::clone(remembered)
            }
            _ => record,
        };
        if record.api_key.is_some() {
            // It is never refreshed, and in use as soon as it is published.
            transition::adopt(record, account, services);
            return Err(RefreshReport::Adopted);
        }
        match outcome::state_of(&record, |record| services.may_use(record)) {
            login @ NextState::LoginRequired(_) => Err(self.executor.fail(login)),
            _ => Ok(record),
        }
    }

    /// From the record to the answer of the token endpoint and its consequences.
    async fn renew(&self, mut record: LockedRecord) -> Result<RefreshReport, RefreshReport> {
        if self.is_asked_to_wait() {
            return Err(RefreshReport::Failed);
        }
        if self.is_limited() {
            return Err(RefreshReport::Limited);
        }
        record = match subject::confirm(&self.executor, record).await {
            Confirmation::Done(report) => return Ok(report),
            Confirmation::RefreshFirst(record) => record,
        };
        let credentials = match self.services().secret_file.credentials().await {
            Ok(credentials) => credentials,
            Err(error) if error.is_passing() => return Err(self.out_of_resources(error)),
            Err(error) => {
                let reason = RetryReason::NoCredentials(error.to_string());
                return Err(self.executor.fail(NextState::Misconfigured(reason)));
            }
        };
        // Before the server is asked about an open intent: in an outage that would say no more.
        let began = self.services().now().boot;
        if let Err((why, began)) = self.reach(began).await {
            let reason = RetryReason::Unreachable(why);
            return Err(self.executor.fail(outcome::not_sent(&record.record, reason, began)));
        }
        record = self.resolve_open_intent(record, &credentials).await?;
        // After the order to stop nothing new is begun; what was begun is waited for.
        if self.services().is_closing() {
            return Err(RefreshReport::Failed);
        }
        let is_resend = record.record.open_intent().is_some();
        let before = record
            .write_intent(&self.executor.account, self.services())
            .await
            .map_err(|error| self.no_intent(error))?;
        if is_resend {
            self.services().context.metrics.token_resent();
        }
        Ok(self.send_token_request(record, &before, &credentials).await)
    }

    /// Reaches the token endpoint, unless that was just found to be hopeless; the error says when
    /// the attempt began that failed.
    async fn reach(&self, now: u64) -> Result<(), (String, u64)> {
        if self.executor.reason != RefreshReason::Asked
            && let Some(hopeless) = self.outage.recent_failure(now)
        {
            return Err(hopeless);
        }
        let reached = self.services().oauth.reach().await;
        self.outage.learn(now, reached.as_ref().err());
        reached.map_err(|why| (why, now))
    }

    /// A 401 is no reason to ask a token endpoint that wants a pause, refuses this client, or could
    /// not be reached a moment ago.
    fn is_asked_to_wait(&self) -> bool {
        let now = self.services().now();
        let waits = match &self.executor.account.peek().health {
            Health::Retrying(retry) | Health::Misconfigured(retry) => {
                !retry.wait_on_demand(now).is_zero()
            }
            _ => false,
        };
        waits && self.executor.reason == RefreshReason::Rejected
    }

    /// There is a shortest time between two refreshes that are forced by a 401.
    fn is_limited(&self) -> bool {
        if self.executor.reason != RefreshReason::Rejected {
            return false;
        }
        let now = self.services().now();
        let is_limited = self.executor.account.was_just_forced(now);
        if !is_limited {
            self.executor.account.memory().forced_at = Some(now);
        }
        is_limited
    }

    /// Finds out what became of a refresh that has no known outcome. The record comes back only if
    /// its token may be sent.
    async fn resolve_open_intent(
        &self,
        record: LockedRecord,
        credentials: &Credentials,
    ) -> Result<LockedRecord, RefreshReport> {
        let Some(intent) = record.record.open_intent().cloned() else { return Ok(record) };
        let introspection = self.introspect(&record.record, credentials).await;
        let now = self.services().now();
        let sending = {
            let mut memory = self.executor.account.memory();
            let is_elsewhere = self.services().store.is_shared()
                && self.executor.reason != RefreshReason::Asked
                && !memory.is_own(&intent);
            let shared = record.locked.intent_age(&record.record);
            let answered = memory.was_answered(&intent);
            Sending { answered, age: memory.sent_for(&intent, shared, now), is_elsewhere }
        };
        match outcome::resend(&intent, introspection, sending, now) {
            Resend::Send => Ok(record),
            Resend::End(reason) => Err(self.executor.end(record, reason).await),
            Resend::Wait(next) => Err(self.executor.wait(record, next)),
        }
    }

    async fn introspect(&self, record: &Record, credentials: &Credentials) -> Introspection {
        let oauth = &self.services().oauth;
        let is_configured = oauth.settings.introspect.is_some();
        let trusted = |grant: &&crate::store::Grant| grant.introspection_trusted && is_configured;
        let Some(grant) = record.grant.as_ref().filter(trusted) else {
            return Introspection::Untrusted;
        };
        match oauth.is_active(&grant.refresh, credentials).await {
            Ok(true) => Introspection::Active,
            Ok(false) => Introspection::Inactive,
            Err(error) => Introspection::Failed(error.to_string()),
        }
    }

    /// The token request itself: the gate is closed from here until the outcome is published.
    async fn send_token_request(
        &self,
        record: LockedRecord,
        before: &Record,
        credentials: &Credentials,
    ) -> RefreshReport {
        let (account, services) = (&self.executor.account, self.services());
        let Some(grant) = before.grant.as_ref() else { return RefreshReport::Failed };
        let now = services.now();
        let drain = drain(account.snapshot().credential.as_ref(), services.settings().drain, now);
        // Whoever stands still for longer may not be the holder any more.
        let limit = record.locked.sending_limit();
        let sending = |limit: &TimeLimit| drain.min(limit.left().saturating_sub(SENDING));
        let drain = limit.as_ref().map_or(drain, sending);
        let gate = account.gate.close(account.epoch(now), drain).await;
        let at = services.now();
        info!(account = %account.name, reason = self.executor.reason.as_str(), generation = before.generation,
              drained = at.boot.saturating_sub(now.boot), "refresh sent");
        let answer = services
            .oauth
            .request_tokens(&TokenRequest::Refresh(&grant.refresh), credentials, limit.as_ref())
            .await;
        match &answer {
            crate::oauth::Outcome::Fresh(tokens) => {
                for oddity in &tokens.oddities {
                    warn!(account = %account.name, "the token endpoint's answer is odd: {oddity}");
                }
            }
            crate::oauth::Outcome::HeldUp => services.context.metrics.held_up(),
            _ => {}
        }
        let sent = Sent { grant, before, noted: &record.record, at };
        let consequence = outcome::consequence(answer, sent, services.now());
        let report = self.executor.carry_out(consequence, record, before).await;
        drop(gate);
        report
    }

    /// The intent is not in the store, so nothing is sent.
    fn no_intent(&self, error: SaveError) -> RefreshReport {
        if error.is_superseded() {
            return self.executor.fail(NextState::Locked(RetryReason::Locked(error.to_string())));
        }
        self.not_writable(error.is_passing(), error)
    }

    /// The lock or the intent cannot be written, so nothing is sent.
    fn not_writable(&self, is_passing: bool, error: impl ToString) -> RefreshReport {
        if is_passing {
            return self.out_of_resources(error);
        }
        let reason = RetryReason::Unwritable(error.to_string());
        self.executor.fail(NextState::StoreUnwritable(reason))
    }

    /// Files, memory or threads ran out, so nothing was sent. That says nothing about store or
    /// server, and is over soon.
    fn out_of_resources(&self, error: impl ToString) -> RefreshReport {
        let reason = RetryReason::OutOfResources(error.to_string());
        let is_open = self.executor.account.record().is_some_and(|it| it.open_intent().is_some());
        self.executor.fail(if is_open {
            NextState::Uncertain(reason, RetryTime::Resources)
        } else {
            NextState::Retrying(reason, RetryTime::Resources)
        })
    }
}

/// How long young leases are waited for: `drain` or the margin, never past the expiry.
fn drain(credential: Option<&Credential>, drain: Duration, now: Now) -> Duration {
    credential.map_or(Duration::ZERO, |credential| {
        drain.min(credential.margin()).min(credential.left(now))
    })
}
