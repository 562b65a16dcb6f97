//! Pleo's rate limit: so many requests in any minute, for each client and company.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::subject::Subject;

const WINDOW: Duration = Duration::from_secs(60);

/// The times of the requests of the last minute. There is one client, so the subject of the token
/// says whose they are; a refresh changes nothing.
#[derive(Default)]
pub(crate) struct RateLimiter(HashMap<Subject, VecDeque<Instant>>);

impl RateLimiter {
    /// Counts a request, or says after how many seconds (at least 1) the next one is admitted. At
    /// most `limit` requests are remembered for each subject.
    pub(crate) fn admit(&mut self, subject: Subject, limit: u32, now: Instant) -> Result<(), u64> {
        let times = self.0.entry(subject).or_default();
        while times.front().is_some_and(|time| now.duration_since(*time) >= WINDOW) {
            times.pop_front();
        }
        let excess = times.len().checked_sub(limit as usize);
        match excess.and_then(|excess| times.get(excess)) {
            None => {
                times.push_back(now);
                Ok(())
            }
            Some(leaves) => {
                let wait = WINDOW.saturating_sub(now.duration_since(*leaves));
                Err(wait.as_millis().div_ceil(1000).max(1) as u64)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_a_minute_after_it_was_taken() {
        let (mut limiter, start) = (RateLimiter::default(), Instant::now());
        let mut admit =
            |seconds| limiter.admit(Subject::FirstCompany, 2, start + Duration::from_secs(seconds));
        assert_eq!((admit(0), admit(20), admit(30)), (Ok(()), Ok(()), Err(30)));
        assert_eq!((admit(59), admit(60), admit(61)), (Err(1), Ok(()), Err(19)));
    }

    #[test]
    fn companies_do_not_share_their_limits() {
        let (mut limiter, now) = (RateLimiter::default(), Instant::now());
        assert_eq!(limiter.admit(Subject::FirstCompany, 1, now), Ok(()));
        assert_eq!(limiter.admit(Subject::SecondCompany, 1, now), Ok(()));
        assert_eq!(limiter.admit(Subject::FirstCompany, 1, now), Err(60));
    }

    #[test]
    fn a_lower_limit_counts_what_was_admitted_before() {
        let (mut limiter, now) = (RateLimiter::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(limiter.admit(Subject::FirstCompany, 3, now), Ok(()));
        }
        assert_eq!(limiter.admit(Subject::FirstCompany, 1, now), Err(60));
    }
}
