//! Numbers for the page: charts and rates.

use super::protocol::{AccountRate, CaptureState, Impatient, ProgramRate, Rate, Refresh, Stats};
use super::state::Admin;
use crate::accounts::{Account, rate};
use crate::clock::millis;
use crate::log::stats::SLICE;

/// The slices and refreshes that began at `from` (UNIX milliseconds) or later.
pub(super) fn stats_since(admin: &Admin, from: i64) -> Stats {
    let refreshes = admin.operator.accounts().refreshes_since(from).into_iter();
    let refreshes = refreshes.map(|refresh| Refresh {
        at: refresh.at,
        account: refresh.account.to_string(),
        reason: refresh.reason.as_str().to_owned(),
        outcome: refresh.outcome.to_owned(),
        duration_ms: millis(refresh.took),
        held: refresh.waiting,
    });
    Stats { slice_ms: SLICE, slices: admin.log.slices(from), refreshes: refreshes.collect() }
}

/// The requests of the last minute.
pub(super) fn current_rate(admin: &Admin) -> Rate {
    let accounts = admin.operator.accounts().all();
    let mut accounts: Vec<_> =
        accounts.iter().filter_map(|account| account_rate(admin, account)).collect();
    accounts.sort_by_key(|account| std::cmp::Reverse(account.last_minute));
    Rate { limit: rate::LIMIT, recommended: rate::RECOMMENDED, pace: admin.pace, accounts }
}

fn account_rate(admin: &Admin, account: &Account) -> Option<AccountRate> {
    let now = account.now().boot;
    let (last_minute, wait) = (account.rate.last_minute(now), account.rate.wait(now));
    if last_minute == 0 && wait.is_none() {
        return None;
    }
    let sent = admin.log.sent_by_programs(&account.name);
    let impatient = sent.iter().filter(|sent| sent.impatient > 0);
    let impatient =
        impatient.map(|it| Impatient { program: it.program.clone(), requests: it.impatient });
    Some(AccountRate {
        account: account.name.to_string(),
        last_minute,
        retry_after_s: wait.map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0)),
        retried_inside: impatient.collect(),
        programs: sent
            .into_iter()
            .map(|it| ProgramRate { program: it.program, last_minute: it.requests })
            .collect(),
    })
}

/// What is kept of headers and bodies.
pub(super) fn capture_state(admin: &Admin) -> CaptureState {
    let capturing = &admin.log.recorders().capturing;
    let (bodies, bytes) = capturing.captured();
    let window = capturing.window();
    CaptureState {
        active: window.is_some(),
        until: window.as_ref().map(|window| window.until_wall),
        account: window.and_then(|window| Some(window.account.as_ref()?.to_string())),
        bodies,
        bytes,
    }
}
