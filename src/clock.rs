//! Time that survives suspend and clock changes.
//!
//! `std::time::Instant` stands still while a Linux or macOS machine sleeps, so a ten-minute token
//! would look fresh after a night; the wall clock can be set back. A [`Deadline`] therefore holds
//! both readings and has passed as soon as either says so.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::platform::boot_millis;

/// A reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970-01-01 UTC.
    pub wall: i64,
    /// Milliseconds since boot, time asleep included.
    pub boot: u64,
}

/// A future instant, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// Milliseconds since 1970-01-01 UTC.
    pub wall: i64,
    /// Milliseconds since boot, time asleep included.
    pub boot: u64,
}

impl Deadline {
    /// The instant `wait` after `now`.
    pub fn after(now: Now, wait: Duration) -> Self {
        let wait = millis(wait);
        Self { wall: now.wall.saturating_add_unsigned(wait), boot: now.boot.saturating_add(wait) }
    }

    /// A stored wall time, at most `longest` from now: a clock that was set back must not extend
    /// it.
    pub fn from_wall(now: Now, wall: i64, longest: Duration) -> Self {
        let ahead = since(wall, now.wall).min(millis(longest));
        Self {
            wall: wall.min(now.wall.saturating_add_unsigned(ahead)),
            boot: now.boot.saturating_add(ahead),
        }
    }

    /// True once either clock has reached it.
    pub fn passed(self, now: Now) -> bool {
        now.wall >= self.wall || now.boot >= self.boot
    }

    /// Time left by the clock that is further ahead; zero once passed.
    pub fn remaining(self, now: Now) -> Duration {
        self.wall_left(now).min(self.boot_left(now))
    }

    /// Time left by the boot clock alone: for pauses of this process, which no change of the wall
    /// clock shortens.
    pub fn boot_left(self, now: Now) -> Duration {
        Duration::from_millis(self.boot.saturating_sub(now.boot))
    }

    /// Time left by the wall clock alone.
    pub fn wall_left(self, now: Now) -> Duration {
        Duration::from_millis(since(self.wall, now.wall))
    }
}

/// The age of something that another run or process dated with a clock that may have been wrong.
/// The time that passes in this process always counts. The wall clock counts too, because it alone
/// notices that a machine was paused, but only after [`Age::BELIEVED`]: a clock that jumps back and
/// forth can make something old a few times an hour, not at each jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    dated: i64,
    seen: Now,
    /// Age in milliseconds when it was seen; none if it was dated in the future, so unknown.
    then: Option<u64>,
}

impl Age {
    /// Time in this process after which the wall clock counts. A date that is no further in the
    /// future than this is taken for the present.
    pub const BELIEVED: Duration = Duration::from_secs(600);

    /// The age of what is seen now and dated `wall`.
    pub fn of(wall: i64, now: Now) -> Self {
        let ahead = Duration::from_millis(since(wall, now.wall));
        let then = (ahead <= Self::BELIEVED).then(|| since(now.wall, wall));
        Self { dated: wall, seen: now, then }
    }

    /// The time until it is `limit` old; zero if its age is not known.
    pub fn until(self, limit: Duration, now: Now) -> Duration {
        let Some(then) = self.then else { return Duration::ZERO };
        let here = Duration::from_millis(now.boot.saturating_sub(self.seen.boot));
        let by_boot = limit.saturating_sub(Duration::from_millis(then).saturating_add(here));
        let by_wall = limit.saturating_sub(Duration::from_millis(since(now.wall, self.dated)));
        by_boot.min(by_wall.max(Self::BELIEVED.saturating_sub(here)))
    }
}

/// The end of a time by the boot clock, which it looks at itself: whoever it is handed to can ask as
/// late as possible whether it has come.
#[derive(Clone, Debug)]
pub struct TimeLimit {
    clock: Clock,
    end: u64,
}

impl TimeLimit {
    /// Ends at this reading of the boot clock, in milliseconds.
    pub fn at(clock: Clock, end: u64) -> Self {
        Self { clock, end }
    }

    /// The time left; zero once it is over.
    pub fn left(&self) -> Duration {
        Duration::from_millis(self.end.saturating_sub(self.clock.boot()))
    }

    /// True once it is over.
    pub fn is_over(&self) -> bool {
        self.left().is_zero()
    }
}

/// Milliseconds from `then` to `now`; zero if the clock was set back meanwhile.
pub fn since(now: i64, then: i64) -> u64 {
    u64::try_from(now.saturating_sub(then)).unwrap_or(0)
}

