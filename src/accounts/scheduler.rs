//! Refreshes that nobody asks for: near expiry, at the next attempt, and against lapsing. One task
//! for all accounts: it computes the next wake-up and sleeps until then or until a command comes.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::account::{Account, SchedulerCommand};
use super::api_key;
use super::health::{Health, RetryState};
use super::refresh_reason::RefreshReason;
use super::refresher::Refresher;
use super::registry::Registry;
use super::services::Services;
use super::settings::Settings;
use super::snapshot::Snapshot;
use super::sync::StoreSync;
use crate::clock::{Age, Deadline, Now};
use crate::supervise::supervise;

/// Longest sleep: `Instant` stands still in suspend, so both clocks are read this often.
const MAX_SLEEP: Duration = Duration::from_secs(30);
/// Silence beyond which the scheduler counts as stuck.
const MAX_SILENCE: Duration = MAX_SLEEP.saturating_mul(2);
/// Shortest time between two rounds over all accounts.
const ROUND_INTERVAL: Duration = Duration::from_millis(20);
/// How often the store's changes are polled while accounts are in use or in trouble.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

type Commands = Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<SchedulerCommand>>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Scheduler {
    services: Arc<Services>,
    registry: Arc<Registry>,
    refresher: Arc<Refresher>,
    sync: Arc<StoreSync>,
    /// Held while Pleo is asked about an API key that it has refused.
    asking_about_key: Arc<tokio::sync::Mutex<()>>,
    /// When it was last awake; none before the first time.
    last_awake: Mutex<Option<Instant>>,
}

impl Scheduler {
    pub(super) fn new(
        services: Arc<Services>,
        registry: Arc<Registry>,
        refresher: Arc<Refresher>,
        sync: Arc<StoreSync>,
    ) -> Self {
        let (asking_about_key, last_awake) = Default::default();
        Self { services, registry, refresher, sync, asking_about_key, last_awake }
    }

    /// Runs until the end of the process. Commands outlive a scheduler that panics.
    pub(super) async fn supervised(
        self: Arc<Self>,
        commands: mpsc::UnboundedReceiver<SchedulerCommand>,
    ) {
        let commands = Arc::new(tokio::sync::Mutex::new(commands));
        let start = || self.clone().run(commands.clone());
        supervise("scheduler", &self.services.supervisor, &self.services.closing, start).await;
    }

    /// For how long it has not been awake; none if that is no longer than usual, or if it never
    /// was. Time asleep does not count.
    pub(super) fn silence(&self) -> Option<Duration> {
        let silence = self.last_awake.lock().as_ref()?.elapsed();
        (silence > MAX_SILENCE).then_some(silence)
    }

    /// Never ends. Nothing that may hang or panic is done here: refreshes and polls of the store
    /// run on tasks of their own.
    async fn run(self: Arc<Self>, commands: Commands) {
        let mut commands = commands.lock().await;
        self.registry.ask_again();
        let mut next_poll: Option<Deadline> = None;
        loop {
            *self.last_awake.lock() = Some(Instant::now());
            let now = self.services.now();
            let (next, watched) = self.refresh_due(now);
            // With no account at all, the first one may come from another process at any time.
            let is_watching = !watched.is_empty() || self.registry.unsorted().is_empty();
            let sleep = if is_watching { next.min(POLL_INTERVAL) } else { next };
            if next_poll.is_none_or(|next| next.boot_left(now).is_zero()) {
                self.sync.start_polling(watched);
                next_poll = Some(Deadline::after(now, POLL_INTERVAL));
            }
            self.wait(&mut commands, sleep).await;
        }
    }

