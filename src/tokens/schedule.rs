//! When accounts are looked after without being asked: near expiry, at the next try, against
//! lapsing, and whenever another process may have changed a record. One task for all accounts: work
//! out the next wake, sleep until then or until told.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, timeout_at};

use super::account::{Account, Wish};
use super::refresh::Reason;
use super::snapshot::{Health, Snapshot, Trouble};
use super::{Accounts, Settings};
use crate::clock::{Age, Deadline, Now};
use crate::supervise::supervise;

/// Longest sleep: `Instant` stands still in suspend, so both clocks are looked at this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// Silence beyond which the scheduler does not answer.
const LONGEST_SILENCE: Duration = LONGEST_SLEEP.saturating_mul(2);
/// Shortest distance between two rounds over all accounts.
const ROUND: Duration = Duration::from_millis(20);
/// How often the store's changes are polled while accounts are in use or in trouble.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// First and longest wait between attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// The same while a setting is wrong, before the random part is taken off: 60 s to five minutes.
const MISCONFIGURED: (Duration, Duration) = (Duration::from_secs(80), Duration::from_secs(300));
/// Longest wait before a full or read-only disk is tried again: nobody is bothered by it but
/// ourselves.
pub(super) const DISK_RETRY: Duration = Duration::from_secs(15);

/// The same when files or threads were wanting for a moment.
pub(super) const SCARCE_RETRY: Duration = Duration::from_secs(2);

/// The wait after a number of failed attempts in a row: doubling, from one second to five minutes,
/// a quarter of it at random so that many proxies do not return at once.
pub(super) fn backoff(attempts: u32) -> Duration {
    growing(BACKOFF, attempts)
}

/// The wait after a number of refusals in a row that say that a setting is wrong.
pub(super) fn misconfigured_wait(refusals: u32) -> Duration {
    growing(MISCONFIGURED, refusals)
}

fn growing((first, longest): (Duration, Duration), attempts: u32) -> Duration {
    let full = first.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(longest);
    let mut random = [0_u8; 1];
    // Without randomness the wait is merely a regular one.
    let _ = getrandom::fill(&mut random);
    full - full.mul_f64(0.25 * f64::from(random[0]) / 255.0)
}

/// Why and in how long an account wants a refresh by itself; none if it can wait for a request.
/// `waited_for` tells that a request waits already.
pub(super) fn due(
    snapshot: &Snapshot,
    age: Option<Age>,
    warm: bool,
    waited_for: bool,
    now: Now,
    settings: &Settings,
) -> Option<(Reason, Duration)> {
    if snapshot.health != Health::Connected {
        let wait = |trouble: &Trouble| {
            if waited_for { trouble.wait_on_demand(now) } else { trouble.next_try.boot_left(now) }
        };
        return snapshot.health.trouble().map(|trouble| (Reason::Retry, wait(trouble)));
    }
    let alive = age.map(|age| (Reason::IdleRefresh, age.until(settings.idle_refresh, now)));
    let credential = snapshot.credential.as_ref().filter(|_| warm);
    let margin = credential.map(|credential| (Reason::Margin, credential.left_before_margin(now)));
    [alive, margin].into_iter().flatten().min_by_key(|(_, wait)| *wait)
}

impl Accounts {
    /// Looks after the accounts until the end. What was wished outlives a scheduler that breaks
    /// off.
    pub(super) async fn schedule(self: Arc<Self>, granted: mpsc::UnboundedReceiver<Wish>) {
        let granted = Arc::new(Mutex::new(granted));
        let start = || run(self.clone(), granted.clone());
        supervise("scheduler", &self.supervisor, &self.closing, start).await;
    }

    /// For how long the scheduler has not been awake; none if that is no longer than usual, or if
    /// there is none. Time asleep does not count.
    pub fn scheduler_silence(&self) -> Option<Duration> {
        let silence = self.heard.lock().as_ref()?.elapsed();
        (silence > LONGEST_SILENCE).then_some(silence)
    }

    /// The scheduler is awake.
    fn heartbeat(&self) {
        *self.heard.lock() = Some(Instant::now());
    }