/// The source of the time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Arc<Mutex<Now>>),
    Paused(tokio::time::Instant),
}

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still until [`set`](Self::set), for tests that jump.
    pub fn manual(now: Now) -> Self {
        Self(Source::Manual(Arc::new(Mutex::new(now))))
    }

    /// A clock that follows Tokio's, for tests in paused time.
    pub fn paused() -> Self {
        Self(Source::Paused(tokio::time::Instant::now()))
    }

    /// Sets a manual clock; has no effect on another one.
    pub fn set(&self, now: Now) {
        if let Source::Manual(shared) = &self.0 {
            *shared.lock() = now;
        }
    }

    /// Milliseconds since boot, time asleep included.
    pub fn boot(&self) -> u64 {
        match &self.0 {
            Source::System => boot_millis(),
            Source::Manual(_) | Source::Paused(_) => self.now().boot,
        }
    }

    /// Both readings, taken together.
    pub fn now(&self) -> Now {
        match &self.0 {
            Source::System => system_now(),
            Source::Manual(shared) => *shared.lock(),
            Source::Paused(start) => {
                let passed = millis(start.elapsed());
                Now {
                    wall: 1_800_000_000_000_i64.saturating_add_unsigned(passed),
                    boot: 1_000_000 + passed,
                }
            }
        }
    }
}

fn system_now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { wall: i64::try_from(wall.as_millis()).unwrap_or(i64::MAX), boot: boot_millis() }
}

/// Whole milliseconds, saturating.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A wall time as text: RFC 3339, UTC, whole seconds.
pub fn rfc3339(wall: i64) -> String {
    let seconds = jiff::Timestamp::from_second(wall.div_euclid(1000)).unwrap_or_default();
    seconds.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Now = Now { wall: 1_800_000_000_000, boot: 5_000_000 };

    fn later(now: Now, wall: i64, boot: u64) -> Now {
        Now { wall: now.wall + wall, boot: now.boot + boot }
    }

    #[test]
    fn passes_by_either_clock() {
        let deadline = Deadline::after(NOON, Duration::from_secs(10));
        assert!(!deadline.passed(later(NOON, 9_999, 9_999)));
        assert!(deadline.passed(later(NOON, 0, 10_000)), "asleep with a stopped wall clock");
        assert!(deadline.passed(later(NOON, 10_000, 0)), "wall clock set ahead");
        assert!(deadline.passed(later(NOON, -86_400_000, 10_000)), "wall clock set back");
    }

    #[test]
    fn remaining_follows_the_faster_clock_and_never_underflows() {
        let deadline = Deadline::after(NOON, Duration::from_secs(10));
        assert_eq!(deadline.remaining(later(NOON, 4_000, 1_000)), Duration::from_secs(6));
        assert_eq!(deadline.remaining(later(NOON, -999_999_999, 50_000)), Duration::ZERO);
        assert_eq!(deadline.remaining(Now { wall: i64::MAX, boot: u64::MAX }), Duration::ZERO);
    }

    #[test]
    fn a_stored_expiry_is_believed_for_a_day_at_most() {
        let day = Duration::from_secs(86_400);
        let far = Deadline::from_wall(NOON, NOON.wall + 10 * 86_400_000, day);
        assert_eq!(far.remaining(NOON), day);
        let past = Deadline::from_wall(NOON, NOON.wall - 1, day);
        assert!(past.passed(NOON));
        assert!(Deadline::from_wall(NOON, i64::MIN, day).passed(NOON));
    }

    #[test]
    fn a_pause_of_this_process_is_not_changed_by_the_wall_clock() {
        let deadline = Deadline::after(NOON, Duration::from_secs(10));
        for jump in [-86_400_000, 0, 86_400_000] {
            assert_eq!(
                deadline.boot_left(later(NOON, jump, 4_000)),
                Duration::from_secs(6),
                "{jump}"
            );
        }
    }

    #[test]
    fn a_date_of_a_wrong_clock_is_as_old_as_the_time_that_passed_since() {
        let (year, day, hour) = (365 * 86_400_000_i64, Duration::from_secs(86_400), 3_600_000);
        let until = |dated: i64, wall, boot| {
            Age::of(NOON.wall + dated, NOON).until(day, later(NOON, wall, boot))
        };
        assert_eq!(until(-hour, hour, 3_600_000), day - Duration::from_secs(7200));
        assert_eq!(
            until(-hour, -year, 3_600_000),
            day - Duration::from_secs(7200),
            "set back after it was seen"
        );
        assert_eq!(
            until(60_000, 60_000, 60_000),
            day - Duration::from_secs(60),
            "a little ahead is now"
        );
        assert_eq!(until(year, 0, 0), Duration::ZERO, "far ahead: its age is not known");
        assert_eq!(until(-NOON.wall, 0, 0), Duration::ZERO, "dated 1970");
        assert_eq!(until(0, year, 0), Age::BELIEVED, "set ahead: believed after a while");
        assert_eq!(until(0, year, millis(Age::BELIEVED)), Duration::ZERO);
        assert_eq!(
            until(0, -year, 86_400_000),
            Duration::ZERO,
            "the time that ran here counts in any case"
        );
        for odd in [i64::MIN, i64::MAX] {
            let _ = Age::of(odd, NOON).until(day, Now { wall: odd, boot: u64::MAX });
            let _ = Age::of(0, Now { wall: odd, boot: 0 }).until(Duration::MAX, NOON);
        }
    }

    #[test]
    fn time_stamps_are_rfc_3339() {
        assert_eq!(rfc3339(1_800_000_000_999), "2027-01-15T08:00:00Z");
    }
}