    /// Starts what is due; returns when the next is, and the accounts whose records are to be
    /// watched.
    fn refresh_due(&self, now: Now) -> (Duration, Vec<Arc<Account>>) {
        let (mut next, mut watched) = (MAX_SLEEP, Vec::new());
        for account in self.registry.unsorted() {
            let snapshot = account.snapshot();
            let is_warm = account.is_warm(now);
            if is_warm || snapshot.health != Health::Connected {
                watched.push(account.clone());
            }
            let is_waited_for = account.waiting.is_any();
            let settings = self.services.settings();
            match due(&snapshot, account.age(), is_warm, is_waited_for, now, settings) {
                // It would only wait: the end of another one is noticed.
                Some((RefreshReason::IdleRefresh, wait))
                    if wait.is_zero() && self.refresher.limiter.is_busy_for_idle() =>
                {
                    next = next.min(POLL_INTERVAL);
                }
                Some((reason, wait)) if wait.is_zero() => {
                    self.refresher.start(&account, reason, snapshot.generation());
                }
                Some((_, wait)) => next = next.min(wait),
                None => {}
            }
            next = next.min(self.ask_about_key(account, now));
        }
        (next, watched)
    }

    /// Has Pleo asked once more about an API key that it has refused, if it is time; returns when
    /// to look again.
    fn ask_about_key(&self, account: Arc<Account>, now: Now) -> Duration {
        match api_key::ask_again_in(&account, now) {
            None => MAX_SLEEP,
            Some(wait) if wait.is_zero() => {
                // The end of the one that is asked about now is noticed.
                if let Ok(turn) = self.asking_about_key.clone().try_lock_owned() {
                    api_key::ask_again(&self.services, account, turn);
                }
                MAX_SLEEP
            }
            Some(wait) => wait,
        }
    }

    /// Sleeps until the time is up or something changed, and starts the refreshes that are asked
    /// for meanwhile.
    async fn wait(
        &self,
        commands: &mut mpsc::UnboundedReceiver<SchedulerCommand>,
        sleep: Duration,
    ) {
        let began = Instant::now();
        // A millisecond more: deadlines are whole milliseconds, timers may be early by a part of
        // one.
        let mut until = began + sleep + Duration::from_millis(1);
        while let Ok(Some(command)) = timeout_at(until, commands.recv()).await {
            match command {
                SchedulerCommand::Refresh(account, reason, generation) => {
                    self.refresher.start(&account, reason, generation);
                }
                // With thousands of accounts a round takes a while, and a refresh causes several of
                // these.
                SchedulerCommand::Reschedule => until = until.min(began + ROUND_INTERVAL),
            }
        }
    }
}

