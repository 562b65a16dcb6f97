//! Gives the requests of an account their turns under a rate: a short burst at once, then evenly
//! spaced (the generic cell rate algorithm, ITU-T I.371).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long an account must be silent to have its whole burst again, in microseconds: the burst is
/// as many requests as the rate has in this time. With the recommended rate of 500 a minute that
/// makes at most 583 in any minute, below Pleo's limit of 600.
const BURST: u64 = 10_000_000;
const MINUTE: u64 = 60_000_000;

/// The turns of one account. Times are of the boot clock.
#[derive(Debug, Default)]
pub struct Pacer {
    /// When the next turn would be without a burst, in microseconds.
    next: AtomicU64,
}

impl Pacer {
    /// The wait until the turn of one more request at `most` a minute; the turn is taken, also if
    /// the caller leaves before it. `now` is in milliseconds.
    ///
    /// # Errors
    /// The turn is later than `patience`, and is not taken: how long to wait before the next
    /// attempt.
    pub fn take(&self, most: u32, now: u64, patience: Duration) -> Result<Duration, Duration> {
        let (now, interval) = (now * 1000, MINUTE / u64::from(most.max(1)));
        let mut next = self.next.load(Ordering::Relaxed);
        loop {
            let turn = next.max(now);
            let wait = Duration::from_micros((turn - now).saturating_sub(BURST));
            if wait > patience {
                return Err(wait - patience);
            }
            let after = turn + interval;
            match self.next.compare_exchange_weak(next, after, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Ok(wait),
                Err(other) => next = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 5_000_000;
    const HOLD: Duration = Duration::from_secs(15);

    #[test]
    fn a_burst_goes_at_once_and_then_turns_are_evenly_spaced() {
        let pacer = Pacer::default();
        let waits: Vec<_> =
            (0..90).map(|_| pacer.take(500, START, HOLD).unwrap().as_millis()).collect();
        assert_eq!(waits.iter().filter(|wait| **wait == 0).count(), 84);
        assert_eq!(waits[84..], [80, 200, 320, 440, 560, 680]);
    }

    #[test]
    fn in_no_minute_are_there_more_than_the_limit() {
        for step in [0, 1, 7, 50, 119, 121, 500] {
            let (pacer, mut now, mut turns) = (Pacer::default(), START, Vec::new());
            while now < START + 180_000 {
                match pacer.take(500, now, HOLD) {
                    Ok(wait) => turns.push(now + wait.as_millis() as u64),
                    Err(wait) => now += wait.as_millis() as u64,
                }
                now += step;
            }
            let within =
                |from: u64| turns.iter().filter(|at| (from..from + 60_000).contains(*at)).count();
            let most = turns.iter().map(|from| within(*from)).max().unwrap();
            assert!(most <= 600, "{step}: {most}");
        }
    }

    #[test]
    fn a_turn_that_comes_too_late_is_not_taken() {
        let pacer = Pacer::default();
        let taken = (0..1000).filter(|_| pacer.take(60, START, Duration::from_secs(1)).is_ok());
        assert_eq!(taken.count(), 12);
        let wait = pacer.take(60, START, Duration::from_secs(1)).unwrap_err();
        assert_eq!(wait, Duration::from_secs(1));
        assert!(pacer.take(60, START + 1000, Duration::from_secs(1)).is_ok());
    }
}