    /// What a scheduler that broke off had taken and not granted is wished anew by whoever waits
    /// for it.
    fn wish_anew(&self) {
        for account in self.map.iter() {
            account.wish_granted();
            account.gate.tell();
        }
    }
}

/// Runs for ever. Nothing that may hang or panic is done here: refreshes and polls of the store run
/// on tasks of their own.
pub(super) async fn run(
    accounts: Arc<Accounts>,
    wishes: Arc<Mutex<mpsc::UnboundedReceiver<Wish>>>,
) {
    let mut wishes = wishes.lock().await;
    accounts.wish_anew();
    let mut next_poll: Option<Deadline> = None;
    loop {
        accounts.heartbeat();
        let now = accounts.clock().now();
        let (next, watched) = refresh_due(&accounts, now);
        // With no account at all, the first one may come from another process at any time.
        let is_watching = !watched.is_empty() || accounts.unsorted().is_empty();
        let sleep = if is_watching { next.min(POLL_INTERVAL) } else { next };
        if next_poll.is_none_or(|next| next.boot_left(now).is_zero()) {
            accounts.start_polling_changes(watched);
            next_poll = Some(Deadline::after(now, POLL_INTERVAL));
        }
        wait(&mut wishes, sleep, &accounts).await;
    }
}

/// Starts what is due; returns when the next is, and the accounts whose records are to be watched.
fn refresh_due(accounts: &Arc<Accounts>, now: Now) -> (Duration, Vec<Arc<Account>>) {
    let (mut next, mut watched) = (LONGEST_SLEEP, Vec::new());
    for account in accounts.unsorted() {
        let snapshot = account.snapshot();
        let warm = account.is_warm(now);
        if warm || snapshot.health != Health::Connected {
            watched.push(account.clone());
        }
        match due(&snapshot, account.age(), warm, account.is_waited_for(), now, accounts.settings())
        {
            // It would only wait: the end of another one is noticed.
            Some((Reason::IdleRefresh, wait))
                if wait.is_zero() && accounts.limiter.is_busy_for_idle() =>
            {
                next = next.min(POLL_INTERVAL);
            }
            Some((reason, wait)) if wait.is_zero() => {
                accounts.start(&account, reason, snapshot.generation)
            }
            Some((_, wait)) => next = next.min(wait),
            None => {}
        }
    }
    (next, watched)
}