/// Why and in how long an account is to be refreshed by itself; none if it can wait for a request.
/// `is_waited_for` tells that a request waits already.
fn due(
    snapshot: &Snapshot,
    age: Option<Age>,
    is_warm: bool,
    is_waited_for: bool,
    now: Now,
    settings: &Settings,
) -> Option<(RefreshReason, Duration)> {
    if !snapshot.source.is_refreshable() {
        return None;
    }
    if snapshot.health != Health::Connected {
        let wait = |retry: &RetryState| {
            if is_waited_for { retry.wait_on_demand(now) } else { retry.next_try.boot_left(now) }
        };
        return snapshot.health.retry().map(|retry| (RefreshReason::Retry, wait(retry)));
    }
    let idle = age.map(|age| (RefreshReason::IdleRefresh, age.until(settings.idle_refresh, now)));
    let credential = snapshot.credential.as_ref().filter(|_| is_warm);
    let margin =
        credential.map(|credential| (RefreshReason::Margin, credential.left_before_margin(now)));
    [idle, margin].into_iter().flatten().min_by_key(|(_, wait)| *wait)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;
    use tokio::time::{sleep, timeout};

    use super::super::credential::{self, Credential, CredentialSource, Expiry};
    use super::super::health::StoreFault;
    use super::super::lease::Lease;
    use super::super::reason::{LoginReason, RetryReason};
    use super::super::testing;
    use super::*;
    use crate::store::Record;

    const NOON: Now = Now { wall: 1_800_000_000_000, boot: 5_000_000 };
    const DAY: u64 = 86_400;

    fn settings() -> Settings {
        Settings {
            drain: Duration::from_secs(2),
            hold: Duration::from_secs(15),
            keep_warm: Duration::from_secs(600),
            idle_refresh: Duration::from_secs(7 * DAY),
            default_account: None,
            ..Settings::default()
        }
    }

    fn snapshot(health: Health) -> Snapshot {
        let credential = Credential {
            header: HeaderValue::from_static("Bearer x"),
            expiry: Some(Expiry {
                deadline: Deadline::after(NOON, Duration::from_secs(600)),
                lifetime: Duration::from_secs(600),
            }),
            since: NOON.boot,
        };
        let source = CredentialSource::Absent { generation: 1 };
        Snapshot { health, credential: Some(credential), source }
    }

    fn later(wall: i64, boot: u64) -> Now {
        Now { wall: NOON.wall + wall * 1000, boot: NOON.boot + boot * 1000 }
    }

    fn connected(is_warm: bool, now: Now) -> Option<(RefreshReason, Duration)> {
        due(
            &snapshot(Health::Connected),
            Some(Age::of(NOON.wall, NOON)),
            is_warm,
            false,
            now,
            &settings(),
        )
    }

    #[test]
    fn a_warm_account_is_due_one_margin_before_expiry_to_the_second() {
        let seconds = |at| {
            connected(true, later(at, at as u64)).map(|(reason, wait)| (reason, wait.as_secs()))
        };
        assert_eq!(seconds(539), Some((RefreshReason::Margin, 1)));
        assert_eq!(seconds(540), Some((RefreshReason::Margin, 0)));
        assert_eq!(seconds(541), Some((RefreshReason::Margin, 0)));
        assert_eq!(seconds(700), Some((RefreshReason::Margin, 0)));
    }

    #[test]
    fn an_idle_account_waits_for_its_next_request_or_for_idle_refresh() {
        let week = 7 * DAY as i64;
        assert_eq!(
            connected(false, later(700, 700)).map(|(reason, _)| reason),
            Some(RefreshReason::IdleRefresh)
        );
        let alive = |seconds| Some((RefreshReason::IdleRefresh, Duration::from_secs(seconds)));
        assert_eq!(connected(false, later(week - 1, DAY * 7 - 1)), alive(1));
        assert_eq!(connected(false, later(week + 1, DAY * 7 + 1)), alive(0));
        assert_eq!(
            connected(false, later(week, 3600)),
            alive(0),
            "the machine was paused for a week"
        );
    }

    #[test]
    fn jumps_of_the_clock_bring_a_refresh_forward_and_never_put_it_off() {
        let ahead = |boot| {
            connected(true, later(10 * 365 * DAY as i64, boot)).map(|(_, wait)| wait.as_secs())
        };
        assert_eq!(
            (ahead(1), ahead(60)),
            (Some(59), Some(0)),
            "believed when the token is a minute old"
        );
        // Asleep: the wall clock was stopped too.
        assert_eq!(connected(true, later(0, 600)), Some((RefreshReason::Margin, Duration::ZERO)));
        let back = connected(true, later(-10 * 365 * DAY as i64, 100));
        assert_eq!(
            back,
            Some((RefreshReason::Margin, Duration::from_secs(440))),
            "the boot clock knows better"
        );
    }

    #[test]
    fn accounts_in_trouble_are_due_at_their_next_try_and_ended_ones_never() {
        let next_try = Deadline::after(NOON, Duration::from_secs(5));
        let retry = RetryState::until(RetryReason::Failed, next_try);
        for health in [
            Health::Retrying(retry.clone()),
            Health::Uncertain(retry.clone()),
            Health::Locked(retry.clone()),
            Health::StoreUnwritable(retry.clone()),
            Health::Misconfigured(retry),
        ] {
            let in_trouble = snapshot(health.clone());
            let wait = |at| due(&in_trouble, None, false, false, later(0, at), &settings());
            assert_eq!(wait(4), Some((RefreshReason::Retry, Duration::from_secs(1))));
            assert_eq!(wait(6), Some((RefreshReason::Retry, Duration::ZERO)));
        }
        for health in [
            Health::LoginRequired(LoginReason::LoggedOut),
            Health::StoreError(StoreFault { why: String::new(), login_helps: false }),
            Health::Unsaved(String::new()),
        ] {
            assert_eq!(
                due(
                    &snapshot(health),
                    Some(Age::of(0, NOON)),
                    true,
                    true,
                    later(9_999_999, 9_999_999),
                    &settings()
                ),
                None
            );
        }
    }

    #[test]
    fn an_api_key_is_never_due() {
        let source = super::super::credential::api_key("key", 1);
        let snapshot = Snapshot::of(source, Health::Connected, None, NOON);
        let long_after = later(3600 * DAY as i64, 3600 * DAY);
        assert!(snapshot.usable(long_after).is_some());
        assert_eq!(due(&snapshot, None, true, true, long_after, &settings()), None);
    }

    #[tokio::test]
    async fn a_refused_key_is_asked_about_every_five_minutes_and_used_once_pleo_takes_it() {
        let folder = tempfile::tempdir().unwrap();
        let api = testing::api_answering(&[503, 401, 200, 200]);
        let (scheduler, _commands) = testing::scheduler_with(folder.path(), &api);
        let refused = Health::LoginRequired(LoginReason::KeyRefused);
        let is_refused = |account: &Account| account.peek().health == refused;
        let add = |name: &str| {
            let account = scheduler.registry.get_or_insert(&name.parse().unwrap());
            let mut record = Record::clone(credential::api_key("key", 1).record().unwrap());
            let issued = scheduler.services.issued();
            record.api_key.as_mut().unwrap().api_origin = issued.api_origin;
            account.publish(record, refused.clone(), None);
            account.memory().key_asked_at = Some(scheduler.services.now());
            account
        };
        let look = |seconds: u64| {
            let now = scheduler.services.now();
            scheduler.refresh_due(Now { boot: now.boot + seconds * 1000, ..now });
            scheduler.asking_about_key.try_lock().is_err()
        };
        let answered = || async {
            let answered = scheduler.asking_about_key.lock();
            drop(timeout(Duration::from_secs(20), answered).await.unwrap());
        };
        let acme = add("acme");
        for why in ["no answer that says anything", "refused once more"] {
            assert!(!look(298), "{why}: it was asked about a moment ago");
            assert!(look(300), "{why}");
            answered().await;
            assert!(is_refused(&acme), "{why}");
        }
        let beta = add("beta");
        assert!(look(300));
        answered().await;
        assert_ne!(is_refused(&acme), is_refused(&beta), "one after the other");
        assert!(look(300));
        answered().await;
        assert!(acme.is_well() && beta.is_well());
        assert!(!look(9999), "a key in use is not asked about");
    }

    #[tokio::test(start_paused = true)]
    async fn a_scheduler_that_does_not_wake_up_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (scheduler, commands) = testing::scheduler(folder.path());
        let running = tokio::spawn(scheduler.clone().supervised(commands));
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(scheduler.silence(), None, "it wakes up though nothing happens");
        running.abort();
        tokio::time::sleep(MAX_SILENCE + MAX_SLEEP).await;
        assert!(scheduler.silence().is_some_and(|silence| silence > MAX_SILENCE));
    }

    #[tokio::test]
    async fn a_scheduler_that_starts_again_does_what_the_one_before_had_taken() {
        const PATIENCE: Duration = Duration::from_secs(20);
        let folder = tempfile::tempdir().unwrap();
        let (scheduler, mut commands) = testing::scheduler(folder.path());
        let name = crate::store::AccountName::fallback();
        testing::save_expired(&scheduler.services, &name).await;
        let account = scheduler.registry.get_or_insert(&name);
        scheduler.sync.reload(&account).await;
        assert_eq!(scheduler.silence(), None, "there was none yet");
        let waiting = account.clone();
        tokio::spawn(
            async move { Lease::acquire(&waiting, Instant::now() + PATIENCE).await.map(drop) },
        );
        let taken = async {
            while !matches!(commands.recv().await, Some(SchedulerCommand::Refresh(..))) {}
        };
        timeout(PATIENCE, taken).await.unwrap();
        let commands = Arc::new(tokio::sync::Mutex::new(commands));
        let running = tokio::spawn(scheduler.clone().run(commands.clone()));
        let tried = async {
            while account.memory().last.is_none() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, tried).await.unwrap();
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
        assert!(commands.try_lock().is_ok(), "the commands outlive it");
    }

    /// What may happen between two wake-ups, which are half a minute apart.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Nothing,
        /// The wall clock is set to so many seconds beside the right time.
        Set(i64),
        /// Another process takes over, with the clock set right.
        Restart,
    }

    fn events(may_restart: bool) -> impl Strategy<Value = Vec<Event>> {
        let years = (1..10_i64).prop_map(|years| years * 365 * DAY as i64);
        let set = prop_oneof![-600..600_i64, years.clone(), years.prop_map(|ahead| -ahead)]
            .prop_map(Event::Set);
        let restart = Just(if may_restart { Event::Restart } else { Event::Nothing });
        prop::collection::vec(
            prop_oneof![20 => Just(Event::Nothing), 4 => set, 1 => restart],
            1..1000,
        )
    }

    /// An account with tokens of ten minutes under such clocks; returns when it was refreshed, in
    /// real seconds.
    fn refreshes(events: &[Event], is_warm: bool, settings: &Settings) -> Vec<u64> {
        let (mut beside, mut refreshed) = (0, vec![0]);
        let now = |real: u64, beside: i64| later(real as i64 + beside, real);
        let fresh = |now: Now| {
            (
                snapshot_at(now, Deadline::after(now, Duration::from_secs(600))),
                Age::of(now.wall, now),
                now,
            )
        };
        let (mut current, mut age, mut dated) = fresh(NOON);
        for (tick, event) in events.iter().enumerate() {
            let real = 30 * tick as u64;
            match event {
                Event::Nothing => {}
                Event::Set(seconds) => beside = *seconds,
                Event::Restart => {
                    beside = 0;
                    let now = now(real, beside);
                    let expires_at = dated.wall + 600_000;
                    current = snapshot_at(
                        now,
                        Deadline::from_wall(now, expires_at, Duration::from_secs(600)),
                    );
                    age = Age::of(dated.wall, now);
                }
            }
            let now = now(real, beside);
            if due(&current, Some(age), is_warm, false, now, settings)
                .is_some_and(|(_, wait)| wait.is_zero())
            {
                (current, age, dated) = fresh(now);
                refreshed.push(real);
            }
        }
        refreshed
    }

    fn snapshot_at(now: Now, deadline: Deadline) -> Snapshot {
        let mut snapshot = snapshot(Health::Connected);
        let lifetime = Duration::from_secs(600);
        let expiry = Some(Expiry { deadline, lifetime });
        snapshot.credential =
            snapshot.credential.map(|it| Credential { expiry, since: now.boot, ..it });
        snapshot
    }

    proptest! {
        #[test]
        fn no_history_of_the_wall_clock_makes_a_storm_or_lets_a_token_expire(events in events(false)) {
            let refreshed = refreshes(&events, true, &settings());
            for pair in refreshed.windows(2) {
                let apart = pair[1] - pair[0];
                prop_assert!((60..=540 + 30).contains(&apart), "{apart} s apart: {refreshed:?}");
            }
        }

        #[test]
        fn no_history_of_the_wall_clock_puts_an_idle_refresh_off_or_repeats_it(events in events(true)) {
            let settings = Settings { idle_refresh: Duration::from_secs(3600), ..settings() };
            let refreshed = refreshes(&events, false, &settings);
            let end = 30 * (events.len() as u64 - 1);
            let restarts = events.iter().filter(|event| matches!(event, Event::Restart)).count() as u64;
            for pair in [refreshed.as_slice(), &[end]].concat().windows(2) {
                prop_assert!(pair[1] - pair[0] <= 3600 + 600 + 60, "{refreshed:?}, the end at {end}");
            }
            prop_assert!(refreshed.len() as u64 <= 1 + end / 600 + restarts, "{refreshed:?}, {restarts} restarts");
        }

        #[test]
        fn no_reading_of_the_clocks_panics(wall in any::<i64>(), boot in any::<u64>(), at in any::<i64>()) {
            let now = Now { wall, boot };
            for age in [Age::of(at, now), Age::of(at, NOON)] {
                let _ = due(&snapshot(Health::Connected), Some(age), true, true, now, &settings());
            }
            let next_try = Deadline { wall: at, boot };
            let retry = RetryState { unsent_since: Some(boot), ..RetryState::until(RetryReason::Failed, next_try) };
            let _ = snapshot(Health::Retrying(retry)).decide(now, Duration::MAX, boot);
        }
    }
}
