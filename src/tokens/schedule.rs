//! When accounts are looked after without being asked: near expiry, at the next try, against lapsing, and whenever
//! another process may have changed a record. One task for all accounts: work out the next wake, sleep until then or
//! until told.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::account::{Account, Wish};
use super::refresh::Reason;
use super::snapshot::{Health, Snapshot};
use super::{Accounts, Settings};
use crate::clock::{Deadline, Now, millis};

/// Longest sleep: `Instant` stands still in suspend, so both clocks are looked at this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
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

/// Why and in how long an account wants a refresh by itself; none if it can wait for a request.
pub(super) fn due(
    snapshot: &Snapshot,
    refreshed_at: Option<i64>,
    warm: bool,
    now: Now,
    settings: &Settings,
) -> Option<(Reason, Duration)> {
    match &snapshot.health {
        Health::Connected => {
            let lapsing = refreshed_at.map(|at| at.saturating_add_unsigned(millis(settings.keep_alive)));
            let alive = lapsing.map(|wall| {
                let left = u64::try_from(wall.saturating_sub(now.wall)).unwrap_or(0);
                (Reason::KeepAlive, Duration::from_millis(left))
            });
            let credential = snapshot.credential.as_ref().filter(|_| warm);
            let margin = credential.map(|it| (Reason::Margin, it.deadline.remaining(now).saturating_sub(it.margin())));
            [alive, margin].into_iter().flatten().min_by_key(|(_, wait)| *wait)
        }
        health => health.next_try().map(|next_try| (Reason::Retry, next_try.remaining(now))),
    }
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
            let sleep = if watched.is_empty() { next } else { next.min(LOOK) };
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
    for account in accounts.all() {
        let snapshot = account.snapshot();
        let warm = account.is_warm(now);
        if warm || snapshot.health != Health::Connected {
            watched.push(account.clone());
        }
        let due = due(&snapshot, account.refreshed_at(), warm, now, accounts.settings());
        let due =
            due.or_else(|| accounts.secret_changed(&account, &snapshot).then_some((Reason::Retry, Duration::ZERO)));
        match due {
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