/// Sleeps until the time is up or somebody has something looked at, and grants all wishes that come
/// meanwhile.
async fn wait(
    wishes: &mut mpsc::UnboundedReceiver<Wish>,
    sleep: Duration,
    accounts: &Arc<Accounts>,
) {
    let began = Instant::now();
    // A millisecond more than told: deadlines are whole milliseconds, timers may be early by a part
    // of one.
    let mut until = began + sleep + Duration::from_millis(1);
    while let Ok(Some(wish)) = timeout_at(until, wishes.recv()).await {
        match wish {
            Wish::Refresh(account, reason, generation) => {
                accounts.start(&account, reason, generation)
            }
            // With thousands of accounts a round takes a while, and a refresh causes several of
            // these.
            Wish::Look => until = until.min(began + ROUND),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::super::snapshot::Credential;
    use super::*;

    const NOON: Now = Now { wall: 1_800_000_000_000, boot: 5_000_000 };
    const DAY: u64 = 86_400;

    fn settings() -> Settings {
        Settings {
            drain: Duration::from_secs(2),
            hold: Duration::from_secs(15),
            keep_warm: Duration::from_secs(600),
            idle_refresh: Duration::from_secs(7 * DAY),
            default_account: None,
        }
    }

    fn snapshot(health: Health) -> Snapshot {
        let credential = Credential {
            header: HeaderValue::from_static("Bearer x"),
            deadline: Deadline::after(NOON, Duration::from_secs(600)),
            life: Duration::from_secs(600),
            since: NOON.boot,
        };
        Snapshot { generation: 1, health, credential: Some(credential) }
    }

    fn later(wall: i64, boot: u64) -> Now {
        Now { wall: NOON.wall + wall * 1000, boot: NOON.boot + boot * 1000 }
    }

    fn connected(warm: bool, now: Now) -> Option<(Reason, Duration)> {
        due(
            &snapshot(Health::Connected),
            Some(Age::of(NOON.wall, NOON)),
            warm,
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
        assert_eq!(seconds(539), Some((Reason::Margin, 1)));
        assert_eq!(seconds(540), Some((Reason::Margin, 0)));
        assert_eq!(seconds(541), Some((Reason::Margin, 0)));
        assert_eq!(seconds(700), Some((Reason::Margin, 0)));
    }

    #[test]
    fn an_idle_account_waits_for_its_next_request_or_for_idle_refresh() {
        let week = 7 * DAY as i64;
        assert_eq!(
            connected(false, later(700, 700)).map(|(reason, _)| reason),
            Some(Reason::IdleRefresh)
        );
        let alive = |seconds| Some((Reason::IdleRefresh, Duration::from_secs(seconds)));
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
        assert_eq!(connected(true, later(0, 600)), Some((Reason::Margin, Duration::ZERO)));
        let back = connected(true, later(-10 * 365 * DAY as i64, 100));
        assert_eq!(
            back,
            Some((Reason::Margin, Duration::from_secs(440))),
            "the boot clock knows better"
        );
    }

    #[test]
    fn troubled_accounts_are_due_at_their_next_try_and_dead_ones_never() {
        let next_try = Deadline::after(NOON, Duration::from_secs(5));
        let trouble = Trouble::until("", next_try);
        for health in [
            Health::Retrying(trouble.clone()),
            Health::Uncertain(trouble.clone()),
            Health::Locked(trouble.clone()),
            Health::StoreUnwritable(trouble.clone()),
            Health::Misconfigured(trouble),
        ] {
            let troubled = snapshot(health.clone());
            let wait = |at| due(&troubled, None, false, false, later(0, at), &settings());
            assert_eq!(wait(4), Some((Reason::Retry, Duration::from_secs(1))));
            assert_eq!(wait(6), Some((Reason::Retry, Duration::ZERO)));
        }
        for health in [
            Health::LoginRequired(super::super::reason::LoginReason::LoggedOut),
            Health::StoreError(String::new()),
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

    #[tokio::test(start_paused = true)]
    async fn a_scheduler_that_does_not_wake_up_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (accounts, granted) = super::super::tests::accounts(folder.path());
        let scheduler = tokio::spawn(accounts.clone().schedule(granted));
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(accounts.scheduler_silence(), None, "it wakes up though nothing happens");
        scheduler.abort();
        tokio::time::sleep(LONGEST_SILENCE + LONGEST_SLEEP).await;
        assert!(accounts.scheduler_silence().is_some_and(|silence| silence > LONGEST_SILENCE));
    }

    /// What may happen between two looks, which are half a minute apart.
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
    fn refreshes(events: &[Event], warm: bool, settings: &Settings) -> Vec<u64> {
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
            if due(&current, Some(age), warm, false, now, settings)
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
        snapshot.credential =
            snapshot.credential.map(|it| Credential { deadline, since: now.boot, ..it });
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
        fn waits_double_from_a_second_to_five_minutes(attempts in 0_u32..200) {
            let wait = backoff(attempts);
            let full = Duration::from_secs(1 << attempts.saturating_sub(1).min(9)).min(Duration::from_secs(300));
            prop_assert!(wait <= full && wait >= full.mul_f64(0.74), "{attempts}: {wait:?}");
        }

        #[test]
        fn a_wrong_setting_is_tried_again_after_one_to_five_minutes(refusals in 1_u32..200) {
            let wait = misconfigured_wait(refusals).as_secs();
            prop_assert!((59..=300).contains(&wait), "{refusals}: {wait} s");
            prop_assert!(refusals < 3 || wait >= 222, "{refusals}: {wait} s");
        }

        #[test]
        fn no_reading_of_the_clocks_panics(wall in any::<i64>(), boot in any::<u64>(), at in any::<i64>()) {
            let now = Now { wall, boot };
            for age in [Age::of(at, now), Age::of(at, NOON)] {
                let _ = due(&snapshot(Health::Connected), Some(age), true, true, now, &settings());
            }
            let trouble = Trouble { unsent: Some(boot), ..Trouble::until("", Deadline { wall: at, boot }) };
            let _ = snapshot(Health::Retrying(trouble)).decide(now, Duration::MAX, boot);
        }
    }
}
