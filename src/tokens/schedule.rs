//! When accounts are looked after without being asked: near expiry, at the next try, against lapsing, and whenever
//! another process may have changed a record. One task for all accounts: work out the next wake, sleep until then or
//! until told.

use std::cell::LazyCell;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::account::{Account, Wish};
use super::refresh::Reason;
use super::snapshot::{Health, Snapshot, Trouble};
use super::{Accounts, Settings};
use crate::clock::{Age, Deadline, Now};

/// Longest sleep: `Instant` stands still in suspend, so both clocks are looked at this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// Token requests under way beyond which none is begun just to keep a grant alive: after weeks of rest, or a jump of
/// the clock, all accounts are due at once.
const KEPT_ALIVE_AT_ONCE: usize = 8;
/// How often the records of used or troubled accounts are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// First and longest wait between attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Longest wait before a full or read-only disk is tried again: nobody is bothered by it but ourselves.
pub(super) const DISK_RETRY: Duration = Duration::from_secs(15);

/// The wait after a number of failed attempts in a row: doubling, from one second to five minutes, a quarter of it at
/// random so that many proxies do not return at once.
pub(super) fn backoff(attempts: u32) -> Duration {
    let (first, longest) = BACKOFF;
    let full = first.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(longest);
    let mut random = [0_u8; 1];
    // Without randomness the wait is merely a regular one.
    let _ = getrandom::fill(&mut random);
    full - full.mul_f64(0.25 * f64::from(random[0]) / 255.0)
}

/// Why and in how long an account wants a refresh by itself; none if it can wait for a request. `waited_for` tells that
/// a request waits already.
pub(super) fn due(
    snapshot: &Snapshot,
    age: Option<Age>,
    warm: bool,
    waited_for: bool,
    now: Now,
    settings: &Settings,
) -> Option<(Reason, Duration)> {
    if snapshot.health != Health::Connected {
        let wait =
            |trouble: &Trouble| if waited_for { trouble.wait_on_demand(now) } else { trouble.next_try.boot_left(now) };
        return snapshot.health.trouble().map(|trouble| (Reason::Retry, wait(trouble)));
    }
    let alive = age.map(|age| (Reason::KeepAlive, age.until(settings.keep_alive, now)));
    let credential = snapshot.credential.as_ref().filter(|_| warm);
    let margin = credential.map(|credential| (Reason::Margin, credential.left_before_margin(now)));
    [alive, margin].into_iter().flatten().min_by_key(|(_, wait)| *wait)
}

/// Runs until told to close.
pub(super) async fn run(
    accounts: Arc<Accounts>,
    mut wishes: mpsc::UnboundedReceiver<Wish>,
    closing: CancellationToken,
) {
    let mut looked = None;
    let work = async {
        loop {
            let now = accounts.clock().now();
            let (next, watched) = refresh_due(&accounts, now);
            // With no account at all, the first one may come from another process at any time.
            let is_watching = !watched.is_empty() || accounts.unsorted().is_empty();
            let sleep = if is_watching { next.min(LOOK) } else { next };
            if looked.is_none_or(|last: Deadline| last.passed(now)) {
                accounts.look(watched).await;
                looked = Some(Deadline::after(now, LOOK));
            }
            wait(&mut wishes, sleep, &accounts).await;
        }
    };
    closing.run_until_cancelled(work).await;
}

/// Starts what is due; returns when the next is, and the accounts whose records are to be looked at.
fn refresh_due(accounts: &Arc<Accounts>, now: Now) -> (Duration, Vec<Arc<Account>>) {
    let (mut next, mut watched) = (LONGEST_SLEEP, Vec::new());
    // Looked at once a round, and only if somebody was refused with it.
    let secret = LazyCell::new(|| accounts.oauth().secret_stamp());
    for account in accounts.unsorted() {
        let snapshot = account.snapshot();
        let warm = account.is_warm(now);
        if warm || snapshot.health != Health::Connected {
            watched.push(account.clone());
        }
        let due = due(&snapshot, account.age(), warm, account.is_waited_for(), now, accounts.settings());
        let is_refused = matches!(snapshot.health, Health::Misconfigured(_));
        let is_mended = is_refused && account.memory().secret_stamp != *secret;
        let due = due.or(is_mended.then_some((Reason::Retry, Duration::ZERO)));
        match due {
            Some((Reason::KeepAlive, wait)) if wait.is_zero() && accounts.under_way() >= KEPT_ALIVE_AT_ONCE => {
                next = next.min(LOOK);
            }
            Some((reason, wait)) if wait.is_zero() => accounts.start(&account, reason, snapshot.generation),
            Some((_, wait)) => next = next.min(wait),
            None => {}
        }
    }
    (next, watched)
}

