//! The check of this machine's clock, against the `Date` of the servers' responses.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::finding::{Check, Finding};
use crate::diagnostic::{Code, Diagnostic};

/// A difference up to this is normal: `Date` has whole seconds, and a response may be cached.
const TOLERANCE: Duration = Duration::from_secs(60);

/// How far a server's clock is ahead of ours.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    server: String,
    ahead_ms: i128,
}

impl Reading {
    /// Of a server that said `theirs` when it was asked at `ours`.
    pub(super) fn new(server: String, theirs: SystemTime, ours: SystemTime) -> Self {
        Self { server, ahead_ms: millis(theirs) - millis(ours) }
    }
}

fn millis(time: SystemTime) -> i128 {
    let since = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    i128::try_from(since).unwrap_or(i128::MAX)
}

/// Compares with the server whose clock is nearest to ours: one that is wrong itself makes no alarm
/// as long as another one agrees with us.
pub(super) fn check(readings: &[Reading]) -> Finding {
    let Some(nearest) = readings.iter().min_by_key(|reading| reading.ahead_ms.abs()) else {
        return Check::Clock.skip("no server said what time it is");
    };
    let off =
        Duration::from_millis(u64::try_from(nearest.ahead_ms.unsigned_abs()).unwrap_or(u64::MAX));
    let server = &nearest.server;
    if off <= TOLERANCE {
        return Check::Clock.pass(format!("it agrees with that of {server}"));
    }
    let seconds = off.as_secs();
    let (minutes, rest) = (seconds / 60, seconds % 60);
    let which = if nearest.ahead_ms > 0 { "behind" } else { "ahead of" };
    let title = format!("this machine's clock is {minutes} min {rest} s {which} that of {server}");
    let fix = "set the clock, and keep it right by NTP (timedatectl set-ntp true): certificates and the age of tokens \
               are judged by it";
    Check::Clock.problem(Diagnostic::warning(Code::Clock, title, fix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(ahead_s: i64) -> Reading {
        Reading { server: format!("s{ahead_s}"), ahead_ms: i128::from(ahead_s) * 1000 }
    }

    #[test]
    fn the_nearest_clock_decides_and_the_direction_is_named() {
        let text =
            |ahead: &[i64]| check(&ahead.iter().copied().map(reading).collect::<Vec<_>>()).text();
        assert!(text(&[]).starts_with("skip"));
        assert!(text(&[600, 3]).starts_with("pass"), "one server agrees");
        assert!(text(&[-60]).starts_with("pass"));
        assert!(text(&[605]).contains("is 10 min 5 s behind that of s605"), "{}", text(&[605]));
        assert!(text(&[-61, 900]).contains("1 min 1 s ahead of that of s-61"));
        assert!(text(&[605]).contains("fix: set the clock"));
    }
}