/// Sleeps until the time is up or somebody wishes something, and grants all wishes that are there by then.
async fn wait(wishes: &mut mpsc::UnboundedReceiver<Wish>, sleep: Duration, accounts: &Arc<Accounts>) {
    // A millisecond more than told: deadlines are whole milliseconds, timers may be early by a part of one.
    let until = Instant::now() + sleep + Duration::from_millis(1);
    let mut wish = match timeout_at(until, wishes.recv()).await {
        Ok(wish) => wish,
        Err(_) => return,
    };
    while let Some(granted) = wish {
        if let Wish::Refresh(account, reason, generation) = granted {
            accounts.start(&account, reason, generation);
        }
        wish = wishes.try_recv().ok();
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
            keep_alive: Duration::from_secs(7 * DAY),
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
        due(&snapshot(Health::Connected), Some(Age::of(NOON.wall, NOON)), warm, false, now, &settings())
    }

    #[test]
    fn a_warm_account_is_due_one_margin_before_expiry_to_the_second() {
        let seconds = |at| connected(true, later(at, at as u64)).map(|(reason, wait)| (reason, wait.as_secs()));
        assert_eq!(seconds(539), Some((Reason::Margin, 1)));
        assert_eq!(seconds(540), Some((Reason::Margin, 0)));
        assert_eq!(seconds(541), Some((Reason::Margin, 0)));
        assert_eq!(seconds(700), Some((Reason::Margin, 0)));
    }

    #[test]
    fn an_idle_account_waits_for_its_next_request_or_for_keep_alive() {
        let week = 7 * DAY as i64;
        assert_eq!(connected(false, later(700, 700)).map(|(reason, _)| reason), Some(Reason::KeepAlive));
        let alive = |seconds| Some((Reason::KeepAlive, Duration::from_secs(seconds)));
        assert_eq!(connected(false, later(week - 1, DAY * 7 - 1)), alive(1));
        assert_eq!(connected(false, later(week + 1, DAY * 7 + 1)), alive(0));
        assert_eq!(connected(false, later(week, 3600)), alive(0), "the machine was paused for a week");
    }

    #[test]
    fn jumps_of_the_clock_bring_a_refresh_forward_and_never_put_it_off() {
        let ahead = |boot| connected(true, later(10 * 365 * DAY as i64, boot)).map(|(_, wait)| wait.as_secs());
        assert_eq!((ahead(1), ahead(60)), (Some(59), Some(0)), "believed when the token is a minute old");
        // Asleep: the wall clock was stopped too.
        assert_eq!(connected(true, later(0, 600)), Some((Reason::Margin, Duration::ZERO)));
        let back = connected(true, later(-10 * 365 * DAY as i64, 100));
        assert_eq!(back, Some((Reason::Margin, Duration::from_secs(440))), "the boot clock knows better");
    }

    #[test]
    fn troubled_accounts_are_due_at_their_next_try_and_dead_ones_never() {
        let next_try = Deadline::after(NOON, Duration::from_secs(5));
        let trouble = Trouble::until("", next_try);
        for health in [
            Health::Retrying(trouble.clone()),
            Health::Uncertain(trouble.clone()),
            Health::Locked(trouble.clone()),
            Health::StoreUnwritable(trouble),
        ] {
            let troubled = snapshot(health.clone());
            let wait = |at| due(&troubled, None, false, false, later(0, at), &settings());
            assert_eq!(wait(4), Some((Reason::Retry, Duration::from_secs(1))));
            assert_eq!(wait(6), Some((Reason::Retry, Duration::ZERO)));
        }
        for health in [
            Health::LoginRequired(String::new()),
            Health::StoreError(String::new()),
            Health::Misconfigured(String::new()),
            Health::Unsaved(String::new()),
        ] {
            assert_eq!(
                due(&snapshot(health), Some(Age::of(0, NOON)), true, true, later(9_999_999, 9_999_999), &settings()),
                None
            );
        }
    }

    proptest! {
        #[test]
        fn waits_double_from_a_second_to_five_minutes(attempts in 0_u32..200) {
            let wait = backoff(attempts);
            let full = Duration::from_secs(1 << attempts.saturating_sub(1).min(9)).min(Duration::from_secs(300));
            prop_assert!(wait <= full && wait >= full.mul_f64(0.74), "{attempts}: {wait:?}");
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
